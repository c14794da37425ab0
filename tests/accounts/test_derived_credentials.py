"""Only browser sessions create credentials, and revoking one revokes what it created."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import Session, User, credentials, devices
from models.accounts.credentials import CLI_LIFETIME, hash_token
from models.core.errors import Forbidden
from models.core.settings import Settings
from tests import factories
from tests.accounts.browsing import token_of
from tests.accounts.test_bans import ask, rules
from tests.factories import Person

SECRET = "test-secret-test-secret-test-secret-test"
NAMES = ("next-auth.session-token", "__Secure-next-auth.session-token")
CHROME = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140", "Sec-Fetch-Site": "same-origin"}


def stored_tokens(session: OrmSession) -> set[str]:
    session.expire_all()
    return set(session.scalars(select(Session.session_token)))


def code() -> str:
    return devices.issue_code(SECRET, "codecane-cli-1", factories.now()).text


# -- permission ------------------------------------------------------------------------------------------------

Route = Callable[[FlaskClient, dict[str, str], str], TestResponse]


def _as_form(path: str, **fields: str) -> Route:
    def ask(browser: FlaskClient, headers: dict[str, str], other: str) -> TestResponse:
        data = {"csrf_token": form_token(browser), **fields}
        return browser.post(path.replace("OTHER", hash_token(other)), data=data, headers=headers)

    return ask


def form_token(browser: FlaskClient) -> str:
    return str((browser.get("/api/auth/csrf").json or {})["csrfToken"])


def _connect_form(browser: FlaskClient, headers: dict[str, str], other: str) -> TestResponse:
    return _as_form("/onboard", auth_code=code())(browser, headers, other)


ROUTES: dict[str, Route] = {
    "POST /api/api-keys": lambda b, h, o: b.post("/api/api-keys", json={}, headers=h),
    "POST /api/api-keys, a year": lambda b, h, o: b.post(
        "/api/api-keys", json={"expiresInDays": 365}, headers=h
    ),
    "DELETE /api/sessions": lambda b, h, o: b.delete("/api/sessions", json={"sessionIds": [o]}, headers=h),
    "DELETE /api/sessions, keys": lambda b, h, o: b.delete(
        "/api/sessions", json={"tokenIds": [o]}, headers=h
    ),
    "logout-all": lambda b, h, o: b.post(
        "/api/user/sessions/logout-all", headers={"Origin": "http://localhost:8000", **h}
    ),
    "GET /onboard": lambda b, h, o: b.get("/onboard", query_string={"auth_code": code()}, headers=h),
    "POST /onboard": _connect_form,
    "POST /profile/keys": _as_form("/profile/keys", name="x", days="365"),
    "end others": _as_form("/profile/sessions/web/revocation"),
    "end command lines": _as_form("/profile/sessions/cli/revocation", typed="confirm"),
    "end one": _as_form("/profile/sessions/OTHER/revocation"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["pat", "cli"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_key_in_the_cookie_makes_and_ends_no_credential(
    app: Flask, session: OrmSession, alice: Person, route: str, kind: str, name: str
) -> None:
    user = session.get_one(User, alice.id)
    token = factories.token(user, type=kind, expires=factories.now() + timedelta(hours=1))
    other = factories.token(user, type="web")
    browser = app.test_client()
    browser.set_cookie(name, token)
    before = stored_tokens(session)
    answer = ROUTES[route](browser, {}, other)
    assert answer.status_code == 403, answer.text
    assert "Sign in with a browser" in answer.text
    assert stored_tokens(session) == before
    assert browser.get("/api/auth/session").json != {}
    assert browser.get("/api/user/sessions").status_code == 200


@pytest.mark.parametrize("kind", ["pat", "cli", "web"])
@pytest.mark.parametrize("header", ["authorization", "x-codebuff-api-key"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_key_in_a_header_makes_and_ends_no_credential(
    app: Flask, session: OrmSession, alice: Person, route: str, header: str, kind: str
) -> None:
    user = session.get_one(User, alice.id)
    token = factories.token(user, type=kind)
    headers = {header: f"Bearer {token}" if header == "authorization" else token}
    other = factories.token(user, type="web")
    before = stored_tokens(session)
    answer = ROUTES[route](app.test_client(), headers, other)
    assert answer.status_code in (302, 303, 401)
    assert stored_tokens(session) == before


@pytest.mark.parametrize("route", ROUTES)
def test_a_browser_does(session: OrmSession, alice: Person, route: str) -> None:
    user = session.get_one(User, alice.id)
    other = factories.token(user, type="web" if "keys" not in route else "pat")
    factories.token(user, type="cli", fingerprint_id=factories.fingerprint().id)
    before = stored_tokens(session)
    answer = ROUTES[route](alice.browser, {}, other)
    assert answer.status_code in (200, 201, 303)
    assert stored_tokens(session) != before


@pytest.mark.parametrize("kind", ["pat", "cli"])
def test_the_verbs_themselves_refuse(app: Flask, session: OrmSession, alice: Person, kind: str) -> None:
    user = session.get_one(User, alice.id)
    row = session.get_one(Session, hash_token(factories.token(user, type=kind)))
    with pytest.raises(Forbidden):
        credentials.create_key(user, by=row, now=factories.now())
    with pytest.raises(Forbidden):
        credentials.revoke_others(user, row)
    waiting, by = devices.read_code(code()), credentials.Credential(row, user)
    with pytest.raises(Forbidden):
        devices.connect(SECRET, waiting, by, factories.now())


def test_a_key_in_the_cookie_lives_no_longer(app: Flask, session: OrmSession, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    end = factories.now() + timedelta(minutes=5)
    token = factories.token(user, type="pat", expires=end)
    browser = app.test_client()
    browser.set_cookie(NAMES[0], token)
    for path in ("/profile?tab=security", "/profile?tab=api-keys", "/api/user/profile", "/onboard"):
        assert browser.get(path).status_code == 200
    session.expire_all()
    assert session.get_one(Session, hash_token(token)).expires == end


# -- cascading revocation --------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(app: Flask, session: OrmSession, alice: Person) -> FlaskClient:
    """Alice's second browser."""
    browser = app.test_client()
    browser.set_cookie(NAMES[0], factories.token(session.get_one(User, alice.id), type="web"))
    return browser


def create_credentials(browser: FlaskClient, device: str) -> tuple[str, str]:
    """Create a key and a command line session in this browser; return their tokens."""
    key = (browser.post("/api/api-keys", json={"name": device}).json or {})["token"]
    asked = browser.post("/api/auth/cli/code", json={"fingerprintId": device}).json or {}
    browser.get("/onboard", query_string={"auth_code": asked["loginUrl"].partition("auth_code=")[2]})
    names = ("fingerprintId", "fingerprintHash", "expiresAt")
    answer = browser.get("/api/auth/cli/status", query_string={name: asked[name] for name in names})
    return key, (answer.json or {})["user"]["authToken"]


def works(client: FlaskClient, token: str) -> bool:
    return client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def by_page(browser: FlaskClient, **fields: str) -> None:
    data = {"csrf_token": form_token(browser), **fields}
    assert browser.post("/profile/sessions/web/revocation", data=data).status_code == 303


def by_json(browser: FlaskClient, **fields: str) -> None:
    headers = {"Origin": "http://localhost:8000"}
    assert browser.post("/api/user/sessions/logout-all", headers=headers).json == {"ok": True}


@pytest.mark.parametrize("sign_out", [by_page, by_json])
@pytest.mark.parametrize("ended_before", [False, True])
def test_signing_out_everywhere_ends_what_other_browsers_made(
    client: FlaskClient,
    session: OrmSession,
    alice: Person,
    bob: Person,
    elsewhere: FlaskClient,
    sign_out: Callable[[FlaskClient], None],
    ended_before: bool,
) -> None:
    mine, theirs = create_credentials(alice.browser, "mine"), create_credentials(elsewhere, "theirs")
    bobs = create_credentials(bob.browser, "bobs")
    if ended_before:
        data = {"csrf_token": form_token(elsewhere)}
        elsewhere.post("/api/auth/signout", data=data)
        assert all(works(client, token) for token in theirs), (
            "signing out of a browser lets its command lines go on"
        )
    sign_out(alice.browser)
    assert elsewhere.get("/api/user/profile").status_code == 401
    assert [works(client, token) for token in theirs] == [False, False]
    assert all(works(client, token) for token in (*mine, *bobs, alice.token))
    assert alice.browser.get("/api/user/profile").status_code == 200


def test_keys_may_be_kept(client: FlaskClient, alice: Person, elsewhere: FlaskClient) -> None:
    key, cli = create_credentials(elsewhere, "theirs")
    by_page(alice.browser, keep_keys="1")
    assert (works(client, key), works(client, cli)) == (True, False)


@pytest.mark.parametrize("way", ["page", "json", "json, raw"])
def test_revoking_a_browser_ends_what_it_made(
    client: FlaskClient, session: OrmSession, alice: Person, elsewhere: FlaskClient, way: str
) -> None:
    mine, theirs = create_credentials(alice.browser, "mine"), create_credentials(elsewhere, "theirs")
    cookie = elsewhere.get_cookie(NAMES[0])
    assert cookie is not None
    public = hash_token(cookie.value)
    if way == "page":
        data = {"csrf_token": form_token(alice.browser)}
        assert alice.browser.post(f"/profile/sessions/{public}/revocation", data=data).status_code == 303
    else:
        given = public if way == "json" else cookie.value
        answer = alice.browser.delete("/api/sessions", json={"sessionIds": [given]})
        assert answer.json == {"revokedSessions": 2, "revokedTokens": 1}
    assert [works(client, token) for token in theirs] == [False, False]
    assert all(works(client, token) for token in mine)


def test_a_key_made_at_the_moment_of_its_browsers_end_does_not_outlive_it(
    app: Flask, client: FlaskClient, session: OrmSession, alice: Person, elsewhere: FlaskClient
) -> None:
    cookie = elsewhere.get_cookie(NAMES[0])
    assert cookie is not None
    barrier, tokens = threading.Barrier(5), []

    def mint() -> None:
        browser = app.test_client()
        browser.set_cookie(NAMES[0], cookie.value)
        barrier.wait()
        answers = [browser.post("/api/api-keys", json={}) for _ in range(3)]
        tokens.extend((answer.json or {}).get("token") for answer in answers)

    threads = [threading.Thread(target=mint) for _ in range(4)]
    for thread in threads:
        thread.start()
    barrier.wait()
    by_json(alice.browser)
    for thread in threads:
        thread.join()
    assert not any(works(client, token) for token in tokens if token)


@pytest.mark.parametrize("way", ["everywhere", "each other", "itself"])
def test_browsers_that_end_each_other_at_once(
    app: Flask, session: OrmSession, alice: Person, elsewhere: FlaskClient, way: str
) -> None:
    cookies = [browser.get_cookie(NAMES[0]) for browser in (alice.browser, elsewhere)]
    barrier, codes = threading.Barrier(6), []

    def go(number: int) -> None:
        mine, others = cookies[number % 2], cookies[(number + (way == "each other")) % 2]
        assert mine is not None
        assert others is not None
        browser = app.test_client()
        browser.set_cookie(NAMES[0], mine.value)
        barrier.wait()
        if way == "everywhere":
            answer = browser.post(
                "/api/user/sessions/logout-all", headers={"Origin": "http://localhost:8000"}
            )
        else:
            answer = browser.delete("/api/sessions", json={"sessionIds": [others.value]})
        codes.append(answer.status_code)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {200, 401, 403}
    assert 200 in codes
    left = {hash_token(cookie.value) for cookie in cookies if cookie} & stored_tokens(session)
    assert len(left) == (0 if way == "itself" else 1)


# -- command line expiry ---------------------------------------------------------------------------------------


def cli(session: OrmSession, person: Person, **values: Any) -> tuple[str, str]:
    user = session.get_one(User, person.id)
    device = factories.fingerprint().id
    token = factories.token(user, type="cli", fingerprint_id=device)
    session.execute(update(Session).where(Session.session_token == hash_token(token)).values(**values))
    session.commit()
    return token, hash_token(token)


@pytest.mark.parametrize("door", ["/api/v1/me", "/v1/chat/completions", "cookie"])
def test_each_noted_use_gives_a_command_line_another_year(
    app: Flask, client: FlaskClient, session: OrmSession, alice: Person, door: str
) -> None:
    factories.grant(session.get_one(User, alice.id))
    token, public = cli(session, alice, expires=factories.now() + timedelta(days=3))
    headers = {"Authorization": f"Bearer {token}"}
    if door == "cookie":
        client.set_cookie(NAMES[0], token)
        assert client.get("/api/user/profile").status_code == 200
    elif door == "/api/v1/me":
        assert client.get(door, headers=headers).status_code == 200
    else:
        body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Hello"}]}
        assert client.post(door, json=body, headers=headers).status_code == 200
    session.expire_all()
    end = session.get_one(Session, public).expires
    assert abs(end - factories.now() - CLI_LIFETIME) < timedelta(minutes=1)


def test_a_command_line_that_ended_stays_ended(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    token, public = cli(session, alice, expires=factories.now() - timedelta(seconds=1))
    for _ in range(2):
        assert not works(client, token)
    session.expire_all()
    assert session.get_one(Session, public).expires < factories.now()


@pytest.mark.parametrize("kind", ["pat", "web"])
def test_the_use_of_others_gives_them_no_year(
    client: FlaskClient, session: OrmSession, alice: Person, kind: str
) -> None:
    end = factories.now() + timedelta(days=3)
    token = factories.token(session.get_one(User, alice.id), type=kind, expires=end)
    assert works(client, token)
    session.expire_all()
    assert session.get_one(Session, hash_token(token)).expires == end


# -- cookies on https ------------------------------------------------------------------------------------------

HOST = "__Host-next-auth.session-token"


@pytest.fixture
def https_app(app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The application configured for https."""
    there = settings.model_copy(update={"stoa_base_url": "https://stoa.example.org"})
    monkeypatch.setitem(app.extensions, "settings", there)
    return app


def user_of(browser: FlaskClient, headers: dict[str, str], base: str = "http://localhost") -> str | None:
    answer = browser.get("/api/auth/session", headers=headers, base_url=base)
    found: str | None = (answer.json or {}).get("user", {}).get("email")
    return found


@pytest.mark.parametrize("headers", [{}, CHROME])
@pytest.mark.parametrize("weak", NAMES)
def test_a_weaker_cookie_never_overrides_the_host_cookie(
    https_app: Flask, session: OrmSession, alice: Person, mallory: Person, weak: str, headers: dict[str, str]
) -> None:
    for mine, expected in ((alice, "alice@example.org"), (None, None)):
        browser = https_app.test_client()
        user = session.get_one(User, mine.id) if mine else None
        browser.set_cookie(HOST, factories.token(user, type="web") if user else "ended")
        browser.set_cookie(weak, factories.token(session.get_one(User, mallory.id), type="web"))
        assert user_of(browser, headers) == expected


@pytest.mark.parametrize(("headers", "expected"), [({}, "alice@example.org"), (CHROME, None)])
@pytest.mark.parametrize("weak", NAMES)
def test_on_https_the_contracts_names_count_from_programs_only(
    https_app: Flask,
    session: OrmSession,
    alice: Person,
    weak: str,
    headers: dict[str, str],
    expected: str | None,
) -> None:
    browser = https_app.test_client()
    browser.set_cookie(weak, factories.token(session.get_one(User, alice.id), type="web"))
    assert user_of(browser, headers) == expected
    answer = browser.post("/api/api-keys", json={}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("changed", "scheme", "forwarded"),
    [
        ({"stoa_base_url": "https://stoa.example.org"}, "https", {}),
        ({"stoa_base_url": "https://stoa.example.org"}, "http", {}),
        ({"stoa_proxies": 1}, "http", {"X-Forwarded-Proto": "https"}),
    ],
)
def test_signing_in_and_out_on_https_uses_host_cookies_alone(
    postgres_url: str,
    settings: Settings,
    session: OrmSession,
    alice: Person,
    changed: dict[str, Any],
    scheme: str,
    forwarded: dict[str, str],
) -> None:
    from app import create_app
    from models.accounts import magic_links
    from models.core.db import db

    made = create_app(settings.model_copy(update=changed), database_url=postgres_url)
    path = magic_links.issue("alice@example.org", now=factories.now())
    session.commit()
    browser = made.test_client()
    browser.set_cookie(NAMES[1], "left over")
    options: dict[str, Any] = {"base_url": f"{scheme}://stoa.example.org", "headers": {**CHROME, **forwarded}}
    page = browser.get(path, **options)
    options["headers"]["Referer"] = f"https://stoa.example.org{path}"
    answer = browser.post(path, data={"csrf_token": token_of(page)}, **options)
    assert answer.status_code == 303
    assert user_of(browser, options["headers"], options["base_url"]) == "alice@example.org"
    sent = [*page.headers.getlist("Set-Cookie"), *answer.headers.getlist("Set-Cookie")]
    assert {each.partition("=")[0] for each in sent} == {HOST, "__Host-stoa-flow"}
    for each in sent:
        parts = {part.strip() for part in each.split(";")}
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= parts
        assert "Domain" not in each
    with made.app_context():
        db.engine.dispose()
    made.extensions["gateway"].pool.close()


@pytest.mark.parametrize("signed_in", [True, False])
def test_no_proxy_keeps_for_others_what_was_meant_for_one(
    app: Flask, session: OrmSession, alice: Person, signed_in: bool
) -> None:
    assert alice.user is not None
    factories.agent(factories.publisher(alice.user))
    browser, with_cookie = alice.browser if signed_in else app.test_client(), 0
    for rule, method in rules(app):
        if rule.endpoint == "accounts.signout":
            continue
        # due for extension, so that the cookie is sent again
        soon = (
            update(Session).where(Session.type == "web").values(expires=factories.now() + timedelta(days=5))
        )
        session.execute(soon)
        session.commit()
        answer = ask(browser, rule, method)
        if "Set-Cookie" in answer.headers:
            with_cookie += 1
            kept = answer.headers.get("Cache-Control", "")
            assert "private" in kept or "no-store" in kept, (method, rule.rule, kept)
            assert "public" not in kept, (method, rule.rule, kept)
            assert "s-maxage" not in kept, (method, rule.rule, kept)
        answer.close()
    assert with_cookie >= (50 if signed_in else 1)
