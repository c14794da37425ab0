"""Sign-in of clients by OAuth device grant, as `/login` of Claude Code does it: RFC 8628, 6749 and 7009."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import DeviceGrant, RefreshToken, Session
from models.accounts.access_tokens import PREFIX, access_token, session_token
from models.core.audit_log import AuditLog
from models.core.db import now
from models.orgs import Org, OrgMember
from tests.factories import Person
from tests.orgs.forms import send

CLAUDE = {"User-Agent": "claude-code/2.1.332"}
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
SECRET = "test-secret-test-secret-test-secret-test"


def start(client: FlaskClient) -> dict[str, Any]:
    answer = client.post("/oauth/device_authorization", data={"surface": "claude_code"}, headers=CLAUDE)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    return answer.json or {}


def ask(client: FlaskClient, **form: str) -> TestResponse:
    return client.post("/oauth/token", data=form, headers=CLAUDE)


def poll(client: FlaskClient, code: dict[str, Any]) -> TestResponse:
    return ask(client, grant_type=DEVICE, device_code=code["device_code"])


def refresh(client: FlaskClient, tokens: dict[str, Any]) -> TestResponse:
    return ask(client, grant_type="refresh_token", refresh_token=tokens["refresh_token"])


def error_of(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, (answer.json or {}).get("error", "")


def confirm(person: Person, code: dict[str, Any], **form: str) -> TestResponse:
    return send(person, "/device", user_code=code["user_code"], **form)


def signed_in(client: FlaskClient, person: Person, **form: str) -> dict[str, Any]:
    code = start(client)
    assert confirm(person, code, **form).status_code == 303
    answer = poll(client, code)
    assert answer.status_code == 200, answer.text
    return answer.json or {}


def me(client: FlaskClient, token: str) -> tuple[int, Any]:
    answer = client.get("/api/v1/me?fields=email", headers={"authorization": f"Bearer {token}"})
    return answer.status_code, (answer.json or {}).get("email")


def test_metadata_names_endpoints_of_the_origin_that_was_called(client: FlaskClient) -> None:
    for base, origin in (
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://10.0.0.1", "http://10.0.0.1"),
    ):
        found = client.get("/.well-known/oauth-authorization-server", base_url=base).json or {}
        assert found == {
            "issuer": origin,
            "device_authorization_endpoint": f"{origin}/oauth/device_authorization",
            "token_endpoint": f"{origin}/oauth/token",
            "revocation_endpoint": f"{origin}/oauth/revoke",
            "grant_types_supported": [DEVICE, "refresh_token"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["none"],
        }


def test_a_client_signs_in(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    code = start(client)
    page = f"http://localhost:8000/device?user_code={code['user_code']}"
    assert (code["verification_uri_complete"], code["expires_in"], code["interval"]) == (page, 900, 5)
    assert error_of(poll(client, code)) == (400, "authorization_pending")
    assert error_of(poll(client, code)) == (400, "slow_down")
    shown = alice.browser.get(f"/device?user_code={code['user_code'].lower().replace('-', ' ')}")
    assert shown.status_code == 200
    for part in (code["user_code"], "Claude Code", "127.0.0.1", "Approve", "Refuse"):
        assert part in shown.text
    assert confirm(alice, code).status_code == 303
    assert confirm(alice, code).status_code == 303
    assert "The command line is signed in" in alice.browser.get(f"/device?user_code={code['user_code']}").text
    answer = poll(client, code)
    tokens = answer.json or {}
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 3600)
    assert tokens["email"] == alice.user.email if alice.user else False
    assert error_of(poll(client, code)) == (400, "invalid_grant")
    assert me(client, tokens["access_token"]) == (200, tokens["email"])
    row = session.scalars(select(Session).where(Session.type == "cli")).one()
    assert (row.fingerprint_id or "").startswith("Claude Code ")
    stored = [*session.scalars(select(RefreshToken.token_hash)), row.session_token, row.token_hint]
    raw = session_token(SECRET, tokens["access_token"], now())
    assert raw
    assert raw not in stored
    assert tokens["refresh_token"] not in stored
    assert "Claude Code" in alice.browser.get("/profile?tab=security").text
    actions = session.scalars(select(AuditLog.action).where(AuditLog.action.like("device.%"))).all()
    assert actions == ["device.connected"]


def test_refresh_rotates_and_an_old_token_ends_the_family(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    first = signed_in(client, alice)
    second = refresh(client, first).json or {}
    assert second["refresh_token"] != first["refresh_token"]
    assert session.scalars(select(Session.session_token).where(Session.type == "cli")).all().__len__() == 1
    for tokens in (first, second):
        assert me(client, tokens["access_token"])[0] == 200
    assert error_of(refresh(client, first)) == (401, "invalid_grant")
    assert error_of(refresh(client, second)) == (401, "invalid_grant")
    assert me(client, second["access_token"])[0] == 401
    session.rollback()
    assert session.scalars(select(RefreshToken)).all() == []


@pytest.mark.parametrize("way", ["sessions", "revoke access", "revoke refresh", "ban", "expiry"])
def test_the_end_of_a_sign_in(
    client: FlaskClient, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    assert alice.user
    tokens = signed_in(client, alice)
    match way:
        case "sessions":
            id = session.scalars(select(Session.session_token).where(Session.type == "cli")).one()
            ended = alice.browser.delete(
                "/api/sessions", json={"sessionIds": [id]}, headers={"Origin": "http://localhost"}
            )
            assert (ended.json or {})["revokedSessions"] == 1
        case "ban":
            alice.user.banned = True
            session.commit()
        case "expiry":
            session.execute(update(Session).where(Session.type == "cli").values(expires=now() - timedelta(1)))
            session.commit()
        case _:
            token = tokens[f"{way.split()[1]}_token"]
            assert client.post("/oauth/revoke", data={"token": token}).status_code == 200
    assert error_of(refresh(client, tokens)) == (401, "invalid_grant")
    assert me(client, tokens["access_token"])[0] in (401, 403)


def test_an_organisation_pays_until_its_member_leaves(
    client: FlaskClient, session: OrmSession, alice: Person, bob: Person, mallory: Person, acme: Org
) -> None:
    org_id = acme.id
    code = start(client)
    assert acme.name in bob.browser.get(f"/device?user_code={code['user_code']}").text
    assert confirm(mallory, code, payer=org_id).status_code == 404
    assert confirm(bob, code, payer=org_id).status_code == 303
    tokens = poll(client, code).json or {}
    row = session.scalars(select(Session).where(Session.type == "cli")).one()
    assert (row.org_id, row.user_id) == (org_id, bob.id)
    logged = session.scalars(select(AuditLog).where(AuditLog.action == "device.connected")).one()
    assert logged.org_id == org_id
    member = session.scalars(select(OrgMember).where(OrgMember.user_id == bob.id)).one()
    session.delete(member)
    session.commit()
    assert error_of(refresh(client, tokens)) == (401, "invalid_grant")


def test_a_refused_code(client: FlaskClient, alice: Person) -> None:
    code = start(client)
    assert send(alice, "/device/refusal", user_code=code["user_code"]).status_code == 303
    assert error_of(poll(client, code)) == (400, "access_denied")
    confirm(alice, code)
    assert error_of(poll(client, code)) == (400, "access_denied")


def test_an_expired_code(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    code = start(client)
    session.execute(update(DeviceGrant).values(expires_at=now()))
    session.commit()
    assert error_of(poll(client, code)) == (400, "expired_token")
    confirm(alice, code)
    assert "expired" in alice.browser.get(f"/device?user_code={code['user_code']}").text
    assert error_of(poll(client, code)) == (400, "expired_token")


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": DEVICE}, 400, "invalid_request"),
        ({"grant_type": DEVICE, "device_code": "x"}, 400, "invalid_grant"),
        ({"grant_type": DEVICE, "device_code": "x\0"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token"}, 400, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x", "scope": "all"}, 401, "invalid_grant"),
    ],
)
def test_errors_of_the_token_endpoint(
    client: FlaskClient, form: dict[str, str], status: int, error: str
) -> None:
    assert error_of(ask(client, **form)) == (status, error)


def test_pages_need_a_sign_in_and_a_code(client: FlaskClient, alice: Person) -> None:
    assert client.get("/device?user_code=WDJB-MJHT").status_code == 302
    assert alice.browser.get("/device").status_code == 200
    for code in ("WDJB-MJHT", "x" * 500, "%00", "'"):
        assert alice.browser.get(f"/device?user_code={code}").status_code in (200, 404)
    assert send(alice, "/device", user_code="WDJB-MJHT").status_code == 303
    assert client.post("/oauth/revoke", data={}).status_code == 400
    assert client.post("/oauth/revoke", data={"token": "unknown"}).status_code == 200


def test_access_tokens_expire_and_are_this_servers(app: Flask, client: FlaskClient, alice: Person) -> None:
    moment = now()
    token = access_token(SECRET, alice.token, moment)
    assert token.startswith(PREFIX)
    assert session_token(SECRET, token, moment) == alice.token
    assert me(client, token)[0] == 200
    for secret, access, at in (
        (SECRET, token, moment + timedelta(hours=1, seconds=1)),
        ("other", token, moment),
        (SECRET, token[:-4], moment),
        (SECRET, f"{PREFIX}é", moment),
        (SECRET, PREFIX, moment),
    ):
        assert session_token(secret, access, at) is None
    assert me(client, access_token(SECRET, alice.token, moment - timedelta(hours=2)))[0] == 401


def test_codes_are_forgotten(client: FlaskClient, session: OrmSession) -> None:
    from models.accounts.device_grants import forget_grants

    start(client)
    session.execute(text("UPDATE oauth_device_grant SET created_at = created_at - interval '2 days'"))
    forget_grants(now())
    session.commit()
    assert session.scalars(select(DeviceGrant)).all() == []
