"""Provider keys of an account pay for its calls: by provider, order, member, key and model."""

from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.accounts.credentials import hash_token
from models.core import jobs
from models.core.audit_log import AuditLog
from models.core.sealing import SealBroken, open_sealed, seal
from models.gateway import ProviderKey
from models.gateway.provider_keys import (
    PROVIDERS,
    PURPOSE,
    ProviderKeyForm,
    add_provider_key,
    reseal_provider_keys,
)
from models.ledger import Account, IdempotentCall, balance, erase_account
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.fakes import upstream
from tests.fakes.upstream import FakeUpstream
from tests.orgs.forms import send

PATH = "/v1/chat/completions"
CALL: dict[str, Any] = {"model": "openai/gpt-5", "messages": [{"role": "user", "content": "Hello"}]}
SECRET = "sk-of-acme-1234567890"


@pytest.fixture
def key(session: OrmSession, acme: Org, alice: Person, bob: Person, gateway_app: Flask) -> str:
    """bob's key of acme, which has credits."""
    assert alice.user
    assert bob.user
    factories.grant(alice.user, 1000, type="organization", org_id=acme.id)
    gateway_app.extensions["gateway"].account_keys.clear()
    return factories.token(bob.user, org_id=acme.id)


def add(owner: Org | Person, by: Person, secret: str = SECRET, **more: Any) -> ProviderKey:
    account = owner.account if isinstance(owner, Person) else Account(org_id=owner.id)
    more = {"provider": "openai", "name": "Ours", **more}
    return factories.save(add_provider_key(account, by.id, ProviderKeyForm(secret=secret, **more)))


def test_call_is_paid_by_the_organisations_key(
    web: FlaskClient, fake: FakeUpstream, key: str, acme: Org, alice: Person, bob: Person, session: OrmSession,
    facts: Any,
) -> None:  # fmt: skip
    row = add(acme, alice)
    assert SECRET not in repr([row.sealed, [entry.after for entry in session.scalars(select(AuditLog))]])
    assert (row.hint, row.sealed.startswith("provider2:")) == ("7890", True)
    for body in (CALL, CALL | {"stream": True}):
        answer = web.post(PATH, json=body, headers={"authorization": f"Bearer {key}"})
        assert (answer.status_code, bool(answer.data)) == (200, True)
    assert {request.headers["authorization"] for request in fake.requests} == {f"Bearer {SECRET}"}
    assert [(message.byok, message.org_id) for message in facts.messages()] == [(True, acme.id)] * 2
    funds = balance(Account(org_id=acme.id))
    assert (funds.net_balance, funds.held) == (1000, 0)
    # a person's own call runs on the server's key
    assert bob.user
    factories.grant(bob.user, 100)
    web.post(PATH, json=CALL, headers=bob.headers)
    assert fake.requests[-1].headers["authorization"] == "Bearer sk-operator-openai"


def test_refusal_of_the_key_is_passed_on_without_it(
    web: FlaskClient, fake: FakeUpstream, key: str, acme: Org, alice: Person
) -> None:
    add(acme, alice)
    fake.will(
        upstream.answer({"error": {"message": f"Incorrect API key provided: {SECRET}", "code": 401}}, 401)
    )
    answer = web.post(PATH, json=CALL, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, SECRET in answer.text) == (401, False)


def test_calls_of_test_keys_do_not_use_it(web: FlaskClient, fake: FakeUpstream, rich: Person) -> None:
    add(rich, rich)
    web.application.extensions["gateway"].account_keys.clear()
    assert rich.user
    headers = {"authorization": f"Bearer {factories.api_key(rich.user, environment='test')}"}
    assert web.post(PATH, json=CALL, headers=headers).status_code == 200
    answer = web.post(
        "/v1/moderations", json={"model": "omni-moderation-latest", "input": "Hi"}, headers=headers
    )
    assert (answer.status_code, "Test keys" in answer.text) == (404, True)
    assert fake.requests == []


def test_restrictions_choose_the_key(
    web: FlaskClient, fake: FakeUpstream, gateway_app: Flask, key: str, acme: Org, alice: Person, bob: Person,
    session: OrmSession,
) -> None:  # fmt: skip
    def used() -> str:
        gateway_app.extensions["gateway"].account_keys.clear()
        web.post(PATH, json=CALL, headers={"authorization": f"Bearer {key}"})
        return fake.requests[-1].headers["authorization"].removeprefix("Bearer ")

    server = "sk-operator-openai"
    add(acme, alice, "for-alice-only", user_ids=[alice.id])
    add(acme, alice, "for-small-models", models=["openai/gpt-4o*"])
    assert used() == server
    everybody = add(acme, alice, "for-everybody")
    assert used() == "for-everybody"
    add(acme, alice, "for-gpt-5", models=["OPENAI/gpt-?"])
    assert used() == "for-gpt-5"
    add(acme, alice, "for-bobs-key", models=["openai/*"], user_ids=[bob.id], key_ids=[hash_token(key)])
    assert used() == "for-bobs-key"
    for row in session.scalars(select(ProviderKey).where(ProviderKey.id != everybody.id)):
        row.is_active = False
    session.commit()
    assert used() == "for-everybody"


@pytest.fixture
def browsers(gateway_app: Flask, fake: FakeUpstream, cast: dict[str, Person]) -> dict[str, Person]:
    """The cast, whose browsers open the server with providers."""
    for person in cast.values():
        person.browser.application = gateway_app
    return cast


FORM = {"provider": "openrouter", "name": "Research", "secret": SECRET, "models": "anthropic/*"}
WRONG: tuple[dict[str, str], ...] = (
    {"secret": "short"}, {"secret": "has spaces in it"}, {"name": ""}, {"provider": "acme"}, {"priority": "101"},
    {"priority": "-1"}, {"priority": "one"}, {"priority": "9" * 30}, {"key_ids": "0" * 64}, {"name": "\0"},
)  # fmt: skip


def test_keys_of_an_organisation_are_managed_by_admins(
    acme: Org, browsers: dict[str, Person], fake: FakeUpstream, session: OrmSession
) -> None:
    alice, bob, mallory = (browsers[name] for name in ("alice", "bob", "mallory"))
    page = "/orgs/acme/provider-keys"
    people = {"alice": 200, "carol": 200, "bob": 403, "dave": 403, "mallory": 404, "anonymous": 302}
    for name, status in people.items():
        person, posted = browsers[name], 303 if status in (200, 302) else status
        assert person.browser.get(page).status_code == status
        assert send(person, page, **FORM).status_code == posted
    rows = session.scalars(select(ProviderKey)).all()
    assert [(row.provider, row.models, row.org_id) for row in rows] == [
        ("openrouter", ["anthropic/*"], acme.id)
    ] * 2
    assert {request.path for request in fake.requests} == {"/openrouter/key"}
    assert SECRET not in alice.browser.get(page).text
    for wrong in (*WRONG, {"user_ids": mallory.id}, {"key_ids": hash_token(bob.token)}):
        answer = send(alice, page, **{**FORM, **wrong})
        assert (answer.status_code, SECRET in answer.text) == (422, False), wrong
    first = f"{page}/{rows[0].id}"
    for name, status in people.items():
        person, posted = browsers[name], 303 if status in (200, 302) else status
        assert send(person, first, priority="3").status_code == posted
        assert (
            person.browser.get(first).status_code
            == person.browser.get(f"{first}/removal").status_code
            == status
        )
    assert send(alice, first, priority="x").status_code == 422
    session.expire_all()
    assert (rows[0].priority, rows[0].is_active) == (3, False)
    assert send(mallory, f"{first}/removal").status_code == 404
    # nor is it a key of the person's
    assert send(alice, f"/provider-keys/{rows[0].id}/removal").status_code == 404
    assert send(alice, f"{first}/removal").status_code == 303
    assert send(alice, f"{first}/removal").status_code == 404
    entries = list(session.scalars(select(AuditLog).order_by(AuditLog.id)))
    assert [entry.action for entry in entries] == ["provider_key.added"] * 2 + [
        "provider_key.changed",
        "provider_key.removed",
    ]
    assert {entry.org_id for entry in entries} == {acme.id}


def test_keys_of_a_person_are_the_persons(
    browsers: dict[str, Person], fake: FakeUpstream, session: OrmSession
) -> None:
    alice, bob, anonymous = (browsers[name] for name in ("alice", "bob", "anonymous"))
    page = "/provider-keys"
    assert (
        send(alice, page, **FORM, priority="7", use_credits="1", key_ids=hash_token(alice.token)).status_code
        == 303
    )
    row = session.scalars(select(ProviderKey)).one()
    assert (row.user_id, row.org_id, row.priority, row.use_credits) == (alice.id, None, 7, True)
    shown = alice.browser.get(page).text
    assert ("…7890" in shown, SECRET in shown, "Use credits" in shown) == (True, False, True)
    for wrong in (*WRONG, {"user_ids": bob.id}, {"key_ids": hash_token(bob.token)}):
        assert send(alice, page, **{**FORM, **wrong}).status_code == 422, wrong
    one = f"{page}/{row.id}"
    for person, status in ((bob, 404), (browsers["mallory"], 404), (anonymous, 302)):
        posted = 303 if status == 302 else status
        assert "Research" not in person.browser.get(page).text
        assert person.browser.get(one).status_code == status
        assert (
            send(person, one, priority="1").status_code
            == send(person, f"{one}/removal").status_code
            == posted
        )
    assert send(alice, one, priority="1", active="1").status_code == 303
    session.expire_all()
    assert (row.priority, row.is_active, row.use_credits) == (1, True, False)
    fake.will(fakes_answer(401))
    refused = send(alice, page, **FORM)
    assert (refused.status_code, "OpenRouter does not accept this key" in refused.text) == (422, True)
    fake.will(fakes_answer(503))
    assert "could not be reached" in send(alice, page, **FORM).text
    assert send(alice, f"{one}/removal").status_code == 303
    assert session.scalars(select(ProviderKey)).all() == []
    assert {entry.org_id for entry in session.scalars(select(AuditLog))} == {None}


def fakes_answer(status: int) -> upstream.Behaviour:
    return upstream.answer({"error": {"message": "no"}}, status)


def test_json_routes(
    web: FlaskClient, fake: FakeUpstream, acme: Org, alice: Person, bob: Person, mallory: Person
) -> None:
    path = "/api/v1/provider-keys"
    body = {"provider": "anthropic", "name": "Mine", "key": SECRET, "priority": 2}
    made = web.post(path, json=body, headers=alice.headers)
    assert (made.status_code, made.json and made.json["key"]) == (201, "…7890")
    assert (fake.requests[0].path, fake.requests[0].headers["x-api-key"]) == ("/anthropic/models", SECRET)
    assert made.json
    one = f"{path}/{made.json['id']}"
    assert web.get(path, headers=alice.headers).json == {"keys": [made.json]}
    of_acme = {"authorization": f"Bearer {factories.token(alice.user, org_id=acme.id)}"}  # type: ignore[arg-type]
    for_calls = {"authorization": f"Bearer {factories.api_key(alice.user)}"}  # type: ignore[arg-type]
    for headers, status, listed in (
        (bob.headers, 404, 200),
        (mallory.headers, 404, 200),
        ({}, 401, 401),
        (of_acme, 403, 403),
        (for_calls, 403, 403),
    ):
        assert web.get(path, headers=headers).status_code == listed
        assert web.patch(one, json={"priority": 1}, headers=headers).status_code == status
        assert web.delete(one, headers=headers).status_code == status
        if listed != 200:
            assert web.post(path, json=body, headers=headers).status_code == status
    for wrong in ({"priority": 101}, {"priority": "1"}, {"priority": 1e30}, {"provider": "x"}, {"name": ""}, {"name": "a\0b"},
                  {"key": "\0" * 9}, {"key": 5}, {"models": "x"}, {"models": ["a b"]}, {"apiKeys": ["\0"]}, {"useCredits": 1}):  # fmt: skip
        assert web.post(path, json=body | wrong, headers=alice.headers).status_code == 400, wrong
    assert web.patch(one, json={"priority": 10**40}, headers=alice.headers).status_code == 400
    edited = web.patch(one, json={"active": False, "useCredits": True}, headers=alice.headers).json
    assert edited == made.json | {"active": False, "useCredits": True}
    assert web.get(f"{path}/%00", headers=alice.headers).status_code in (404, 405)
    assert web.delete(f"{path}/%00", headers=alice.headers).status_code == 404
    assert web.delete(one, headers=alice.headers).json == {"success": True}
    assert web.get(path, headers=alice.headers).json == {"keys": []}


def test_json_routes_of_an_organisation(
    web: FlaskClient, fake: FakeUpstream, acme: Org, cast: dict[str, Person], session: OrmSession
) -> None:
    """Owner and admin manage its keys; others get what the page says, before their body is read."""
    path, body = "/api/v1/provider-keys", {"provider": "openai", "name": "Ours", "key": SECRET}
    alice, bob = cast["alice"], cast["bob"]
    made = web.post(f"{path}?org=acme", json=body | {"userIds": [bob.id]}, headers=alice.headers)
    assert made.status_code == 201
    assert made.json
    row = session.scalars(select(ProviderKey)).one()
    assert (row.org_id, row.user_id, made.json["userIds"]) == (acme.id, None, [bob.id])
    one = f"{path}/{row.id}"
    of_acme = {"authorization": f"Bearer {factories.token(alice.user, org_id=acme.id)}"}  # type: ignore[arg-type]
    people = {"alice": 200, "carol": 200, "bob": 403, "dave": 403, "mallory": 404, "anonymous": 401}
    callers = [(cast[name].headers, status) for name, status in people.items()]
    for headers, status in [*callers, (of_acme, 403)]:
        for org in ("acme", acme.id):
            assert web.get(f"{path}?org={org}", headers=headers).status_code == status
        assert web.patch(f"{one}?org=acme", json={"priority": 7}, headers=headers).status_code == status
        own = status if headers is of_acme or status == 401 else 404  # nor is it a key of the person's
        assert web.patch(one, json={"priority": 1}, headers=headers).status_code == own
        if status != 200:
            assert web.post(f"{path}?org=acme", json=5, headers=headers).status_code == status
            assert web.delete(f"{one}?org=acme", headers=headers).status_code == status
    for org in ("nowhere", "%00", "", "x" * 5000):
        assert web.get(f"{path}?org={org}", headers=alice.headers).status_code == 404
    for wrong in ({"userIds": [cast["mallory"].id]}, {"apiKeys": [hash_token(bob.token)]}, {"userIds": "x"}):
        assert web.post(f"{path}?org=acme", json=body | wrong, headers=alice.headers).status_code == 400
    acme.sso_enforced_at = factories.now()
    session.commit()
    refused = web.get(f"{path}?org=acme", headers=alice.headers)
    assert (refused.status_code, "single sign-on" in refused.text) == (403, True)
    acme.sso_enforced_at = None
    session.commit()
    assert web.get(path, headers=alice.headers).json == {"keys": []}
    assert web.delete(f"{one}?org=acme", headers=cast["carol"].headers).json == {"success": True}
    assert {entry.org_id for entry in session.scalars(select(AuditLog))} == {acme.id}


def test_persons_key_pays_and_fails_as_theirs(
    web: FlaskClient, fake: FakeUpstream, gateway_app: Flask, rich: Person, bob: Person, facts: Any
) -> None:
    def call(stream: bool = False) -> Any:
        gateway_app.extensions["gateway"].account_keys.clear()
        fake.requests.clear()
        return web.post(PATH, json=CALL | {"stream": stream}, headers=rich.headers)

    def used() -> list[str]:
        return [request.headers["authorization"].removeprefix("Bearer ") for request in fake.requests]

    first = add(rich, rich, "first-own-key", name="First", priority=1)
    second = add(rich, rich, "second-own-key", name="Second", priority=2, models=["openai/gpt-5"])
    large = upstream.usage(100_000, 2_000)
    fake.will(upstream.answer(upstream.completion(use=large)))
    assert (call().status_code, used()) == (200, ["first-own-key"])
    assert [(message.byok, message.credits > 0) for message in facts.messages()] == [(True, True)]
    assert balance(rich.account).net_balance == 1000
    # the next one is tried when the first is refused
    refused = upstream.answer({"error": {"message": "Incorrect API key: first-own-key"}}, 401)
    fake.will(refused, upstream.answer())
    assert (call().status_code, used()) == (200, ["first-own-key", "second-own-key"])
    # never the server's key, unless each key allows it
    server = "sk-operator-openai"
    for allowed in (False, True):
        fake.will(refused, refused, upstream.stream(upstream.chunks(use=large)))
        first.use_credits = True
        second.use_credits = allowed
        factories.save(first)
        answer = call(stream=allowed)
        answer.data  # noqa: B018 - read to the end
        assert (answer.status_code, used()) == (
            (200, ["first-own-key", "second-own-key", server])
            if allowed
            else (401, ["first-own-key", "second-own-key"])
        )
        if not allowed:
            assert (
                answer.json["error"]["message"]
                == "OpenAI refused your own key 'First': Incorrect API key: [key]"
            )
            assert balance(rich.account).net_balance == 1000
    assert facts.messages()[-1].byok is False
    assert balance(rich.account).net_balance < 1000
    # a request that is wrong is the caller's, with any key
    fake.will(upstream.answer({"error": {"message": "Bad request"}}, 400))
    assert (call().status_code, used()) == (400, ["first-own-key"])
    # and nobody else's call uses the keys
    assert bob.user
    factories.grant(bob.user, 100)
    fake.will(upstream.answer())
    fake.requests.clear()
    web.post(PATH, json=CALL, headers=bob.headers)
    assert used() == [server]


def test_key_is_used_where_the_server_has_none(
    web: FlaskClient, fake: FakeUpstream, gateway_app: Flask, rich: Person, bob: Person, facts: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    routes = gateway_app.extensions["gateway"].routes

    def call(who: Person = rich, **more: Any) -> tuple[int, str]:
        gateway_app.extensions["gateway"].account_keys.clear()
        fake.requests.clear()
        routes._routes.clear()
        answer = web.post(PATH, json=CALL | more, headers=who.headers)
        return answer.status_code, fake.requests[0].path if fake.requests else answer.json["error"]["code"]

    def without(*names: str) -> None:
        for name in names:
            provider = routes.providers[name]
            monkeypatch.setattr(provider, "endpoint", replace(provider.endpoint, key=None))

    add(rich, rich)
    without("openai")
    # the server sends the model to OpenRouter
    assert (call(), call(bob)) == ((200, "/openai/chat/completions"), (402, "insufficient_credits"))
    without("openrouter")
    assert call() == call(stream=True) == (200, "/openai/chat/completions")
    assert {(message.byok, message.model) for message in facts.messages()} == {(True, "openai/gpt-5-mini")}
    assert balance(rich.account).net_balance == 1000
    assert call(model="no/such") == (404, "model_not_found")
    fake.will(upstream.answer({"error": {"message": "Revoked"}}, 401))
    answer = web.post(PATH, json=CALL, headers=rich.headers)
    assert "OpenAI refused your own key 'Ours': Revoked" in answer.text
    assert bob.user
    factories.grant(bob.user, 100)
    assert call(bob) == (404, "model_not_found")
    # one at OpenRouter serves the rest
    add(rich, rich, "or-key-12345", provider="openrouter")
    fake.will(upstream.answer())
    assert call(model="meta-llama/llama-3-70b-instruct") == (200, "/openrouter/chat/completions")


def test_keys_and_answers_end_with_the_account(
    web: FlaskClient, fake: FakeUpstream, rich: Person, session: OrmSession
) -> None:
    add(rich, rich)
    assert web.post(PATH, json=CALL, headers={**rich.headers, "Idempotency-Key": "1"}).status_code == 200
    assert session.scalars(select(IdempotentCall.user_id)).all() == [rich.id]
    erase_account(rich.id)
    session.execute(delete(User).where(User.id == rich.id))
    session.commit()
    assert session.scalars(select(IdempotentCall)).all() == session.scalars(select(ProviderKey)).all() == []


def test_encryption_is_bound_to_owner_and_provider(
    web: FlaskClient, fake: FakeUpstream, gateway_app: Flask, rich: Person, bob: Person, session: OrmSession
) -> None:
    def used() -> str:
        gateway_app.extensions["gateway"].account_keys.clear()
        web.post(PATH, json=CALL, headers=rich.headers)
        return fake.requests[-1].headers["authorization"].removeprefix("Bearer ")

    mine, stolen = add(rich, rich), add(bob, bob, "bobs-own-key", provider="gemini")
    assert used() == SECRET
    secret_key = gateway_app.extensions["settings"].secret_key
    mine.sealed = stolen.sealed
    session.commit()
    assert used() == "sk-operator-openai"
    with pytest.raises(SealBroken):
        open_sealed(secret_key, PURPOSE, stolen.sealed, context=f"{bob.id}:openai")
    # keys of earlier releases work, and are bound by the daily job
    mine.sealed = seal(secret_key, PURPOSE, b"older-own-key")
    session.commit()
    assert used() == "older-own-key"
    jobs.reseal_provider_keys(0)
    assert reseal_provider_keys() == 0
    session.commit()
    assert (mine.sealed.startswith("provider2:"), used()) == (True, "older-own-key")


def test_every_provider_of_the_server_may_have_keys(gateway_app: Flask) -> None:
    router = gateway_app.extensions["gateway"].routes
    assert set(router.providers) - {"stoa"} == set(PROVIDERS)
