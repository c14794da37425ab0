"""The tabs `security` and `api-keys`, with and without htmx, for every test user."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Fingerprint, Session, User, magic_links
from models.accounts.credentials import hash_token
from models.accounts.sessions import NEVER, USER_AGENT_LENGTH
from models.accounts.user_agents import describe_agent
from models.core.audit_log import AuditLog
from models.core.settings import Settings
from models.orgs import Org
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person
from views.web import guards

HTMX = {"HX-Request": "true"}
SECURITY, KEYS = "/profile?tab=security", "/profile?tab=api-keys"


def form(person: Person, **more: str) -> dict[str, str]:
    page = person.browser.get(KEYS if person.user else "/login")
    return {"csrf_token": token_of(page), **more}


def stored_tokens(session: OrmSession) -> set[str]:
    session.expire_all()
    return set(session.scalars(select(Session.session_token)))


def device(session: OrmSession, owner: Person, id: str = "codecane-cli-1") -> str:
    factories.fingerprint(id, sig_hash="abc")
    user = session.get_one(User, owner.id)
    return factories.token(user, type="cli", fingerprint_id=id)


# -- content -------------------------------------------------------------------------------------------------


def test_security_shows_browsers_and_command_lines(session: OrmSession, alice: Person, bob: Person) -> None:
    cli = device(session, alice)
    device(session, bob, "bobs-device")
    user = session.get_one(User, alice.id)
    ended = factories.token(user, type="web", expires=factories.now() - timedelta(seconds=5))
    page = alice.browser.get(SECURITY)
    assert page.status_code == 200
    assert "This browser" in page.text
    assert "codecane-cli-1" in page.text
    assert "Never" in page.text
    assert "bobs-device" not in page.text
    assert cli not in page.text
    assert hash_token(ended) not in page.text


def test_a_session_says_browser_system_and_address(
    session: OrmSession, app: Flask, alice: Person, anonymous: Person
) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    link = magic_links.issue("alice@example.org", now=factories.now())
    session.commit()
    browser, headers = anonymous.browser, {"User-Agent": agent + " x" * 400}
    form_data = {"csrf_token": token_of(browser.get(link))}
    assert browser.post(link, data=form_data, headers=headers).status_code == 303
    row = session.scalars(select(Session).where(Session.user_agent.is_not(None))).one()
    assert (len(row.user_agent or ""), row.last_used_ip) == (USER_AGENT_LENGTH, "127.0.0.1")
    row.last_used_at = factories.now() - timedelta(minutes=6)
    session.commit()
    browser.get(SECURITY, headers={"User-Agent": agent}, environ_overrides={"REMOTE_ADDR": "198.51.100.7"})
    page = alice.browser.get(SECURITY).text
    assert "Firefox on Linux" in page
    assert "198.51.100.7" in page
    assert "Unknown browser" not in page  # alice's own was seen just now
    ending = alice.browser.get(f"/profile/sessions/{row.session_token}/revocation").text
    assert "Sign out Firefox on Linux" in ending


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (None, None),
        ("", None),
        ("Mozilla/5.0", None),
        ("curl/8.5.0", "curl 8.5.0"),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36 Edg/130.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1",
            "Safari on iPhone",
        ),
        (
            "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
            "Safari on macOS",
        ),
    ],
)
def test_a_user_agent_in_words(user_agent: str | None, words: str | None) -> None:
    assert describe_agent(user_agent) == words


def test_security_without_a_command_line(alice: Person) -> None:
    page = alice.browser.get(SECURITY).text
    assert "No command line is signed in" in page
    assert "Sign out all" not in page
    assert "Sign out of the others" not in page


def test_keys_are_masked(session: OrmSession, alice: Person, bob: Person) -> None:
    page = alice.browser.get(KEYS)
    assert alice.token[:15] in page.text
    assert alice.token not in page.text
    assert bob.token[:15] not in page.text
    assert page.headers["Cache-Control"] == "no-store"


def test_no_keys_says_the_next_step(session: OrmSession, client: FlaskClient) -> None:
    user = factories.user("carol")
    client.set_cookie("next-auth.session-token", factories.token(user, type="web"))
    assert "No keys yet" in client.get(KEYS).text


def test_there_is_no_other_tab(alice: Person) -> None:
    assert alice.browser.get("/profile?tab=nothing").status_code == 404


@pytest.mark.parametrize(
    "path", [SECURITY, KEYS, "/profile/sessions/web/revocation", "/profile/sessions/cli/revocation"]
)
def test_signed_out_pages_go_to_sign_in(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/login?next=")


@pytest.mark.parametrize(
    "path",
    [
        "/profile/keys",
        "/profile/keys/{token}/revocation",
        "/profile/sessions/{token}/revocation",
        "/profile/sessions/web/revocation",
        "/profile/sessions/cli/revocation",
    ],
)
def test_nobody_changes_nothing(session: OrmSession, alice: Person, anonymous: Person, path: str) -> None:
    before = stored_tokens(session)
    path = path.format(token=hash_token(alice.token))
    data = form(anonymous, typed="confirm", days="30")
    answer = anonymous.browser.post(path, data=data)
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/login"
    fragment = anonymous.browser.post(path, data=data, headers=HTMX)
    assert fragment.status_code == 401
    assert fragment.headers["HX-Redirect"] == "/login"
    assert stored_tokens(session) == before


def test_strangers_revoke_nothing_of_others(
    session: OrmSession, alice: Person, bob: Person, mallory: Person
) -> None:
    cli = device(session, alice)
    before = stored_tokens(session)
    for person in (bob, mallory):
        data = form(person, typed="confirm")
        for kind in ("keys", "sessions"):
            for token in (alice.token, cli):
                for name in (hash_token(token), token):
                    path = f"/profile/{kind}/{name}/revocation"
                    assert person.browser.get(path).status_code == 404
                    assert person.browser.post(path, data=data).status_code == 404
        person.browser.post("/profile/sessions/cli/revocation", data=data)
        person.browser.post("/profile/sessions/web/revocation", data=data)
    assert stored_tokens(session) == before


@pytest.mark.parametrize("name", ["%00", "x", "../x", "%ff", "x" * 5000])
def test_names_that_name_nothing(alice: Person, name: str) -> None:
    data = form(alice)
    for kind in ("keys", "sessions"):
        assert alice.browser.get(f"/profile/{kind}/{name}/revocation").status_code in (404, 405)
        assert alice.browser.post(f"/profile/{kind}/{name}/revocation", data=data).status_code in (404, 405)


# -- keys ----------------------------------------------------------------------------------------------------


def test_a_key_is_made_and_shown_once(session: OrmSession, alice: Person, client: FlaskClient) -> None:
    answer = alice.browser.post("/profile/keys", data=form(alice, name=" laptop ", days="30"))
    assert answer.status_code == 303
    address = answer.headers["Location"]
    cookie = alice.browser.get_cookie("stoa-flow")
    assert cookie is not None
    page = alice.browser.get(address).text
    found = re.search(r"sk_live_[0-9A-Za-z]{73}", page)
    assert found
    token = found[0]
    assert address == f"/profile/keys/{token[:32]}/first-call"
    assert token not in alice.browser.get(address).text
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).json == {"id": alice.id}
    row = session.get_one(Session, token[:32])
    assert row.name == "laptop"
    assert timedelta(days=29, hours=23) < row.expires - factories.now() <= timedelta(days=30)
    assert [each.action for each in session.scalars(select(AuditLog))] == ["token.created"]


def test_the_waiting_key_is_not_readable_in_the_cookie(alice: Person) -> None:
    import base64
    import zlib

    alice.browser.post("/profile/keys", data=form(alice, days="30"))
    cookie = alice.browser.get_cookie("stoa-flow")
    assert cookie is not None
    packed = cookie.value.lstrip(".").split(".")[0]
    raw = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
    text = zlib.decompress(raw) if cookie.value.startswith(".") else raw
    assert b"new_key" in text
    assert b"sk_live_" not in text


def test_a_key_may_last(session: OrmSession, alice: Person) -> None:
    alice.browser.post("/profile/keys", data=form(alice, name="robot", days="never"))
    row = session.scalars(select(Session).where(Session.name == "robot")).one()
    assert row.expires == NEVER
    listed = alice.browser.get(KEYS).text
    assert re.search(r'data-label="Expires">Never<', listed)
    sessions = alice.browser.get("/api/api-keys").json or {}
    assert "9999-01-01" in str(sessions)
    org = factories.org(session.get_one(User, alice.id))
    refused = alice.browser.post("/profile/keys", data=form(alice, name="ours", days="never", org=org.id))
    assert refused.status_code == 422
    assert "at most 365 days" in refused.text


@pytest.mark.parametrize("way", ["call", "route"])
def test_a_key_says_from_where_it_was_last_used(
    session: OrmSession, client: FlaskClient, alice: Person, way: str
) -> None:
    assert alice.user
    factories.grant(alice.user)
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Hello"}]}
    answer = client.open(
        "/v1/chat/completions" if way == "call" else "/api/v1/me",
        method="POST" if way == "call" else "GET",
        json=body if way == "call" else None,
        headers=alice.headers,
        environ_overrides={"REMOTE_ADDR": "198.51.100.9"},
    )
    assert answer.status_code == 200, answer.text
    assert "198.51.100.9" in alice.browser.get(KEYS).text


def test_a_key_is_renamed_and_switched_off_and_on(
    session: OrmSession, client: FlaskClient, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    path = f"/profile/keys/{hash_token(alice.token)}"

    def works() -> bool:
        return client.get("/api/v1/me", headers=alice.headers).status_code == 200

    for other in (bob, mallory):
        assert other.browser.get(path).status_code == 404
        assert other.browser.post(path, data=form(other, name="mine")).status_code == 404
    assert anonymous.browser.post(path, data=form(anonymous, name="mine")).headers["Location"] == "/login"
    assert works()
    answer = alice.browser.post(path, data=form(alice, name=" laptop "))
    assert answer.headers["Location"] == KEYS
    assert not works()
    listed = alice.browser.get(KEYS).text
    assert "laptop" in listed
    assert ">Off<" in listed or "Off</span>" in listed
    assert "checked" not in alice.browser.get(path).text
    fragment = alice.browser.post(path, data=form(alice, name="x" * 101, on="1"), headers=HTMX)
    assert fragment.status_code == 422
    assert "<dialog" in fragment.text
    assert 'aria-invalid="true"' in fragment.text
    assert not works()
    alice.browser.post(path, data=form(alice, name="", on="1"))
    assert works()
    logged = session.scalars(
        select(AuditLog.after).where(AuditLog.action == "token.changed").order_by(AuditLog.id)
    )
    assert [(each["name"], each["on"]) for each in logged] == [("laptop", False), (None, True)]


def test_the_expiry_of_a_key_is_changed(session: OrmSession, alice: Person, acme: Org, bob: Person) -> None:
    own, for_org = factories.token(alice.user), factories.token(alice.user, org_id=acme.id)
    session.commit()

    def save(token: str, days: str, person: Person = alice) -> tuple[int, datetime]:
        path = f"/profile/keys/{hash_token(token)}"
        data = form(alice) if person is alice else form(person)
        answer = person.browser.post(path, data=data | {"name": "k", "on": "1", "days": days})
        session.expire_all()
        return answer.status_code, session.get_one(Session, hash_token(token)).expires

    before = session.get_one(Session, hash_token(own)).expires
    assert save(own, "") == (303, before)
    status, expires = save(own, "7")
    assert status == 303
    assert timedelta(days=6.9) < expires - datetime.now(UTC) < timedelta(days=7)
    assert save(own, "never") == (303, NEVER)
    for wrong in ("0", "366", "-1", "1.5", "\x00", "9" * 400):
        assert save(own, wrong) == (422, NEVER)
    assert save(for_org, "365")[0] == 303
    assert save(for_org, "never")[0] == 422
    assert save(own, "7", bob)[0] == 404
    logged = session.scalars(
        select(AuditLog.after).where(AuditLog.action == "token.changed").order_by(AuditLog.id)
    )
    assert [each["expires"] == "never" for each in logged] == [False, False, True, False]


def test_with_htmx_a_made_key_moves_the_page(alice: Person) -> None:
    answer = alice.browser.post("/profile/keys", data=form(alice, days="30"), headers=HTMX)
    assert answer.status_code == 204
    assert answer.headers["HX-Redirect"].endswith("/first-call")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("days", ""),
        ("days", "0"),
        ("days", "366"),
        ("days", "-1"),
        ("days", "1.5"),
        ("days", "٣"),
        ("days", "9" * 50),
        ("name", "x" * 101),
        ("name", "a\0b"),
        ("name", "a\nb"),
    ],
)
def test_a_wrong_field_keeps_the_input(session: OrmSession, alice: Person, field: str, value: str) -> None:
    before = stored_tokens(session)
    data = form(alice, **{"name": "kept", "days": "30", field: value})
    page = alice.browser.post("/profile/keys", data=data)
    assert page.status_code == 422
    assert "<html" in page.text
    assert 'aria-invalid="true"' in page.text
    assert f'aria-describedby="{field}-e {field}-h"' in page.text
    fragment = alice.browser.post("/profile/keys", data=data, headers=HTMX)
    assert fragment.status_code == 422
    assert "<html" not in fragment.text
    assert "Your keys" not in fragment.text
    assert stored_tokens(session) == before


def test_making_keys_on_the_page_is_limited(alice: Person) -> None:
    data = form(alice, days="30")
    codes = [alice.browser.post("/profile/keys", data=data).status_code for _ in range(21)]
    assert codes == [303] * 20 + [429]
    assert int(alice.browser.post("/profile/keys", data=data).headers["Retry-After"]) > 0


def test_a_key_is_revoked_after_a_question(session: OrmSession, alice: Person, client: FlaskClient) -> None:
    path = f"/profile/keys/{hash_token(alice.token)}/revocation"
    page = alice.browser.get(path)
    assert "<html" in page.text
    assert "<dialog" not in page.text
    assert "cannot be undone" in page.text
    dialog = alice.browser.get(path, headers=HTMX)
    assert "<html" not in dialog.text
    assert "<dialog" in dialog.text
    assert client.get("/api/v1/me", headers=alice.headers).status_code == 200
    answer = alice.browser.post(path, data={"csrf_token": token_of(page)})
    assert answer.status_code == 303
    assert answer.headers["Location"] == KEYS
    assert "Key revoked." in alice.browser.get(KEYS).text
    assert client.get("/api/v1/me", headers=alice.headers).status_code == 401
    assert alice.browser.get(path).status_code == 404


# -- sessions ------------------------------------------------------------------------------------------------


def test_one_session_is_ended_after_a_question(session: OrmSession, alice: Person) -> None:
    cli = device(session, alice)
    path = f"/profile/sessions/{hash_token(cli)}/revocation"
    page = alice.browser.get(path)
    assert "Sign out this command line?" in page.text
    answer = alice.browser.post(path, data={"csrf_token": token_of(page)})
    assert answer.headers["Location"] == SECURITY
    assert hash_token(cli) not in stored_tokens(session)
    assert session.get_one(Fingerprint, "codecane-cli-1").sig_hash is None


def test_a_key_is_no_session(session: OrmSession, alice: Person) -> None:
    path = f"/profile/sessions/{hash_token(alice.token)}/revocation"
    assert alice.browser.post(path, data=form(alice)).status_code == 404
    assert hash_token(alice.token) in stored_tokens(session)


def test_all_other_browsers_are_signed_out(session: OrmSession, alice: Person, bob: Person) -> None:
    user = session.get_one(User, alice.id)
    other = factories.token(user, type="web")
    cli = device(session, alice)
    before = stored_tokens(session)
    page = alice.browser.get("/profile/sessions/web/revocation")
    answer = alice.browser.post("/profile/sessions/web/revocation", data={"csrf_token": token_of(page)})
    assert answer.headers["Location"] == SECURITY
    assert stored_tokens(session) == before - {hash_token(other)}
    assert hash_token(cli) in stored_tokens(session)
    assert "Signed out everywhere else: 1 browser." in alice.browser.get(SECURITY).text


@pytest.mark.parametrize("typed", ["", "yes", "confirmed", "\0"])
def test_all_command_lines_need_the_typed_word(session: OrmSession, alice: Person, typed: str) -> None:
    device(session, alice)
    before = stored_tokens(session)
    data = form(alice, typed=typed)
    page = alice.browser.post("/profile/sessions/cli/revocation", data=data)
    assert page.status_code == 422
    assert "Type the word confirm." in page.text
    fragment = alice.browser.post("/profile/sessions/cli/revocation", data=data, headers=HTMX)
    assert fragment.status_code == 422
    assert "<dialog" in fragment.text
    assert 'aria-invalid="true"' in fragment.text
    assert stored_tokens(session) == before


def test_all_command_lines_are_signed_out(session: OrmSession, alice: Person, bob: Person) -> None:
    mine = {hash_token(device(session, alice, f"d{number}")) for number in range(2)}
    theirs = hash_token(device(session, bob, "bobs"))
    before = stored_tokens(session)
    answer = alice.browser.post("/profile/sessions/cli/revocation", data=form(alice, typed=" Confirm "))
    assert answer.status_code == 303
    assert stored_tokens(session) == before - mine
    assert theirs in stored_tokens(session)


# -- guards --------------------------------------------------------------------------------------------------


def test_operators_are_named_and_verified(app: Flask, session: OrmSession) -> None:
    root = factories.user("root")
    alice = factories.user("alice")
    with app.test_request_context():
        assert guards.is_admin(root)
        assert not guards.is_admin(alice)
        assert not guards.is_admin(None)
        root.email_verified = None
        assert not guards.is_admin(root)


@pytest.mark.parametrize(("path", "status"), [("/api/admin/x", 403), ("/admin", 302)])
def test_the_door_of_operators(app: Flask, path: str, status: int) -> None:
    @guards.admin_required
    def view() -> str:
        return "in"

    with app.test_request_context(path):
        guards._identify_request()
        answer = app.make_response(view())
        assert answer.status_code == status
        if status == 403:
            assert answer.json == {"error": "Forbidden - not an admin"}


def test_an_operator_enters_and_a_user_does_not(app: Flask, session: OrmSession) -> None:
    from models.core.errors import Forbidden

    @guards.admin_required
    def view() -> str:
        return "in"

    for name in ("root", "alice"):
        token = factories.token(factories.user(name), type="web")
        cookie = {"Cookie": f"next-auth.session-token={token}"}
        with app.app_context(), app.test_request_context("/admin", headers=cookie):
            if name == "root":
                assert view() == "in"
            else:
                with pytest.raises(Forbidden):
                    view()


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:nonsense", "::ffff:nonsense"),
    ],
)
def test_limits_count_networks_not_single_ipv6_addresses(app: Flask, address: str, key: str) -> None:
    with app.test_request_context(environ_base={"REMOTE_ADDR": address}):
        assert guards.caller_address() == key


def test_every_answer_is_secured(client: FlaskClient) -> None:
    for path in ("/login", "/api/auth/session", "/nowhere"):
        headers = client.get(path).headers
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Referrer-Policy" in headers
        assert headers["X-Request-Id"]
    assert "script-src 'self'" in client.get("/login").headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in client.get("/login").headers


def test_behind_https_the_cookie_is_secure(
    app: Flask, settings: Settings, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    secured = settings.model_copy(update={"stoa_base_url": "https://stoa.example.org"})
    monkeypatch.setitem(app.extensions, "settings", secured)
    user = factories.user("carol")
    token = factories.token(user, type="web", expires=factories.now() + timedelta(days=3))
    client = app.test_client()
    client.set_cookie("next-auth.session-token", token)
    answer = client.get("/api/auth/session")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"__Host-next-auth.session-token={token};")
    assert "Secure" in cookie
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
