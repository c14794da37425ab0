"""What Claude Code gets beside the Messages API: its caps, refusals that it prints or recovers from, managed settings."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.gateway.spend_caps import PREFIX, SpendCap, cap_headers, fullest
from models.ledger import Account, budgets
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer
from tests.gateway.conftest import MESSAGES
from tests.orgs.forms import send

CLAUDE = {
    "user-agent": "claude-cli/2.1.332 (external, cli)",
    "anthropic-version": "2023-06-01",
    "x-claude-code-session-id": "3f1c0f52-7f3c-4d7e-9d9e-0c58a4f2a001",
}
HELLO: dict[str, Any] = {"model": "openai/house-model", "max_tokens": 50, "messages": MESSAGES}
NATIVE = {**HELLO, "model": "claude-sonnet-4.5"}
AT = datetime(2026, 12, 1, tzinfo=UTC)


def unified(headers: Any) -> dict[str, str]:
    return {name[len(PREFIX) :]: value for name, value in headers.items() if name.startswith(PREFIX)}


@pytest.fixture
def caps(gateway_app: Flask) -> None:
    gateway_app.extensions["gateway"].caller_caps.clear()


@pytest.fixture
def member(
    web: FlaskClient, caps: None, session: OrmSession, acme: Org, alice: Person, bob: Person
) -> Callable[..., Any]:
    """Send a call with bob's key of acme."""
    assert alice.user
    assert bob.user
    factories.grant(alice.user, 1000, "organization", org_id=acme.id)
    session.commit()
    headers = {"authorization": f"Bearer {factories.token(bob.user, org_id=acme.id)}"}

    def post(path: str = "/v1/messages", client: dict[str, str] = CLAUDE, **changes: Any) -> Any:
        body = {**HELLO, **changes}
        if path.startswith("/api") or path.startswith("/managed"):
            return web.get(path, headers={**headers, **client})
        return web.post(path, json=body, headers={**headers, **client})

    return post


@pytest.mark.parametrize(
    ("limit", "spent", "expected"),
    [
        (1000, 0, ("allowed", "0.00", None)),
        (1000, 749, ("allowed", "0.74", None)),
        (1000, 750, ("allowed_warning", "0.75", "0.75")),
        (1000, 950, ("allowed_warning", "0.95", "0.95")),
        (1000, 1200, ("allowed_warning", "0.99", "0.95")),
        (0, 0, ("allowed_warning", "0.99", "0.95")),
    ],
)
def test_headers_of_a_cap(limit: int, spent: int, expected: tuple[str, str, str | None]) -> None:
    found = unified(cap_headers(SpendCap("month", "member", limit, spent, AT)))
    threshold = found.pop("overage-surpassed-threshold", None)
    assert (found["status"], found["overage-utilization"], threshold) == expected
    assert found == {
        "status": expected[0],
        "overage-status": expected[0],
        "representative-claim": "overage",
        "overage-utilization": expected[1],
        "reset": "1796083200",
        "overage-reset": "1796083200",
    }
    assert cap_headers(fullest([])) == {}


def test_a_capped_member_is_warned_and_then_refused_in_our_words(
    member: Callable[..., Any], session: OrmSession, acme: Org, gateway_app: Flask
) -> None:
    assert unified(member().headers) == {}
    account = Account(org_id=acme.id)
    budget = budgets.create_budget(account, "member", "month", 100)
    id = budget.id
    session.commit()
    assert unified(member().headers) == {}, "cached for a few seconds"
    gateway_app.extensions["gateway"].caller_caps.clear()
    for stream in (False, True):
        assert unified(member(stream=stream).headers)["status"] == "allowed"
    assert unified(member(client={}).headers) == {}, "for Claude Code only"
    assert unified(member("/v1/chat/completions").headers) == {}
    budgets.change_budget(account, id, limit_credits=0, warn_percent=80, hard=True, count_byok=False)
    session.commit()
    refused = member()
    error = refused.json["error"]
    assert (refused.status_code, error["type"]) == (429, "billing_error")
    for part in ("budget of the member bob", "resets in", f"http://localhost:8000/budgets/{id}"):
        assert part in error["message"]
    assert (refused.headers["x-should-retry"], int(refused.headers["retry-after"]) > 0) == ("false", True)
    found = unified(refused.headers)
    usage = member("/api/oauth/usage").json
    reset = datetime.fromisoformat(usage["limits"][0]["resets_at"]).timestamp()
    assert found.pop("reset") == found.pop("overage-reset") == str(int(reset))
    assert found == {
        "status": "rejected",
        "overage-utilization": "1",
        "overage-surpassed-threshold": "1",
        "overage-disabled-reason": "org_spend_cap_reached",
        "overage-period": "monthly",
    }
    # other clients get what they know
    assert member(client={}).status_code == 402


def test_a_shared_pool_is_named(member: Callable[..., Any], session: OrmSession, acme: Org) -> None:
    budgets.create_budget(Account(org_id=acme.id), "account", "day", 0)
    session.commit()
    found = unified(member().headers)
    assert (found["overage-scope"], found["overage-period"]) == ("group_pool", "monthly")


def test_a_plan_is_a_cap(web: FlaskClient, caps: None, session: OrmSession, bob: Person) -> None:
    assert bob.user
    factories.subscription(bob.user, factories.plan(("day", 24, 1_000), ("week", 168, 5_000)))
    session.commit()
    headers = {**bob.headers, **CLAUDE}
    allowed = web.post("/v1/messages", json=HELLO, headers=headers)
    assert (allowed.status_code, unified(allowed.headers)["status"]) == (200, "allowed")
    rows = (web.get("/api/oauth/usage", headers=headers).json or {})["limits"]
    assert [(row["group"], row["percent"]) for row in rows][-1] == ("weekly", 0)
    assert sum(row["is_active"] for row in rows) == 1


def test_usage_without_and_with_caps(
    member: Callable[..., Any], web: FlaskClient, session: OrmSession, acme: Org, bob: Person
) -> None:
    assert bob.user
    member()
    without = member("/api/oauth/usage")
    assert (without.status_code, without.headers["Cache-Control"]) == (200, "no-store")
    found = without.json
    spent = found["extra_usage"].pop("used_credits")
    zero = {"limit": None, "used_credits": spent, "utilization": None}
    assert found == {
        "extra_usage": {
            "is_enabled": True,
            "monthly_limit": None,
            "utilization": None,
            "currency": "USD",
            "daily": zero,
            "weekly": zero,
        },
        "limits": [],
    }
    account = Account(org_id=acme.id)
    budgets.create_budget(account, "member", "week", 400)
    budgets.create_budget(account, "account", "total", 500)
    budgets.create_budget(account, "member", "day", 300, hard=False)
    session.commit()
    found = member("/api/oauth/usage").json
    assert {row["group"]: row["resets_at"] is None for row in found["limits"]} == {
        "total": True,
        "weekly": False,
    }
    assert sum(row["is_active"] for row in found["limits"]) == 1
    assert found["extra_usage"]["monthly_limit"] in (400, 500)
    for key, status in ((None, 401), ("cb-pat-x", 401)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        refused = web.get("/api/oauth/usage", headers=headers)
        assert (refused.status_code, (refused.json or {})["error"]["type"]) == (
            status,
            "authentication_error",
        )


# -- refusals ------------------------------------------------------------------------------------------------

RECOVERABLE = [
    (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    (400, "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000, decrease input length or `max_tokens` and try again"),
    (400, "messages.1.content.0: Invalid `signature` in `thinking` block"),
    (400, "messages.3.content.0.type: Expected `thinking` or `redacted_thinking`, but found `text`"),
    (400, "output_config.effort: Input should be 'low', 'medium' or 'high'"),
    (400, "output_config.format: structured outputs are not supported by this model"),
    (400, "messages.0.content.1.image.source.base64: image exceeds 5 MB maximum: 6291456 bytes > 5242880 bytes"),
    (400, "messages.0.content.1: Could not process image"),
    (400, "messages.2.content.0.document: A maximum of 100 PDF pages may be provided."),
    (400, "A maximum of 4 blocks with cache_control may be provided. Found 5."),
    (400, 'messages.4.role: Input should be "user" or "assistant", not "system"'),
    (400, "Unexpected value(s) `new-beta-2026-11-01` for the `anthropic-beta` header."),
    (413, "Request exceeds the maximum size"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "message"), RECOVERABLE)
@pytest.mark.parametrize("stream", [False, True])
def test_the_wording_of_anthropics_errors_is_unchanged(
    web: FlaskClient, rich: Person, fake: FakeUpstream, status: int, message: str, stream: bool
) -> None:
    kind = "request_too_large" if status == 413 else "invalid_request_error"
    sent = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    fake.will(answer(sent, status))
    found = web.post("/v1/messages", json={**NATIVE, "stream": stream}, headers={**rich.headers, **CLAUDE})
    body = found.json or {}
    assert (found.status_code, body["error"]) == (status, {"type": kind, "message": message})


def test_refusals_by_policy(web: FlaskClient, caps: None, session: OrmSession, rich: Person) -> None:
    assert rich.user
    key = factories.api_key(rich.user, allowed_models=["claude-*"])
    headers = {"authorization": f"Bearer {key}"}
    blocked = web.post("/v1/messages", json=HELLO, headers={**headers, **CLAUDE})
    error = (blocked.json or {})["error"]
    assert (blocked.status_code, error["type"], blocked.headers["x-should-retry"]) == (
        400,
        "policy_blocked",
        "false",
    )
    assert (blocked.json or {})["request_id"] == blocked.headers["X-Request-Id"]
    assert web.post("/v1/messages", json=HELLO, headers=headers).status_code == 403
    unknown = web.post("/v1/messages", json=HELLO, headers={"authorization": "Bearer cb-pat-x", **CLAUDE})
    assert (unknown.status_code, unknown.headers["x-should-retry"]) == (401, "false")


def test_safeguards_that_cannot_be_passed_on_are_refused_by_name(
    web: FlaskClient, rich: Person, fake: FakeUpstream
) -> None:
    body = {**HELLO, "safeguards": {"auto_mode": True}}
    refused = web.post("/v1/messages", json=body, headers={**rich.headers, **CLAUDE})
    error = (refused.json or {})["error"]
    assert (refused.status_code, error["type"]) == (400, "invalid_request_error")
    assert "safeguards" in error["message"]
    web.post(
        "/v1/messages",
        json={**NATIVE, "tags": {"team": "a"}, "safeguards": {}},
        headers={**rich.headers, **CLAUDE},
    )
    sent = fake.requests[-1].body
    assert (sent["tags"], sent["safeguards"]) == ({"team": "a"}, {})


# -- managed settings and telemetry --------------------------------------------------------------------------

SETTINGS = {"env": {"B": "2", "A": "é"}, "model": "claude-sonnet-4-5", "n": 1.0}


def test_settings_of_an_organisation(
    web: FlaskClient, session: OrmSession, acme: Org, alice: Person, bob: Person, mallory: Person
) -> None:
    assert bob.user
    org_key = {"authorization": f"Bearer {factories.token(bob.user, org_id=acme.id)}"}
    slug, org_id = acme.slug, acme.id

    def fetch(headers: dict[str, str], **more: str) -> Any:
        return web.get("/managed/settings", headers={**headers, **more})

    assert fetch(org_key).status_code == 404
    assert fetch({}).status_code == 401
    path = f"/orgs/{slug}/client-settings"
    assert send(alice, path, settings=json.dumps(SETTINGS)).status_code == 303
    for headers in (org_key, bob.headers, alice.headers):
        found = fetch(headers)
        assert (found.status_code, found.json["uuid"]) == (200, org_id)
        assert found.json["settings"] == SETTINGS
    checksum = found.json["checksum"]
    compact = '{"env":{"A":"é","B":"2"},"model":"claude-sonnet-4-5","n":1}'

    assert checksum == "sha256:" + hashlib.sha256(compact.encode()).hexdigest()
    assert found.headers["ETag"] == f'"{checksum}"'
    known = fetch(org_key, **{"If-None-Match": f'"{checksum}"'})
    assert (known.status_code, known.data) == (304, b"")
    assert fetch(org_key, **{"If-None-Match": '"sha256:other"'}).status_code == 200
    assert fetch(org_key, **{"If-None-Match": "*"}).status_code == 200
    assert fetch(mallory.headers).status_code == 404
    logged = session.scalars(select(AuditLog).where(AuditLog.action == "client_settings.changed")).one()
    assert (logged.org_id, (logged.after or {})["changed"]) == (org_id, ["env", "model", "n"])
    assert "é" not in repr(logged.after)
    assert send(alice, path, settings=" ").status_code == 303
    assert fetch(org_key).status_code == 404


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ('{"env": {"A": 1}}', "must be texts"),
        ('{"env": []}', "must be texts"),
        ('{"a": "\\u0000"}', "NUL"),
        ('{"a": 1e999}', "not valid JSON"),
        ("[" * 2000, "not valid JSON"),
        ('{"a":' * 30 + "1" + "}" * 30, "levels deep"),
        ('{"a": "' + "x" * 70_000 + '"}', "64 KiB"),
    ],
)
def test_settings_are_checked(acme: Org, alice: Person, bob: Person, text: str, problem: str) -> None:
    path = f"/orgs/{acme.slug}/client-settings"
    refused = send(alice, path, settings=text)
    assert (refused.status_code, problem in refused.text) == (422, True)


def test_telemetry_is_accepted_and_bounded(client: FlaskClient, alice: Person) -> None:
    for signal in ("metrics", "logs", "traces"):
        kinds = (
            ("application/json", b"{}"),
            ("application/x-protobuf", b"\x0a\x00"),
            ("text/plain", b"x" * 60_000),
        )
        for kind, body in kinds:
            found = client.post(f"/v1/{signal}", data=body, content_type=kind)
            assert (found.status_code, found.json) == (200, {})
    large = b"x" * 200_000
    assert client.post("/v1/logs", data=large).status_code == 413
    assert client.post("/v1/logs", data=large, headers=alice.headers).status_code == 200
    assert client.post("/v1/logs", data=b"x" * (5 << 20), headers=alice.headers).status_code == 413


def test_models_have_the_names_that_people_know(web: FlaskClient, alice: Person) -> None:
    listed = web.get("/v1/models?limit=1000", headers={**alice.headers, **CLAUDE}).json or {}
    names = {model["id"]: model["display_name"] for model in listed["data"]}
    assert names["anthropic/claude-sonnet-4-5"] == "Claude Sonnet 4.5"
    assert names["stoa/demo"] == "stoa/demo"
    assert listed["has_more"] is False
