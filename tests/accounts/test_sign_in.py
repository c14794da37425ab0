"""Sign-in by e-mail link and the resulting session, in a browser without JavaScript."""

import re
import threading
from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.accounts import LoginLink, OAuthAccount, Session, User
from models.accounts.credentials import hash_token
from models.core import mail
from models.core.audit_log import AuditLog
from models.core.mail import Email
from models.ledger import CreditLedger
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person

COOKIE = "next-auth.session-token"


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> list[Email]:
    """Collects sent e-mails."""
    sent: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: sent.append(message))
    return sent


def request_link(client: FlaskClient, email: str, **more: str) -> None:
    token = token_of(client.get("/login"))
    answer = client.post("/login", data={"csrf_token": token, "email": email, **more})
    assert answer.status_code == 303, answer.text


def path_in(message: Email) -> str:
    found = re.search(r"http://localhost:8000(/login/link/\S+)", message.text)
    assert found
    return found[1]


def open_link(client: FlaskClient, path: str):  # type: ignore[no-untyped-def]
    page = client.get(path)
    assert page.status_code == 200
    return client.post(path, data={"csrf_token": token_of(page)})


def test_the_page_shows_only_what_is_configured(client: FlaskClient) -> None:
    page = client.get("/login").text
    assert "Send sign-in link" in page
    assert "Continue with" not in page
    assert "A command line is waiting" not in page


def test_a_link_makes_a_user_with_free_credits(
    session: OrmSession, client: FlaskClient, outbox: list[Email]
) -> None:
    request_link(client, " New.Person@Example.org ")
    assert outbox[0].to == "new.person@example.org"
    assert "<a href=" in (outbox[0].html or "")
    assert session.scalars(select(User)).all() == []
    answer = open_link(client, path_in(outbox[0]))
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/profile?tab=usage"
    cookie = answer.headers["Set-Cookie"]
    assert COOKIE in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    user = session.scalars(select(User)).one()
    assert user.email == "new.person@example.org"
    assert user.email_verified is not None
    grant = session.scalars(select(CreditLedger)).one()
    assert (grant.user_id, grant.principal, grant.type) == (user.id, 500, "free")
    row = session.scalars(select(Session)).one()
    assert row.type == "web"
    assert timedelta(days=29, hours=23) < row.expires - factories.now() <= timedelta(days=30)
    assert client.get("/api/auth/session").json["user"]["id"] == user.id  # type: ignore[index]
    actions = session.scalars(select(AuditLog.action).order_by(AuditLog.id)).all()
    assert actions == ["user.created", "user.signed_in"]


def test_neither_link_nor_session_is_kept_readable(
    session: OrmSession, client: FlaskClient, outbox: list[Email]
) -> None:
    request_link(client, "a@example.org")
    path = path_in(outbox[0])
    raw = path.rpartition("/")[2]
    assert session.scalars(select(LoginLink.token_hash)).all() == [hash_token(raw)]
    open_link(client, path)
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    assert session.scalars(select(Session.session_token)).all() == [hash_token(cookie.value)]


def test_a_known_address_signs_in_the_same_user(
    session: OrmSession, alice: Person, client: FlaskClient, outbox: list[Email]
) -> None:
    request_link(client, "ALICE@example.org")
    open_link(client, path_in(outbox[0]))
    assert client.get("/api/auth/session").json["user"]["id"] == alice.id  # type: ignore[index]
    assert session.scalars(select(CreditLedger)).all() == []


def test_opening_a_link_does_not_use_it_up(client: FlaskClient, app: Flask, outbox: list[Email]) -> None:
    request_link(client, "a@example.org")
    path = path_in(outbox[0])
    scanner = app.test_client()
    for _ in range(3):
        page = scanner.get(path)
        assert page.status_code == 200
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in page.headers or COOKIE not in page.headers["Set-Cookie"]
    assert open_link(client, path).status_code == 303


def test_a_link_works_once(app: Flask, client: FlaskClient, outbox: list[Email]) -> None:
    request_link(client, "a@example.org")
    path = path_in(outbox[0])
    late = app.test_client()
    token = token_of(late.get(path))
    assert open_link(client, path).status_code == 303
    assert late.get(path).status_code == 410
    assert late.post(path, data={"csrf_token": token}).status_code == 410
    assert late.get("/api/auth/session").json == {}


def test_two_at_once_get_one_session_and_one_user(
    app: Flask, session: OrmSession, client: FlaskClient, outbox: list[Email]
) -> None:
    request_link(client, "a@example.org")
    path = path_in(outbox[0])
    browsers = [app.test_client() for _ in range(4)]
    tokens = [token_of(browser.get(path)) for browser in browsers]
    answers: list[int] = []
    barrier = threading.Barrier(4)

    def go(number: int) -> None:
        barrier.wait()
        answers.append(browsers[number].post(path, data={"csrf_token": tokens[number]}).status_code)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [303, 410, 410, 410]
    assert len(session.scalars(select(User)).all()) == 1


def test_first_sign_ins_at_once_make_one_user(
    app: Flask, session: OrmSession, client: FlaskClient, outbox: list[Email]
) -> None:
    for _ in range(4):
        request_link(client, "a@example.org")
    paths = [path_in(message) for message in outbox]
    browsers = [app.test_client() for _ in paths]
    tokens = [token_of(browser.get(path)) for browser, path in zip(browsers, paths, strict=True)]
    answers: list[int] = []
    barrier = threading.Barrier(4)

    def go(number: int) -> None:
        barrier.wait()
        form = {"csrf_token": tokens[number]}
        answers.append(browsers[number].post(paths[number], data=form).status_code)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [303] * 4
    assert len(session.scalars(select(User)).all()) == 1
    assert len(session.scalars(select(CreditLedger)).all()) == 1


def test_a_link_ends_after_fifteen_minutes(
    session: OrmSession, client: FlaskClient, outbox: list[Email]
) -> None:
    request_link(client, "a@example.org")
    row = session.scalars(select(LoginLink)).one()
    assert row.expires_at - row.created_at == timedelta(minutes=15)
    row.expires_at = factories.now() - timedelta(seconds=1)
    session.commit()
    assert client.get(path_in(outbox[0])).status_code == 410


@pytest.mark.parametrize("token", ["x", "x" * 5000, "%00", "%ff%fe", "..%2f"])
def test_a_link_that_never_was(client: FlaskClient, token: str) -> None:
    assert client.get(f"/login/link/{token}").status_code in (404, 410)


@pytest.mark.parametrize(
    "email", ["", "alice", "alice@", "@x.org", "a b@x.org", "a@x.org\r\nBcc: b@x.org", "a\0@x.org"]
)
def test_a_wrong_address_is_said_beside_the_field(
    client: FlaskClient, outbox: list[Email], email: str
) -> None:
    token = token_of(client.get("/login"))
    answer = client.post("/login", data={"csrf_token": token, "email": email})
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert "Enter an address like name@example.org." in answer.text
    assert "<html" in answer.text
    fragment = client.post(
        "/login", data={"csrf_token": token, "email": email}, headers={"HX-Request": "true"}
    )
    assert fragment.status_code == 422
    assert "<html" not in fragment.text
    assert outbox == []


@pytest.mark.parametrize(
    "email", ["a@localhost", "a@host.local", "demo@stoa.invalid", "a+b@x.test", "jörg@exämple.org"]
)
def test_addresses_of_private_networks_are_addresses(
    client: FlaskClient, outbox: list[Email], email: str
) -> None:
    request_link(client, email)
    assert len(outbox) == 1


def test_the_address_is_kept_in_the_form(client: FlaskClient) -> None:
    token = token_of(client.get("/login"))
    answer = client.post("/login", data={"csrf_token": token, "email": '"><script>'})
    assert "<script>" not in answer.text.replace("<script src=", "")
    assert "&#34;&gt;&lt;script&gt;" in answer.text


def test_forms_need_their_token(client: FlaskClient, alice: Person, outbox: list[Email]) -> None:
    assert client.post("/login", data={"email": "a@example.org"}).status_code == 400
    assert client.post("/login", data={"email": "a@example.org", "csrf_token": "x"}).status_code == 400
    path = "/login/link/anything"
    assert client.post(path).status_code == 400
    assert alice.browser.post("/profile/keys", data={"days": "30"}).status_code == 400
    assert outbox == []


def test_a_form_from_another_site_is_refused(client: FlaskClient, outbox: list[Email]) -> None:
    token = token_of(client.get("/login"))
    form = {"csrf_token": token, "email": "a@example.org"}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}):
        assert client.post("/login", data=form, headers=headers).status_code == 403
    assert outbox == []


def test_links_are_limited_for_each_address_and_each_caller(client: FlaskClient, outbox: list[Email]) -> None:
    token = token_of(client.get("/login"))
    codes = [
        client.post("/login", data={"csrf_token": token, "email": "A@example.org"}).status_code
        for _ in range(6)
    ]
    assert codes == [303] * 5 + [429]
    answer = client.post("/login", data={"csrf_token": token, "email": "a@example.org"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert "Too many links" in answer.text
    fragment = client.post(
        "/login", data={"csrf_token": token, "email": "a@example.org"}, headers={"HX-Request": "true"}
    )
    assert fragment.status_code == 429
    assert fragment.headers["HX-Reswap"] == "none"
    others = [
        client.post("/login", data={"csrf_token": token, "email": f"b{n}@example.org"}).status_code
        for n in range(10)
    ]
    assert others.count(429) > 0
    assert len(outbox) == 5 + others.count(303)


def test_links_to_one_address_are_limited_across_routes(
    app: Flask, client: FlaskClient, outbox: list[Email]
) -> None:
    for number in range(8):
        browser = app.test_client()
        environ = {"REMOTE_ADDR": f"192.0.2.{number}"}
        if number % 2:
            token = token_of(browser.get("/login"))
            form = {"csrf_token": token, "email": "a@example.org"}
            answer = browser.post("/login", data=form, environ_base=environ)
        else:
            token = (browser.get("/api/auth/csrf").json or {})["csrfToken"]
            form = {"csrfToken": token, "email": "A@Example.org", "json": "true"}
            answer = browser.post("/api/auth/signin/email", data=form, environ_base=environ)
        assert (answer.status_code == 429) == (number >= 5)
    assert len(outbox) == 5


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/runs?x=1", "/runs?x=1"),
        ("runs", "/runs"),
        ("http://localhost:8000/runs", "/runs"),
        ("http://localhost:8000//evil.example/x", "/evil.example/x"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("http:evil.example", "/evil.example"),
        ("javascript:alert(1)", "/"),
        ("http://[", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("http://localhost:8000@evil.example/", "/"),
        ("/login?auth_code=a.b.c&referral_code=r", "/onboard?auth_code=a.b.c&referral_code=r"),
        ("https://evil.example/?auth_code=a.b.c", "/"),
        ("", "/profile?tab=usage"),
    ],
)
def test_signing_in_ends_on_this_server(
    client: FlaskClient, outbox: list[Email], target: str, path: str
) -> None:
    request_link(client, "a@example.org", next=target)
    assert open_link(client, path_in(outbox[0])).headers["Location"] == path


def test_whoever_is_signed_in_goes_on(alice: Person) -> None:
    answer = alice.browser.get("/login?next=/runs")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/runs"


def test_pages_send_strangers_to_sign_in_and_back(client: FlaskClient) -> None:
    answer = client.get("/profile?tab=security")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/login?next=/profile?tab%3Dsecurity"
    fragment = client.get(
        "/profile?tab=security",
        headers={"HX-Request": "true", "HX-Current-URL": "http://localhost:8000/profile?tab=api-keys"},
    )
    assert fragment.status_code == 401
    assert fragment.headers["HX-Redirect"] == "/login?next=/profile?tab%3Dapi-keys"


def test_signing_in_anew_replaces_the_session_before(
    session: OrmSession, alice: Person, outbox: list[Email]
) -> None:
    before = alice.browser.get_cookie(COOKIE)
    assert before is not None
    token = token_of(alice.browser.get("/profile?tab=api-keys"))
    alice.browser.post("/login", data={"csrf_token": token, "email": "other@example.org"})
    assert open_link(alice.browser, path_in(outbox[0])).status_code == 303
    session.expire_all()
    assert session.get(Session, hash_token(before.value)) is None


def test_an_address_held_without_proof_changes_hands(
    session: OrmSession, client: FlaskClient, outbox: list[Email]
) -> None:
    squatter = factories.user("carol", email_verified=None)
    if squatter.email_verified is not None:
        squatter.email_verified = None
    session.add(OAuthAccount(user_id=squatter.id, type="oauth", provider="github", provider_account_id="666"))
    session.commit()
    key = factories.token(squatter)
    request_link(client, "carol@example.org")
    open_link(client, path_in(outbox[0]))
    session.expire_all()
    assert session.scalars(select(OAuthAccount)).all() == []
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {key}"}).status_code == 401
    assert client.get("/api/auth/session").json["user"]["id"] == squatter.id  # type: ignore[index]
    assert session.get_one(User, squatter.id).email_verified is not None


def test_the_mail_leaves_with_the_transaction(app: Flask, session: OrmSession, client: FlaskClient) -> None:
    request_link(client, "a@example.org")
    with app.app_context():
        from sqlalchemy import text

        jobs = session.execute(text("SELECT task_name, args::text FROM procrastinate_jobs")).all()
    assert [name for name, _ in jobs] == ["mail.deliver"]
    assert "login/link" not in jobs[0][1]


def test_without_a_mail_server_the_page_says_where_the_link_is(client: FlaskClient) -> None:
    request_link(client, "a@example.org")
    page = client.get("/login/sent").text
    assert "a@example.org" in page
    assert "console output" in page


# -- signing out ---------------------------------------------------------------------------------------------


def test_signing_out_ends_the_session(session: OrmSession, alice: Person) -> None:
    cookie = alice.browser.get_cookie(COOKIE)
    assert cookie is not None
    token = token_of(alice.browser.get("/profile?tab=api-keys"))
    answer = alice.browser.post("/api/auth/signout", data={"csrf_token": token})
    assert answer.status_code == 303
    session.expire_all()
    assert session.get(Session, hash_token(cookie.value)) is None
    assert alice.browser.get_cookie(COOKIE) is None
    assert session.scalars(select(AuditLog.action)).all() == ["user.signed_out"]


def test_signing_out_needs_the_form(session: OrmSession, alice: Person) -> None:
    alice.browser.post("/api/auth/signout")
    assert alice.browser.get("/api/auth/session").json != {}


def test_the_limits_survive_a_lost_store(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from views.web.guards import limiter

    def lost(*_args: object, **_kwargs: object) -> bool:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(limiter, "_storage_dead", False)  # and again when this is over
    monkeypatch.setattr(limiter.limiter, "hit", lost)
    assert client.post("/api/auth/cli/code", json={"fingerprintId": "f"}).status_code == 200
