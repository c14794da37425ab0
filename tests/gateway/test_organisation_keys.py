"""Provider keys of an organisation pay for its calls: by provider, member, key and model."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts.credentials import hash_token
from models.core.audit_log import AuditLog
from models.ledger import Account, balance
from models.orgs import Org, OrgProviderKey
from models.orgs.provider_keys import PROVIDERS, ProviderKeyForm, add_provider_key
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
    gateway_app.extensions["gateway"].organisation_keys.clear()
    return factories.token(bob.user, org_id=acme.id)


def add(org: Org, by: Person, secret: str = SECRET, **restrictions: Any) -> OrgProviderKey:
    row = add_provider_key(org, by.id, ProviderKeyForm("openai", "Ours", secret, **restrictions))
    return factories.save(row)


def test_call_is_paid_by_the_organisations_key(
    web: FlaskClient, fake: FakeUpstream, key: str, acme: Org, alice: Person, bob: Person, session: OrmSession,
    facts: Any,
) -> None:  # fmt: skip
    row = add(acme, alice)
    assert SECRET not in repr([row.sealed, [entry.after for entry in session.scalars(select(AuditLog))]])
    assert (row.hint, row.sealed.startswith("provider1:")) == ("7890", True)
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


def test_restrictions_choose_the_key(
    web: FlaskClient, fake: FakeUpstream, gateway_app: Flask, key: str, acme: Org, alice: Person, bob: Person,
    session: OrmSession,
) -> None:  # fmt: skip
    def used() -> str:
        gateway_app.extensions["gateway"].organisation_keys.clear()
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
    for row in session.scalars(select(OrgProviderKey).where(OrgProviderKey.id != everybody.id)):
        row.is_active = False
    session.commit()
    assert used() == "for-everybody"


def test_keys_are_managed_by_admins(
    acme: Org, alice: Person, bob: Person, carol: Person, dave: Person, mallory: Person, session: OrmSession
) -> None:
    page = "/orgs/acme/provider-keys"
    form = {"provider": "openrouter", "name": "Research", "secret": SECRET, "models": "anthropic/*"}
    people = ((alice, 200), (carol, 200), (bob, 403), (dave, 403), (mallory, 404))
    for person, status in people:
        assert person.browser.get(page).status_code == status
        assert send(person, page, **form).status_code == (303 if status == 200 else status)
    rows = session.scalars(select(OrgProviderKey)).all()
    assert [(row.provider, row.models, row.user_ids) for row in rows] == [
        ("openrouter", ["anthropic/*"], None)
    ] * 2
    assert SECRET not in alice.browser.get(page).text
    for wrong in ({"secret": "short"}, {"secret": "has spaces in it"}, {"name": ""}, {"provider": "acme"},
                  {"user_ids": mallory.id}, {"key_ids": hash_token(bob.token)}):  # fmt: skip
        answer = send(alice, page, **{**form, **wrong})
        assert (answer.status_code, SECRET in answer.text) == (422, False), wrong
    first = f"{page}/{rows[0].id}"
    for person, status in people:
        expected = 303 if status == 200 else status
        assert send(person, f"{first}/activity", active="0").status_code == expected
        assert person.browser.get(f"{first}/removal").status_code == status
    assert send(mallory, f"{first}/removal").status_code == 404
    assert send(alice, f"{first}/removal").status_code == 303
    assert send(alice, f"{first}/removal").status_code == 404
    actions = list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))
    assert actions == ["provider_key.added"] * 2 + ["provider_key.changed", "provider_key.removed"]


def test_every_provider_of_the_server_may_have_keys(gateway_app: Flask) -> None:
    router = gateway_app.extensions["gateway"].routes
    assert set(router.providers) - {"stoa"} == set(PROVIDERS)
