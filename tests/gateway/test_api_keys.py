"""Keys with an id of their own at the doors of model calls: secret, scopes, lists, expiry, rotation, test keys, strict keys."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts import ApiKey, Session, scopes
from models.accounts.api_keys import rotate
from models.accounts.key_format import new_secret, present
from models.ledger import Budget, balance
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream

PATH = "/v1/chat/completions"
CALL: dict[str, Any] = {"model": "openai/gpt-5", "messages": [{"role": "user", "content": "Hello"}]}
DEMO = CALL | {"model": "stoa/demo", "max_tokens": 20}


def post(web: FlaskClient, key: str, body: Any = DEMO, path: str = PATH, **headers: str) -> tuple[int, str]:
    """The status, and the error's code or an empty text."""
    answer = web.post(path, json=body, headers={"authorization": f"Bearer {key}", **headers})
    error = answer.json.get("error") or {}
    return answer.status_code, error.get("code") or ""


def test_only_the_whole_key_works_and_says_when_it_expired(
    web: FlaskClient, rich: Person, session: OrmSession
) -> None:
    assert rich.user
    key = factories.api_key(rich.user)
    assert post(web, key) == (200, "")
    assert web.post(PATH, json=DEMO, headers={"x-api-key": key}).status_code == 200
    other = new_secret(key[:32])  # the public id is no secret
    for wrong in (other, key[:32], key[:-1], key + "x", key[:40] + "." + key[41:]):
        assert post(web, wrong) == (401, "invalid_api_key")
    row = session.get_one(Session, key[:32])
    row.expires = factories.now() - timedelta(seconds=1)
    session.commit()
    assert post(web, key) == (401, "key_expired")
    assert post(web, other) == (401, "invalid_api_key")
    row.disabled_at = factories.now()
    session.commit()
    assert post(web, key) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    ("rules", "body", "code"),
    [
        ({"permissions": []}, DEMO, "insufficient_permissions"),
        ({"permissions": ["inference:images", "agents:run"]}, DEMO, "insufficient_permissions"),
        ({"permissions": ["chat"]}, DEMO, ""),
        ({"allowed_models": ["OpenAI/*"]}, DEMO, "model_not_allowed"),
        ({"allowed_models": ["openai/*", "stoa/demo"]}, DEMO, ""),
        ({"allowed_ips": ["10.0.0.0/8", "2001:db8::/32"]}, DEMO, "ip_not_allowed"),
        ({"allowed_ips": ["127.0.0.1"]}, DEMO, ""),
        ({"allowed_agents": ["acme/*"]}, DEMO, "agent_not_allowed"),
    ],
)
def test_rules_of_a_key_refuse_before_anything_is_held(
    web: FlaskClient, rich: Person, facts: Any, rules: dict[str, Any], body: Any, code: str
) -> None:
    assert rich.user
    key = factories.api_key(rich.user, **rules)
    assert post(web, key, body) == (403 if code else 200, code)
    assert facts.holds() == 0
    assert len(facts.messages()) == (0 if code else 1)


def test_a_key_for_certain_agents_works_in_their_runs(web: FlaskClient, rich: Person) -> None:
    assert rich.user
    run = factories.id_of(factories.run(rich.user, agent_id="acme/reviewer@1.0.0"))
    for agents, status in ((["acme/reviewer"], 200), (["acme/*"], 200), (["acme/other"], 403)):
        key = factories.api_key(rich.user, allowed_agents=agents)
        assert post(web, key, DEMO, **{"x-stoa-run-id": run})[0] == status


def test_both_secrets_work_until_the_grace_ends(web: FlaskClient, rich: Person, session: OrmSession) -> None:
    assert rich.user
    first = factories.api_key(rich.user)
    row = session.scalars(select(ApiKey)).one()
    credential = session.get_one(Session, row.key_id)
    second = rotate(row, credential, grace=timedelta(hours=1), now=factories.now())
    session.commit()
    assert [post(web, each)[0] for each in (first, second)] == [200, 200]
    third = rotate(row, credential, grace=timedelta(hours=1), now=factories.now())
    session.commit()
    assert [post(web, each)[0] for each in (first, second, third)] == [401, 200, 200]
    assert {present(each).id for each in (first, second, third)} == {row.key_id}
    session.execute(update(ApiKey).values(prev_valid_until=factories.now()))
    session.commit()
    assert [post(web, each)[0] for each in (second, third)] == [401, 200]
    rotate(row, credential, grace=timedelta(), now=factories.now())
    session.commit()
    assert post(web, third)[0] == 401


def test_a_test_key_gets_the_demo_model_for_every_name_and_pays_nothing(
    web: FlaskClient, fake: FakeUpstream, alice: Person, facts: Any
) -> None:
    assert alice.user  # who has no credits
    key = factories.api_key(alice.user, environment="test")
    for body in (CALL, CALL | {"stream": True}, CALL | {"model": "no/such-model"}):
        answer = web.post(PATH, json=body, headers={"authorization": f"Bearer {key}"})
        assert (answer.status_code, bool(answer.data)) == (200, True)
    claude = {"model": "claude-opus-4-8", "max_tokens": 50, "messages": CALL["messages"]}
    answer = web.post("/v1/messages", json=claude, headers={"x-api-key": key})
    assert (answer.status_code, answer.json["type"]) == (200, "message")
    assert fake.requests == []
    found = [(m.credits, m.key_id, m.model) for m in facts.messages()]
    assert found == [(0, key[:32], "stoa/demo")] * 4
    assert facts.holds() == 0
    assert balance(alice.account).net_balance == 0
    listed = alice.browser.get("/calls").text
    assert listed.count(">Test<") == 4


def test_a_strict_key_refuses_what_would_be_dropped(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Any
) -> None:
    assert rich.user
    strict, usual = (factories.api_key(rich.user, is_strict=each) for each in (True, False))
    body = {
        "model": "openai/gpt-5",
        "max_tokens": 50,
        "context_management": {"edits": []},
        "messages": CALL["messages"],
    }
    answer = web.post("/v1/messages", json=body, headers={"x-api-key": usual})
    assert (answer.status_code, answer.headers["X-Stoa-Dropped"]) == (200, "context_management")
    fake.requests.clear()
    answer = web.post("/v1/messages", json=body, headers={"x-api-key": strict})
    assert (answer.status_code, answer.json["type"]) == (400, "error")
    assert "context_management" in answer.json["error"]["message"]
    assert (fake.requests, facts.holds()) == ([], 0)
    del body["context_management"]
    assert web.post("/v1/messages", json=body, headers={"x-api-key": strict}).status_code == 200


def test_calls_in_flight_are_counted_by_the_ledger(
    web: FlaskClient, rich: Person, session: OrmSession
) -> None:
    assert rich.user
    key = factories.api_key(rich.user, concurrency_limit=1)
    hold = factories.hold(rich.account, 1, key_id=key[:32])
    answer = web.post(PATH, json=DEMO, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer.headers["Retry-After"] == "1"
    session.delete(hold)
    session.commit()
    assert post(web, key) == (200, "")


def test_a_budget_of_a_persons_key_refuses_its_calls_only(web: FlaskClient, rich: Person) -> None:
    assert rich.user
    first, other = (factories.api_key(rich.user) for _ in range(2))
    budget = Budget(account_id=rich.id, level="key", subject=first[:32], period="day", limit_credits=0)
    factories.save(budget)
    body = CALL | {"messages": [{"role": "user", "content": "word " * 4000}]}
    assert post(web, first, body) == (402, "budget_exceeded")
    assert post(web, other, body)[0] == 200


def test_a_revoked_key_is_kept_and_its_calls_stay_listed(
    web: FlaskClient, rich: Person, session: OrmSession, facts: Any
) -> None:
    assert rich.user
    key = factories.api_key(rich.user, name="laptop")
    assert post(web, key) == (200, "")
    session.delete(session.get_one(Session, key[:32]))
    session.commit()
    assert post(web, key) == (401, "invalid_api_key")
    row = session.scalars(select(ApiKey)).one()
    session.refresh(row)
    assert (row.name, row.active, row.expires_at) == ("laptop", False, row.expires_at)
    assert row.revoked_at
    assert "laptop" in rich.browser.get(f"/calls/{facts.calls()[0].request_id}").text
    assert row.last_used_at


HEADERS = [
    f"x-ratelimit-{fact}-{unit}"
    for fact in ("limit", "remaining", "reset")
    for unit in ("requests", "tokens")
]


def test_calls_a_minute_are_limited_and_the_headers_count_down(
    web: FlaskClient, rich: Person, facts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rich.user
    key = factories.api_key(rich.user, rpm_limit=3)
    answers = [web.post(PATH, json=DEMO, headers={"authorization": f"Bearer {key}"}) for _ in range(4)]
    assert [(a.status_code, a.headers["x-ratelimit-remaining-requests"]) for a in answers] == [
        (200, "2"), (200, "1"), (200, "0"), (429, "0"),
    ]  # fmt: skip
    refused = answers[-1]
    assert refused.json["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
    assert "x-ratelimit-limit-tokens" not in refused.headers
    # a process that does not know the key counts after the admission, and holds nothing for what it refuses
    web.application.extensions["gateway"].limits._known.clear()
    assert post(web, key) == (429, "rate_limit_exceeded")
    assert facts.holds() == 0
    # another key, and a wrong secret for this one, are not counted with it
    assert post(web, factories.api_key(rich.user)) == (200, "")
    assert post(web, new_secret(key[:32])) == (401, "invalid_api_key")


def test_tokens_a_minute_are_counted_when_a_call_is_settled(web: FlaskClient, rich: Person) -> None:
    assert rich.user
    key = factories.api_key(rich.user, tpm_limit=200)
    call = DEMO | {"max_tokens": 10}
    first = web.post(PATH, json=call, headers={"authorization": f"Bearer {key}"})
    used = first.json["usage"]["total_tokens"]
    found = web.post(PATH, json=call, headers={"authorization": f"Bearer {key}"})
    left = int(found.headers["x-ratelimit-remaining-tokens"])
    assert found.status_code == 200
    assert left <= 200 - used
    statuses = {post(web, key, call)[0] for _ in range(12)}
    assert 429 in statuses


def test_new_keys_have_the_servers_default_and_older_ones_none(
    web: FlaskClient, rich: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rich.user
    key = factories.api_key(rich.user, environment="test")
    answer = web.post(PATH, json=DEMO, headers={"authorization": f"Bearer {key}"})
    assert answer.headers["x-ratelimit-limit-requests"] == "100"
    older = web.post(PATH, json=DEMO, headers=rich.headers)
    assert not [name for name in HEADERS if name in older.headers]


def test_a_key_reads_its_rules_and_what_is_left(web: FlaskClient, rich: Person) -> None:
    assert rich.user
    key = factories.api_key(
        rich.user, permissions=["chat"], rpm_limit=5, tpm_limit=10_000, allowed_models=["stoa/*"]
    )
    assert post(web, key) == (200, "")
    data = web.get("/v1/key", headers={"authorization": f"Bearer {key}"}).json["data"]
    assert (data["key_id"], data["environment"], data["scopes"]) == (key[:32], "live", ["inference:chat"])
    assert (data["allowed_models"], data["strict"], data["expires_at"]) == (["stoa/*"], False, None)
    limits = data["rate_limits"]
    assert limits["requests"] == {"limit": 5, "remaining": 4}
    assert 9_000 < limits["tokens"]["remaining"] < 10_000
    assert limits["parallel"] == {"limit": None, "remaining": None}
    older = web.get("/v1/key", headers=rich.headers).json["data"]
    assert (older["key_id"], older["rate_limits"]["requests"]["limit"]) == (None, None)
    assert older["scopes"] == [*scopes.NAMES]
    nothing = factories.api_key(rich.user, permissions=[])
    assert web.get("/v1/key", headers={"authorization": f"Bearer {nothing}"}).status_code == 403
