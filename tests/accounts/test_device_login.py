"""Device login: code, approval, status, logout. Every row of contract sections 1.4 and 2.1."""

import threading
import uuid
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import (
    DeviceRequest,
    Fingerprint,
    Session,
    User,
    delete_expired,
    device_requests,
    devices,
)
from models.accounts.credentials import CLI_LIFETIME, hash_token
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person

SECRET = "test-secret-test-secret-test-secret-test"
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140", "Sec-Fetch-Site": "cross-site"}
WAITING = {"error": "Authentication failed"}
SIGNED_IN = "The command line is signed in."


def request_code(
    client: FlaskClient, fingerprint: str = "codecane-cli-abc123", **more: str
) -> dict[str, Any]:
    answer = client.post("/api/auth/cli/code", json={"fingerprintId": fingerprint, **more})
    assert answer.status_code == 200
    return answer.json or {}


def code_in(issued: dict[str, Any]) -> str:
    return f"{issued['fingerprintId']}.{issued['expiresAt']}.{issued['fingerprintHash']}"


def status(client: FlaskClient, issued: dict[str, Any]):  # type: ignore[no-untyped-def]
    names = ("fingerprintId", "fingerprintHash", "expiresAt")
    return client.get("/api/auth/cli/status", query_string={name: issued[name] for name in names})


def onboard(person: Person, issued: dict[str, Any]) -> str:
    answer = person.browser.get("/onboard", query_string={"auth_code": code_in(issued)})
    assert answer.status_code == 200
    return answer.text


# -- the hash ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fingerprint", "expires_at", "expected"),
    [
        ("fp-test-1", "1766100000000", "aec61be0a672de74eafbe3ed2da2ee502f64b208d8f2ad4b1918efcc374f9ac8"),
        (
            "codecane-cli-abc123",
            "1893456000000",
            "943a012fc31bfdb6124023c3c76ed69a8eb0e99b22d3d1e57ff5e8acf54e7a6a",
        ),
    ],
)
def test_the_hash_is_the_contracts(fingerprint: str, expires_at: str, expected: str) -> None:
    assert devices.code_hash("test-secret", fingerprint, expires_at) == expected


def test_a_code_is_split_from_the_right() -> None:
    assert devices.read_code("a.b.c.17.ff") == devices.DeviceCode("a.b.c", "17", "ff")
    assert devices.read_code("a.b") is None


# -- POST code -----------------------------------------------------------------------------------------------


def test_a_code_and_where_to_open_it(client: FlaskClient, session: OrmSession) -> None:
    before = factories.now()
    answer = client.post("/api/auth/cli/code", json={"fingerprintId": "fp.1"})
    body: dict[str, Any] = answer.json or {}
    assert set(body) == {"fingerprintId", "fingerprintHash", "expiresAt", "loginUrl"}
    assert "Retry-After" not in answer.headers
    assert body["fingerprintId"] == "fp.1"
    assert isinstance(body["expiresAt"], int)
    assert 3_600_000 <= body["expiresAt"] - int(before.timestamp() * 1000) < 3_660_000
    assert body["fingerprintHash"] == devices.code_hash(SECRET, "fp.1", str(body["expiresAt"]))
    assert body["loginUrl"] == f"http://localhost:8000/login?auth_code={code_in(body)}"
    assert session.scalars(select(Fingerprint)).all() == []


def test_a_referral_code_rides_along(client: FlaskClient) -> None:
    assert request_code(client, referralCode="ref-1")["loginUrl"].endswith("&referral_code=ref-1")


def test_the_content_type_does_not_matter(client: FlaskClient) -> None:
    answer = client.post("/api/auth/cli/code", data='{"fingerprintId": "f"}', content_type="text/plain")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"fingerprintId": 5}',
        '{"fingerprintId": null}',
        '{"fingerprintId": "a\\u0000"}',
        '{"fingerprintId": "f", "referralCode": 5}',
        '{"fingerprintId": "f", "referralCode": null}',
        '{"fingerprintId": "' + "x" * 1001 + '"}',
    ],
)
def test_a_code_needs_a_fingerprint(client: FlaskClient, body: str) -> None:
    answer = client.post("/api/auth/cli/code", data=body)
    assert answer.status_code == 400
    assert answer.json == {"error": "Invalid request body"}


def test_codes_are_limited(client: FlaskClient) -> None:
    codes = [client.post("/api/auth/cli/code", json={"fingerprintId": "f"}).status_code for _ in range(31)]
    assert codes == [200] * 30 + [429]
    answer = client.post("/api/auth/cli/code", json={"fingerprintId": "f"})
    assert isinstance((answer.json or {})["error"], str)
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["code", "status", "logout"])
def test_other_origins_may_ask(client: FlaskClient, path: str) -> None:
    for answer in (client.options(f"/api/auth/cli/{path}"), client.get(f"/api/auth/cli/{path}")):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, OPTIONS"
        assert answer.headers["Access-Control-Allow-Headers"] == "Content-Type"
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert client.options(f"/api/auth/cli/{path}").status_code == 200


# -- GET status ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["fingerprintId", "fingerprintHash", "expiresAt"])
def test_status_needs_all_three(client: FlaskClient, missing: str) -> None:
    query = {"fingerprintId": "f", "fingerprintHash": "h", "expiresAt": "1"}
    for value in (None, ""):
        given = (
            {**query, missing: value}
            if value is not None
            else {k: v for k, v in query.items() if k != missing}
        )
        answer = client.get("/api/auth/cli/status", query_string=given)
        assert answer.status_code == 400
        assert answer.json == {"error": "Invalid query parameters"}


@pytest.mark.parametrize(
    "change",
    [
        {"expiresAt": "1"},
        {"expiresAt": "soon"},
        {"expiresAt": "NaN"},
        {"expiresAt": "٣"},
        {"expiresAt": "9" * 400},
        {"expiresAt": "-5"},
        {"fingerprintHash": "0" * 64},
        {"fingerprintHash": "\0"},
        {"fingerprintHash": "é"},
        {"fingerprintId": "other"},
        {"fingerprintId": "\0"},
        {},
    ],
)
def test_status_is_401_until_let_in(client: FlaskClient, change: dict[str, str]) -> None:
    answer = status(client, {**request_code(client), **change})
    assert answer.status_code == 401
    assert answer.json == WAITING


def test_an_expired_code_collects_nothing(client: FlaskClient, alice: Person, session: OrmSession) -> None:
    past = str(int((factories.now() - timedelta(seconds=1)).timestamp() * 1000))
    hash_ = devices.code_hash(SECRET, "f", past)
    answer = status(client, {"fingerprintId": "f", "fingerprintHash": hash_, "expiresAt": past})
    assert answer.status_code == 401


# -- the whole flow ------------------------------------------------------------------------------------------


def test_from_code_to_call(client: FlaskClient, alice: Person, session: OrmSession) -> None:
    issued = request_code(client)
    assert status(client, issued).status_code == 401
    assert SIGNED_IN in onboard(alice, issued)
    answer = status(client, issued)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    body: dict[str, Any] = answer.json or {}
    token = body["user"].pop("authToken")
    assert body == {
        "user": {
            "id": alice.id,
            "name": "alice",
            "email": "alice@example.org",
            "fingerprintId": issued["fingerprintId"],
            "fingerprintHash": issued["fingerprintHash"],
        },
        "message": "Authentication successful!",
    }
    assert uuid.UUID(token).version == 4
    assert str(uuid.UUID(token)) == token
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).json == {"id": alice.id}
    again = status(client, issued)
    assert (again.status_code, again.json) == (401, WAITING)

    row = session.get_one(Session, hash_token(token))
    assert (row.type, row.fingerprint_id) == ("cli", issued["fingerprintId"])
    assert abs(row.expires - factories.now() - CLI_LIFETIME) < timedelta(minutes=1)
    web = session.scalars(select(Session).where(Session.user_id == alice.id, Session.type == "web")).one()
    assert row.parent == web.session_token
    assert row.token_hint == token[-4:]
    assert session.get_one(Fingerprint, issued["fingerprintId"]).sig_hash == issued["fingerprintHash"]


def test_of_many_polls_at_once_one_gets_the_token(app: Flask, client: FlaskClient, alice: Person) -> None:
    issued = request_code(client)
    onboard(alice, issued)
    barrier, answers = threading.Barrier(6), []

    def poll() -> None:
        barrier.wait()
        answers.append(status(app.test_client(), issued))

    threads = [threading.Thread(target=poll) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 5
    assert [answer.json for answer in answers if answer.status_code == 401] == [WAITING] * 5


def test_a_look_without_a_body_leaves_the_token(client: FlaskClient, alice: Person) -> None:
    issued = request_code(client)
    onboard(alice, issued)
    names = ("fingerprintId", "fingerprintHash", "expiresAt")
    query = {name: issued[name] for name in names}
    assert client.head("/api/auth/cli/status", query_string=query).status_code == 401
    assert client.options("/api/auth/cli/status", query_string=query).status_code == 200
    assert status(client, issued).status_code == 200
    assert status(client, issued).status_code == 401


def test_an_answered_code_stays_used(client: FlaskClient, alice: Person, session: OrmSession) -> None:
    """Neither opening the URL again nor waiting returns a second token."""
    issued = request_code(client)
    onboard(alice, issued)
    token = (status(client, issued).json or {})["user"]["authToken"]
    assert "Link already used" in onboard(alice, issued)
    assert status(client, issued).status_code == 401
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert len(session.scalars(select(Session).where(Session.type == "cli")).all()) == 1


def test_a_user_without_a_name_has_name_null(client: FlaskClient, app: Flask, session: OrmSession) -> None:
    nameless = factories.person(app, "carol")
    session.get_one(User, nameless.id).name = None
    session.commit()
    issued = request_code(client)
    onboard(nameless, issued)
    assert (status(client, issued).json or {})["user"]["name"] is None


def test_a_code_is_good_for_one_session(client: FlaskClient, alice: Person, session: OrmSession) -> None:
    issued = request_code(client)
    onboard(alice, issued)
    assert SIGNED_IN in onboard(alice, issued)
    assert len(session.scalars(select(Session).where(Session.type == "cli")).all()) == 1


def test_a_device_may_sign_in_again_without_signing_out(client: FlaskClient, alice: Person) -> None:
    first, second = request_code(client), None
    onboard(alice, first)
    while second is None or second["expiresAt"] == first["expiresAt"]:
        second = request_code(client)
    assert SIGNED_IN in onboard(alice, second)
    tokens = [(status(client, issued).json or {})["user"]["authToken"] for issued in (first, second)]
    assert len(set(tokens)) == 2


def test_the_same_code_again_after_signing_out_gives_another_token(
    client: FlaskClient, alice: Person
) -> None:
    issued = request_code(client)
    onboard(alice, issued)
    user = (status(client, issued).json or {})["user"]
    headers = {"Authorization": f"Bearer {user['authToken']}"}
    body = {"userId": alice.id, "fingerprintId": issued["fingerprintId"], "fingerprintHash": "unused"}
    assert client.post("/api/auth/cli/logout", json=body, headers=headers).json == {"success": True}
    assert status(client, issued).status_code == 401
    assert SIGNED_IN in onboard(alice, issued)
    assert (status(client, issued).json or {})["user"]["authToken"] != user["authToken"]


def test_anothers_device_is_not_taken(
    client: FlaskClient, alice: Person, mallory: Person, session: OrmSession
) -> None:
    issued = request_code(client)
    onboard(alice, issued)
    assert "Another account uses this device." in onboard(mallory, issued)
    assert (status(client, issued).json or {})["user"]["id"] == alice.id
    assert (
        session.scalars(select(Session).where(Session.user_id == mallory.id, Session.type == "cli")).all()
        == []
    )


@pytest.mark.parametrize(
    "code", ["x", "a.b", "f.1.ff", "f..", "..", "f.99999999999999999999.ff", "\0.1.ff", "é.1.é"]
)
def test_an_invalid_code(alice: Person, session: OrmSession, code: str) -> None:
    for path in ("/onboard", "/login"):
        page = alice.browser.get(path, query_string={"auth_code": code})
        assert page.status_code == 200
        assert "This sign-in link is not valid." in page.text
    assert session.scalars(select(Session).where(Session.type == "cli")).all() == []


def test_an_expired_code(alice: Person, client: FlaskClient) -> None:
    past = str(int((factories.now() - timedelta(seconds=1)).timestamp() * 1000))
    code = f"f.{past}.{devices.code_hash(SECRET, 'f', past)}"
    for browser in (alice.browser, client):
        assert (
            "This sign-in link has expired." in browser.get("/login", query_string={"auth_code": code}).text
        )
    assert (
        "This sign-in link has expired."
        in alice.browser.get("/onboard", query_string={"auth_code": code}).text
    )


def test_digits_cannot_wander_from_the_name_into_the_time(client: FlaskClient, alice: Person) -> None:
    issued = request_code(client, "fp9")
    moved = f"fp.9{issued['expiresAt']}.{issued['fingerprintHash']}"
    assert (
        "This sign-in link is not valid."
        in alice.browser.get("/onboard", query_string={"auth_code": moved}).text
    )


def test_onboard_without_a_code_welcomes(alice: Person) -> None:
    assert "Welcome to Stoa" in alice.browser.get("/onboard").text


def test_onboard_signed_out_goes_to_the_front_page(client: FlaskClient) -> None:
    answer = client.get("/onboard", query_string={"auth_code": code_in(request_code(client))})
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/"


def test_two_windows_at_once_make_one_session(
    app: Flask, client: FlaskClient, alice: Person, session: OrmSession
) -> None:
    issued, texts = request_code(client), []
    cookie = alice.browser.get_cookie("next-auth.session-token")
    assert cookie is not None
    barrier = threading.Barrier(4)

    def go() -> None:
        browser = app.test_client()
        browser.set_cookie("next-auth.session-token", cookie.value)
        barrier.wait()
        texts.append(browser.get("/onboard", query_string={"auth_code": code_in(issued)}).text)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(SIGNED_IN in text for text in texts)
    assert len(session.scalars(select(Session).where(Session.type == "cli")).all()) == 1


# -- approval ------------------------------------------------------------------------------------------------


def test_a_browser_is_asked_before_anything_happens(
    client: FlaskClient, alice: Person, session: OrmSession
) -> None:
    issued = request_code(client, "marsh-laptop")
    for path in ("/onboard", "/login"):
        page = alice.browser.get(path, query_string={"auth_code": code_in(issued)}, headers=BROWSER)
        assert "Connect a command line?" in page.text
        assert "marsh-laptop" in page.text
        assert "alice@example.org" in page.text
    alice.browser.head("/onboard", query_string={"auth_code": code_in(issued)})
    assert status(client, issued).status_code == 401
    form = {"csrf_token": token_of(page), "auth_code": code_in(issued)}
    answer = alice.browser.post("/onboard", data=form, headers={**BROWSER, "Sec-Fetch-Site": "same-origin"})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/onboard?auth_code={code_in(issued)}")
    assert SIGNED_IN in alice.browser.get(answer.headers["Location"], headers=BROWSER).text
    assert status(client, issued).status_code == 200


def test_consent_cannot_be_given_by_another_site(client: FlaskClient, alice: Person) -> None:
    issued = request_code(client)
    page = alice.browser.get("/onboard", query_string={"auth_code": code_in(issued)}, headers=BROWSER)
    form = {"csrf_token": token_of(page), "auth_code": code_in(issued)}
    assert alice.browser.post("/onboard", data=form, headers=BROWSER).status_code == 403
    assert alice.browser.post("/onboard", data={"auth_code": code_in(issued)}).status_code == 400
    assert status(client, issued).status_code == 401


def test_consent_needs_somebody_signed_in(client: FlaskClient) -> None:
    issued = request_code(client)
    token = token_of(client.get("/login"))
    answer = client.post("/onboard", data={"csrf_token": token, "auth_code": code_in(issued)})
    assert answer.status_code == 303
    assert status(client, issued).status_code == 401


def test_the_login_page_says_what_waits(client: FlaskClient) -> None:
    issued = request_code(client, "marsh-laptop", referralCode="ref-1")
    query = urlsplit(issued["loginUrl"]).query
    page = client.get(f"/login?{query}")
    assert "Sign in to connect a command line" in page.text
    assert "A command line is waiting" in page.text
    assert "marsh-laptop" in page.text
    assert f'value="/onboard?{query}"'.replace("&", "&amp;") in page.text


def test_a_hostile_fingerprint_is_only_text(client: FlaskClient) -> None:
    issued = request_code(client, "<script>alert(1)</script>")
    page = client.get("/login", query_string={"auth_code": code_in(issued)})
    assert "<script>alert" not in page.text


def test_another_account_keeps_the_code(client: FlaskClient, alice: Person) -> None:
    issued = request_code(client)
    page = alice.browser.get("/login", query_string={"auth_code": code_in(issued)}, headers=BROWSER)
    where = f"/login?auth_code={code_in(issued)}"
    answer = alice.browser.post(
        "/api/auth/signout", data={"csrf_token": token_of(page), "callbackUrl": where}
    )
    location = urlsplit(answer.headers["Location"])
    assert location.path == "/login"
    assert parse_qs(location.query) == {"auth_code": [code_in(issued)]}


def send(person: Person, path: str, issued: dict[str, Any]) -> TestResponse:
    """Send a form of the page as a browser does."""
    token = token_of(
        person.browser.get("/login", headers=BROWSER) if person.user is None else _security(person)
    )
    form = {"csrf_token": token, "auth_code": code_in(issued)}
    return person.browser.post(path, data=form, headers={**BROWSER, "Sec-Fetch-Site": "same-origin"})


def _security(person: Person) -> TestResponse:
    return person.browser.get("/profile?tab=security", headers=BROWSER)


def test_the_page_says_who_asks_from_where_and_which_code(app: Flask, alice: Person) -> None:
    cli = app.test_client()
    cli.environ_base |= {
        "HTTP_USER_AGENT": "stoa.mjs/0.1.0 (linux x64; node 20.1)",
        "REMOTE_ADDR": "203.0.113.5",
    }
    issued = request_code(cli)
    for path, where in (("/onboard", "not the address of this browser"), ("/login", "203.0.113.5")):
        page = alice.browser.get(path, query_string={"auth_code": code_in(issued)}, headers=BROWSER)
        assert f"{issued['fingerprintHash'][-8:-4]}-{issued['fingerprintHash'][-4:]}" in page.text
        assert "stoa.mjs 0.1.0" in page.text
        assert where in page.text
    cli.environ_base["REMOTE_ADDR"] = "::1"
    issued = request_code(cli)
    page = alice.browser.get("/onboard", query_string={"auth_code": code_in(issued)}, headers=BROWSER)
    assert "the same as this browser" in page.text


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("stoa.mjs/0.1.0 (linux)", "stoa.mjs 0.1.0"),
        ("Bun/1.2", "Bun 1.2"),
        ("Mozilla/5.0 (X11)", None),
        ("", None),
        ("\xe9vil/1", None),
        ("a\x1b[31m/1", None),
        ("x" * 5000, "x" * 60),
    ],
)
def test_a_program_is_named_by_its_first_product(agent: str, name: str | None) -> None:
    assert device_requests.client_of(agent) == name


def test_a_refused_code_tells_its_command_line_at_once_and_stays_refused(
    client: FlaskClient, alice: Person, session: OrmSession
) -> None:
    issued = request_code(client)
    for _ in range(2):  # a double click
        answer = send(alice, "/onboard/refusal", issued)
        assert (answer.status_code, answer.headers["Location"]) == (
            303,
            f"/onboard?auth_code={code_in(issued)}",
        )
    assert "Sign-in refused" in alice.browser.get(answer.headers["Location"], headers=BROWSER).text
    refused = status(client, issued)
    assert (refused.status_code, refused.json) == (403, {"error": "The sign-in was refused in the browser."})
    send(alice, "/onboard", issued)
    assert status(client, issued).status_code == 403
    assert session.scalars(select(Session).where(Session.type == "cli")).all() == []


def test_an_approved_code_cannot_be_refused(client: FlaskClient, alice: Person, mallory: Person) -> None:
    issued = request_code(client)
    for _ in range(2):
        send(alice, "/onboard", issued)
    for person in (alice, mallory):
        send(person, "/onboard/refusal", issued)
    assert status(client, issued).status_code == 200


@pytest.mark.parametrize("code", ["x", "f.1.ff", "\0.1.ff", "é.1.é", "\ud800.1.ff"])
@pytest.mark.parametrize("path", ["/onboard", "/onboard/refusal"])
def test_an_invalid_code_changes_nothing(alice: Person, session: OrmSession, path: str, code: str) -> None:
    form = {"csrf_token": token_of(_security(alice)), "auth_code": code.encode("utf-8", "surrogatepass")}
    answer = alice.browser.post(path, data=form, headers={**BROWSER, "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303
    assert (
        "This sign-in link is not valid."
        in alice.browser.get(answer.headers["Location"], headers=BROWSER).text
    )
    assert session.scalars(select(DeviceRequest)).all() == []


def test_refusing_needs_somebody_signed_in(client: FlaskClient, anonymous: Person) -> None:
    issued = request_code(client)
    assert send(anonymous, "/onboard/refusal", issued).headers["Location"] == "/"
    assert status(client, issued).status_code == 401


def test_old_requests_are_forgotten(client: FlaskClient, session: OrmSession) -> None:
    request_code(client)
    delete_expired(factories.now() + timedelta(hours=23))
    assert len(session.scalars(select(DeviceRequest)).all()) == 1
    delete_expired(factories.now() + timedelta(hours=25))
    assert session.scalars(select(DeviceRequest)).all() == []


# -- POST logout ---------------------------------------------------------------------------------------------

TRIPLE = {"userId": "u", "fingerprintId": "f", "fingerprintHash": "h"}


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {**TRIPLE, "userId": 5}, {**TRIPLE, "authToken": None}]
    + [{key: value for key, value in TRIPLE.items() if key != gone} for gone in TRIPLE],
)
def test_logout_needs_its_three(client: FlaskClient, body: Any) -> None:
    answer = client.post("/api/auth/cli/logout", json=body, headers={"Authorization": "Bearer x"})
    assert answer.status_code == 400
    assert answer.json == {"error": "Invalid request body"}


def test_logout_with_broken_json(client: FlaskClient) -> None:
    answer = client.post("/api/auth/cli/logout", data="{", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 400


def test_logout_without_a_token(client: FlaskClient) -> None:
    answer = client.post("/api/auth/cli/logout", json=TRIPLE)
    assert answer.status_code == 401
    assert answer.json == {"error": "Unauthorized"}


def test_logout_ends_exactly_its_session(
    client: FlaskClient, alice: Person, bob: Person, session: OrmSession
) -> None:
    user = session.get_one(User, alice.id)
    factories.fingerprint("fp-1", sig_hash="abc")
    mine = factories.token(user, type="cli", fingerprint_id="fp-1")
    other = factories.token(user, type="cli", fingerprint_id="fp-1")

    def rows() -> set[str]:
        session.expire_all()
        return set(session.scalars(select(Session.session_token)))

    before = rows()
    right = {"userId": alice.id, "fingerprintId": "fp-1", "fingerprintHash": "h"}
    for token, body in (
        (mine, {**right, "userId": bob.id}),
        (mine, {**right, "fingerprintId": "fp-2"}),
        (bob.token, right),
        (alice.token, right),
        ("unknown", right),
    ):
        answer = client.post("/api/auth/cli/logout", json=body, headers={"Authorization": f"Bearer {token}"})
        assert answer.json == {"success": True}
    assert rows() == before
    assert session.get_one(Fingerprint, "fp-1").sig_hash == "abc"

    # the header takes precedence over the body; the body alone suffices
    body = {**right, "authToken": other}
    client.post("/api/auth/cli/logout", json=body, headers={"Authorization": f"Bearer {mine}"})
    assert rows() == before - {hash_token(mine)}
    assert session.get_one(Fingerprint, "fp-1").sig_hash is None
    assert client.post("/api/auth/cli/logout", json=body).json == {"success": True}
    assert rows() == before - {hash_token(mine), hash_token(other)}
