"""JSON API of API keys, sessions and profile: every row of contract 2.2 (me) and 2.9."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Fingerprint, Session, User, credentials
from models.core.audit_log import AuditLog
from models.core.db import db
from tests import factories
from tests.factories import Person

COOKIE = "next-auth.session-token"
OWN = {"Origin": "http://localhost:8000"}


def sha(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def tokens(session: OrmSession, owner: Person) -> set[str]:
    session.expire_all()
    return set(session.scalars(select(Session.session_token).where(Session.user_id == owner.id)))


# -- GET /api/v1/me ------------------------------------------------------------------------------------------

VALID = "id, email, discord_id, referral_code, stripe_customer_id, banned, referral_link"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic abc"},
        {"Authorization": "InvalidFormat"},
        {"Authorization": "bearer abc"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"x-codebuff-api-key": ""},
    ],
)
def test_me_without_a_key(client: FlaskClient, headers: dict[str, str]) -> None:
    answer = client.get("/api/v1/me", headers=headers)
    assert answer.status_code == 401
    assert answer.json == {"error": "Missing or invalid Authorization header"}


@pytest.mark.parametrize("fields", ["", ",,,", " , "])
def test_me_with_empty_fields(client: FlaskClient, fields: str) -> None:
    answer = client.get("/api/v1/me", query_string={"fields": fields}, headers={"Authorization": "Bearer x"})
    assert answer.status_code == 400
    assert answer.json == {"error": f"Invalid fields: empty. Valid fields are: {VALID}"}


def test_me_names_unknown_fields_before_it_looks_at_the_key(client: FlaskClient) -> None:
    answer = client.get("/api/v1/me?fields=id,Email,nope", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 400
    assert answer.json == {"error": f"Invalid fields: Email, nope. Valid fields are: {VALID}"}


def test_me_with_an_unknown_key(client: FlaskClient) -> None:
    answer = client.get("/api/v1/me", headers={"Authorization": "Bearer nobody's"})
    assert answer.status_code == 401
    assert answer.json == {"error": "Invalid API key or user not found"}


def test_me_answers_exactly_what_was_asked(session: OrmSession, alice: Person, client: FlaskClient) -> None:
    assert client.get("/api/v1/me", headers=alice.headers).json == {"id": alice.id}
    user = session.get_one(User, alice.id)
    every = client.get("/api/v1/me", query_string={"fields": f" {VALID}, ,"}, headers=alice.headers)
    assert every.json == {
        "id": alice.id,
        "email": "alice@example.org",
        "discord_id": None,
        "referral_code": user.referral_code,
        "stripe_customer_id": None,
        "banned": False,
        "referral_link": f"http://localhost:8000/referrals/{user.referral_code}",
    }


def test_me_without_a_referral_code(session: OrmSession, client: FlaskClient) -> None:
    user = factories.user("carol", referral_code=None)
    if user.referral_code is not None:
        user.referral_code = None
        session.commit()
    key = factories.token(user)
    answer = client.get("/api/v1/me?fields=referral_link", headers={"Authorization": f"Bearer {key}"})
    assert answer.json == {"referral_link": None}


def test_the_own_header_wins_over_authorization(alice: Person, bob: Person, client: FlaskClient) -> None:
    headers = {"x-codebuff-api-key": bob.token, **alice.headers}
    assert client.get("/api/v1/me", headers=headers).json == {"id": bob.id}


@pytest.mark.parametrize("kind", ["web", "cli", "pat"])
def test_any_type_of_session_is_a_key(session: OrmSession, client: FlaskClient, kind: str) -> None:
    user = factories.user("carol")
    key = factories.token(user, type=kind)
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {key}"}).json == {"id": user.id}


@pytest.mark.parametrize("kind", ["web", "cli", "pat"])
def test_an_expired_key_is_unknown(session: OrmSession, client: FlaskClient, kind: str) -> None:
    user = factories.user("carol")
    key = factories.token(user, type=kind, expires=factories.now() - timedelta(seconds=1))
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {key}"}).status_code == 401


def test_a_key_is_not_taken_from_a_cookie(alice: Person) -> None:
    assert alice.browser.get("/api/v1/me").status_code == 401


def test_the_stored_form_of_a_token_is_no_key(alice: Person, client: FlaskClient) -> None:
    headers = {"Authorization": f"Bearer {sha(alice.token)}"}
    assert client.get("/api/v1/me", headers=headers).status_code == 401


def test_the_use_of_a_key_is_noted_at_most_every_five_minutes(
    session: OrmSession, alice: Person, client: FlaskClient
) -> None:
    client.get("/api/v1/me", headers=alice.headers)
    row = session.get_one(Session, sha(alice.token))
    first = row.last_used_at
    assert first is not None
    client.get("/api/v1/me", headers=alice.headers)
    session.expire_all()
    assert row.last_used_at == first
    row.last_used_at = first - timedelta(minutes=6)
    session.commit()
    client.get("/api/v1/me", headers=alice.headers)
    session.expire_all()
    assert row.last_used_at is not None
    assert row.last_used_at >= first


def test_a_key_revoked_while_it_is_noted_is_no_error(app: Flask, session: OrmSession, alice: Person) -> None:
    with app.app_context():
        found = credentials.find(alice.token, factories.now())
        assert found is not None
        session.delete(session.get_one(Session, sha(alice.token)))
        session.commit()
        assert credentials.touch(found.session, factories.now())
        db.session.commit()
    session.expire_all()
    assert session.get(Session, sha(alice.token)) is None


def test_strange_bytes_in_a_key_are_an_unknown_key(client: FlaskClient) -> None:
    for key in ("\xff\xfe", "é", "x" * 20_000, "'; DROP TABLE session; --"):
        assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {key}"}).status_code == 401


# -- /api/api-keys -------------------------------------------------------------------------------------------


def test_keys_need_a_browser_session(client: FlaskClient, alice: Person) -> None:
    for call in (client.get, client.post):
        answer = call("/api/api-keys", headers=alice.headers)
        assert answer.status_code == 401
        assert answer.json == {"error": "Unauthorized"}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        '{"name": ""}',
        '{"name": null}',
        '{"name": 5}',
        '{"expiresInDays": 0}',
        '{"expiresInDays": 366}',
        '{"expiresInDays": "30"}',
        '{"expiresInDays": true}',
        '{"expiresInDays": null}',
        '{"expiresInDays": 1e400}',
        '{"name": "\\u0000"}',
    ],
)
def test_a_key_that_cannot_be_made(alice: Person, body: str) -> None:
    answer = alice.browser.post("/api/api-keys", data=body)
    assert answer.status_code == 400
    assert answer.json == {"error": "Invalid request body"}


def test_a_key_is_shown_once_and_kept_as_a_hash(
    session: OrmSession, alice: Person, client: FlaskClient
) -> None:
    before = datetime.now(UTC)
    made = alice.browser.post("/api/api-keys", json={"name": "laptop", "expiresInDays": 30})
    assert made.status_code == 201
    body: dict[str, Any] = made.json or {}
    assert set(body) == {"token", "expires", "message"}
    assert body["message"] == "API Key created successfully"
    token = body["token"]
    assert token.startswith("cb-pat-")
    assert len(token) == 7 + 64
    expires = datetime.fromisoformat(body["expires"])
    assert timedelta(days=30) <= expires - before < timedelta(days=30, minutes=1)
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).json == {"id": alice.id}

    listed = {row["id"]: row for row in (alice.browser.get("/api/api-keys").json or {})["tokens"]}
    assert listed[sha(token)] == {
        "id": sha(token),
        "token": f"{token[:15]}...{token[-8:]}",
        "expires": body["expires"],
        "createdAt": None,
        "type": "pat",
        "name": "laptop",
    }
    assert token not in str(listed)
    for column in ("session_token", "token_hint", "name"):
        assert token not in session.scalars(select(getattr(Session, column))).all()


def test_a_key_lives_a_year_unless_said_otherwise(alice: Person) -> None:
    before = datetime.now(UTC)
    made = alice.browser.post("/api/api-keys", json={})
    expires = datetime.fromisoformat((made.json or {})["expires"])
    assert timedelta(days=365) <= expires - before < timedelta(days=365, minutes=1)


def test_one_lists_only_ones_own_keys(alice: Person, mallory: Person) -> None:
    listed = (mallory.browser.get("/api/api-keys").json or {})["tokens"]
    assert [row["id"] for row in listed] == [sha(mallory.token)]


# -- DELETE /api/sessions ------------------------------------------------------------------------------------


def test_revoking_needs_a_browser_session(client: FlaskClient, alice: Person) -> None:
    answer = client.delete("/api/sessions", json={"tokenIds": [alice.token]}, headers=alice.headers)
    assert answer.status_code == 401
    assert answer.text == "Unauthorized"
    assert answer.mimetype == "text/plain"


def test_a_token_is_revoked_by_its_text_or_its_id(
    session: OrmSession, alice: Person, client: FlaskClient
) -> None:
    user = session.get_one(User, alice.id)
    raw, by_id = factories.token(user), factories.token(user)
    answer = alice.browser.delete("/api/sessions", json={"tokenIds": [raw, sha(by_id), "unknown"]})
    assert answer.json == {"revokedSessions": 0, "revokedTokens": 2}
    for each in (raw, by_id):
        assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {each}"}).status_code == 401
    assert client.get("/api/v1/me", headers=alice.headers).status_code == 200


def test_sessions_and_tokens_are_named_apart(session: OrmSession, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    web = factories.token(user, type="web")
    answer = alice.browser.delete("/api/sessions", json={"sessionIds": [alice.token], "tokenIds": [web]})
    assert answer.json == {"revokedSessions": 0, "revokedTokens": 0}
    assert sha(web) in tokens(session, alice)


def test_revoking_a_command_line_frees_its_device(session: OrmSession, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    factories.fingerprint("fp-1", sig_hash="abc")
    cli = factories.token(user, type="cli", fingerprint_id="fp-1")
    answer = alice.browser.delete("/api/sessions", json={"sessionIds": [sha(cli)]})
    assert answer.json == {"revokedSessions": 1, "revokedTokens": 0}
    session.expire_all()
    assert session.get_one(Fingerprint, "fp-1").sig_hash is None


@pytest.mark.parametrize("body", ["", "{", "not json", "{}"])
def test_an_unreadable_body_revokes_nothing(alice: Person, body: str) -> None:
    answer = alice.browser.delete("/api/sessions", data=body)
    assert answer.status_code == 200
    assert answer.json == {"revokedSessions": 0, "revokedTokens": 0}


@pytest.mark.parametrize("body", [[], {"sessionIds": "x"}, {"tokenIds": [1]}, {"tokenIds": None}])
def test_a_body_of_the_wrong_shape(alice: Person, body: Any) -> None:
    answer = alice.browser.delete("/api/sessions", json=body)
    assert answer.status_code == 400
    assert answer.json == {"error": "Invalid request body"}


def test_a_stranger_revokes_nothing_of_others(
    session: OrmSession, alice: Person, bob: Person, mallory: Person
) -> None:
    theirs = tokens(session, alice) | tokens(session, bob)
    for person in (mallory, bob):
        names = [*tokens(session, alice), alice.token]
        answer = person.browser.delete("/api/sessions", json={"sessionIds": names, "tokenIds": names})
        assert answer.json == {"revokedSessions": 0, "revokedTokens": 0}
    assert tokens(session, alice) | tokens(session, bob) == theirs


# -- /api/user/sessions, logout-all, profile -----------------------------------------------------------------


def test_sessions_are_listed_without_their_tokens(session: OrmSession, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    device = factories.fingerprint("fp-1")
    cli = factories.token(user, type="cli", fingerprint_id="fp-1")
    old = factories.token(user, type="web", expires=factories.now() - timedelta(days=1))
    rows = {row["id"]: row for row in (alice.browser.get("/api/user/sessions").json or {})["activeSessions"]}
    assert len(rows) == 3
    assert sha(old) in rows
    assert sha(alice.token) not in rows
    created = device.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    row = rows[sha(cli)]
    assert row["label"] == f"••••{cli[-4:]}"
    assert (row["isCurrent"], row["fingerprintId"], row["sessionType"]) == (False, "fp-1", "cli")
    assert row["createdAt"] == created
    current = [row for row in rows.values() if row["isCurrent"]]
    assert len(current) == 1
    assert current[0]["createdAt"] is None
    assert current[0]["expires"].endswith("Z")


def test_sessions_need_a_browser_session(client: FlaskClient, alice: Person) -> None:
    for path in ("/api/user/sessions", "/api/user/profile"):
        answer = client.get(path, headers=alice.headers)
        assert answer.status_code == 401
        assert answer.json == {"error": "Unauthorized"}
    answer = client.post("/api/user/sessions/logout-all", headers={**alice.headers, **OWN})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Referer": "https://evil.example/x"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8000.evil.example"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"},
    ],
)
def test_logging_out_everywhere_needs_our_own_page(
    session: OrmSession, alice: Person, headers: dict[str, str]
) -> None:
    before = tokens(session, alice)
    answer = alice.browser.post("/api/user/sessions/logout-all", headers=headers)
    assert answer.status_code == 403
    assert answer.json == {"error": "Forbidden - not same origin, cannot logout all sessions"}
    assert tokens(session, alice) == before


def test_logging_out_everywhere_keeps_this_browser_and_the_keys(
    session: OrmSession, alice: Person, bob: Person
) -> None:
    user = session.get_one(User, alice.id)
    other = factories.token(user, type="web")
    cli = factories.token(user, type="cli")
    theirs = tokens(session, bob)
    answer = alice.browser.post(
        "/api/user/sessions/logout-all", headers={"Referer": "http://localhost:8000/profile"}
    )
    assert answer.json == {"ok": True}
    left = tokens(session, alice)
    assert sha(other) not in left
    assert {sha(cli), sha(alice.token)} <= left
    assert len(left) == 3
    assert tokens(session, bob) == theirs


def test_the_profile(session: OrmSession, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    answer = alice.browser.get("/api/user/profile").json or {}
    assert answer.pop("created_at").endswith("Z")
    assert answer == {
        "handle": None,
        "referral_code": user.referral_code,
        "auto_topup_enabled": False,
        "auto_topup_threshold": 500,
        "auto_topup_amount": 2000,
        "auto_topup_blocked_reason": "Unable to verify payment method status: This server takes no payments. "
        "Ask its operator for credits.",
    }
    user.auto_topup_threshold, user.auto_topup_amount, user.handle = 0, 700, "al"
    session.commit()
    answer = alice.browser.get("/api/user/profile").json or {}
    assert (answer["auto_topup_threshold"], answer["auto_topup_amount"], answer["handle"]) == (0, 700, "al")


# -- the cookie ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["web", "cli", "pat"])
@pytest.mark.parametrize("cookie", [COOKIE, "__Secure-next-auth.session-token"])
def test_any_session_works_in_the_cookie(
    session: OrmSession, client: FlaskClient, kind: str, cookie: str
) -> None:
    user = factories.user("carol")
    token = factories.token(user, type=kind)
    client.set_cookie(cookie, token)
    answer = client.get("/api/user/sessions")
    assert answer.status_code == 200


def test_an_expired_cookie_is_refused_and_its_row_deleted(session: OrmSession, client: FlaskClient) -> None:
    user = factories.user("carol")
    token = factories.token(user, type="web", expires=factories.now() - timedelta(seconds=1))
    client.set_cookie(COOKIE, token)
    answer = client.get("/api/user/sessions")
    assert answer.status_code == 401
    assert f"{COOKIE}=;" in answer.headers["Set-Cookie"]
    session.expire_all()
    assert session.get(Session, sha(token)) is None


def test_a_web_session_slides_once_it_is_a_day_old(session: OrmSession, client: FlaskClient) -> None:
    user = factories.user("carol")
    fresh = factories.token(user, type="web", expires=factories.now() + timedelta(days=29, hours=1))
    used = factories.token(user, type="web", expires=factories.now() + timedelta(days=28))
    client.set_cookie(COOKIE, fresh)
    assert "Set-Cookie" not in client.get("/api/user/profile").headers
    client.set_cookie(COOKIE, used)
    answer = client.get("/api/user/profile")
    assert f"{COOKIE}={used};" in answer.headers["Set-Cookie"]
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    row = session.get_one(Session, sha(used))
    assert row.expires > factories.now() + timedelta(days=29, hours=23)


def test_a_personal_token_in_a_cookie_never_lives_longer(session: OrmSession, client: FlaskClient) -> None:
    user = factories.user("carol")
    end = factories.now() + timedelta(days=2)
    token = factories.token(user, type="pat", expires=end)
    client.set_cookie(COOKIE, token)
    assert client.get("/api/user/profile").status_code == 200
    assert session.get_one(Session, sha(token)).expires == end


# -- CSRF ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"}, 403),
        ({"Origin": "http://localhost:8000"}, 201),
        ({"Origin": "http://localhost"}, 201),
        ({"Origin": "https://localhost:8000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_another_site_cannot_use_the_cookie(alice: Person, headers: dict[str, str], status: int) -> None:
    assert alice.browser.post("/api/api-keys", json={}, headers=headers).status_code == status


def test_a_key_needs_no_origin(alice: Person, client: FlaskClient) -> None:
    body = {"userId": alice.id, "fingerprintId": "f", "fingerprintHash": "h"}
    headers = {**alice.headers, "Origin": "https://somewhere.example", "Sec-Fetch-Site": "cross-site"}
    assert client.post("/api/auth/cli/logout", json=body, headers=headers).json == {"success": True}


# -- limits, methods, audit log ------------------------------------------------------------------------------


def test_making_keys_is_limited_for_each_user(alice: Person, bob: Person) -> None:
    codes = [alice.browser.post("/api/api-keys", json={}).status_code for _ in range(21)]
    assert codes == [201] * 20 + [429]
    answer = alice.browser.post("/api/api-keys", json={})
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json == {"error": "Too many requests. Wait a minute, then try again."}
    assert bob.browser.post("/api/api-keys", json={}).status_code == 201


def test_other_methods_are_405(client: FlaskClient) -> None:
    assert client.put("/api/api-keys").status_code == 405
    assert client.post("/api/v1/me").status_code == 405


def test_who_made_and_revoked_a_key_is_in_the_audit_log(session: OrmSession, alice: Person) -> None:
    token = (alice.browser.post("/api/api-keys", json={"name": "ci"}).json or {})["token"]
    alice.browser.delete("/api/sessions", json={"tokenIds": [token]})
    rows = session.scalars(select(AuditLog).order_by(AuditLog.id)).all()
    assert [(row.action, row.subject, row.actor) for row in rows] == [
        ("token.created", alice.id, "alice@example.org"),
        ("token.revoked", alice.id, "alice@example.org"),
    ]
    assert token not in str([(row.before, row.after) for row in rows])


def test_only_a_refusal_says_how_long_to_wait(alice: Person, anonymous: Person) -> None:
    assert "Retry-After" not in alice.browser.get("/api/user/sessions").headers
    served = alice.browser.delete("/api/sessions", json={})
    refused = anonymous.browser.delete("/api/sessions", json={})
    assert (served.status_code, refused.status_code) == (200, 401)
    assert "Retry-After" not in served.headers
    assert "Retry-After" not in refused.headers
