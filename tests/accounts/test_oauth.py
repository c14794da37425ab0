"""Sign-in with OpenID Connect and GitHub, against servers on loopback; NextAuth's REST API of contract 1.3."""

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from authlib.deprecate import AuthlibDeprecationWarning
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from app import create_app
from models.accounts import LoginLink, OAuthAccount, Session, User
from models.core import mail
from models.core.audit_log import AuditLog
from models.core.mail import Email
from models.core.settings import load_settings
from models.ledger import CreditLedger
from tests import factories
from tests.accounts.browsing import token_of
from tests.accounts.test_sign_in import open_link, path_in
from tests.factories import Person
from tests.fakes.github import FakeGitHub, fake_github

with warnings.catch_warnings():
    # The fake issuer uses APIs that Authlib deprecates; the application does not.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from oidc_provider_mock import run_server_in_thread

pytestmark = [
    pytest.mark.filterwarnings("ignore::authlib.deprecate.AuthlibDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:DeprecationWarning"),
]

BASE = "http://localhost:8000"
COOKIE = "next-auth.session-token"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """An OpenID Connect issuer on loopback that accepts every subject."""
    with run_server_in_thread() as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(scope="module")
def github() -> Iterator[FakeGitHub]:
    with fake_github() as fake:
        yield fake


@pytest.fixture(scope="module")
def stoa(
    app: Flask, issuer: str, github: FakeGitHub, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flask]:
    """Stoa with both providers configured, on the database of the other tests."""
    settings = load_settings(
        _env_file=None,
        stoa_data_dir=tmp_path_factory.mktemp("data"),
        stoa_secret_key="test-secret-test-secret-test-secret-test",
        stoa_base_url=BASE,
        github_client_id="gh",
        github_client_secret="gh-secret",
        oidc_issuer=issuer,
        oidc_client_id="stoa",
        oidc_client_secret="oidc-secret",
    )
    made = create_app(settings, database_url=postgres_url)
    made.config["TESTING"] = True
    made.config["PROPAGATE_EXCEPTIONS"] = False
    client = made.extensions["authlib.integrations.flask_client"].create_client("github")
    client.authorize_url = f"{github.url}/login/oauth/authorize"
    client.access_token_url = f"{github.url}/login/oauth/access_token"
    client.api_base_url = f"{github.url}/"
    yield made
    from models.core.db import db

    with made.app_context():
        db.engine.dispose()
    made.extensions["gateway"].pool.close()


@pytest.fixture
def browser(stoa: Flask) -> FlaskClient:
    return stoa.test_client()


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> list[Email]:
    sent: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: sent.append(message))
    return sent


def at_provider(address: str, **form: str) -> str:
    """Approve at the provider. Returns the callback path."""
    send = requests.post if form else requests.get
    answer = send(address, data=form or None, allow_redirects=False, timeout=10)
    assert answer.status_code == 302, answer.text
    location = answer.headers["Location"]
    assert location.startswith(f"{BASE}/api/auth/callback/")
    return location.removeprefix(BASE)


def through_oidc(browser: FlaskClient, issuer: str, sub: str, where: str = "", **claims: Any) -> TestResponse:
    requests.put(f"{issuer}/users/{sub}", json=claims, timeout=10).raise_for_status()
    start = browser.get(f"/login/oidc?next={where}")
    assert start.status_code == 302
    return browser.get(at_provider(start.headers["Location"], sub=sub))


def through_github(browser: FlaskClient) -> TestResponse:
    return browser.get(at_provider(browser.get("/login/github").headers["Location"]))


def user_of(browser: FlaskClient) -> Any:
    return (browser.get("/api/auth/session").json or {}).get("user", {})


def users(session: OrmSession) -> list[User]:
    session.expire_all()
    return list(session.scalars(select(User)))


# -- OpenID Connect ------------------------------------------------------------------------------------------


def test_the_way_out_carries_state_nonce_and_pkce(browser: FlaskClient, issuer: str) -> None:
    location = urlsplit(browser.get("/login/oidc").headers["Location"])
    assert f"{location.scheme}://{location.netloc}" == issuer
    query = parse_qs(location.query)
    assert {"state", "nonce", "code_challenge"} <= set(query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == [f"{BASE}/api/auth/callback/oidc"]


def test_the_page_offers_what_is_configured(browser: FlaskClient) -> None:
    page = browser.get("/login?next=/runs").text
    assert 'href="/login/oidc?next=%2Fruns"' in page or 'href="/login/oidc?next=/runs"' in page
    assert "Continue with GitHub" in page
    assert "Continue with Google" not in page
    assert browser.get("/login/google").status_code == 404


def test_a_verified_address_makes_a_user(browser: FlaskClient, issuer: str, session: OrmSession) -> None:
    answer = through_oidc(
        browser, issuer, "s1", "/runs", email="Ada@example.org", email_verified=True, name="Ada"
    )
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/runs"
    (user,) = users(session)
    assert (user.email, user.name) == ("ada@example.org", "Ada")
    assert user.email_verified is not None
    account = session.scalars(select(OAuthAccount)).one()
    assert (account.provider, account.provider_account_id) == ("oidc", f"{issuer}#s1")
    assert (account.access_token, account.refresh_token, account.id_token) == (None, None, None)
    assert session.scalars(select(CreditLedger.principal)).all() == [500]
    assert user_of(browser)["id"] == user.id


def test_the_same_subject_is_the_same_user_whatever_its_address(
    browser: FlaskClient, stoa: Flask, issuer: str, session: OrmSession
) -> None:
    through_oidc(browser, issuer, "s1", email="ada@example.org", email_verified=True)
    again = stoa.test_client()
    through_oidc(again, issuer, "s1", email="moved@example.org", email_verified=False)
    assert len(users(session)) == 1
    assert user_of(again)["id"] == user_of(browser)["id"]


def test_a_signed_in_user_connects_an_identity_with_another_address(
    browser: FlaskClient, stoa: Flask, issuer: str, session: OrmSession
) -> None:
    through_oidc(browser, issuer, "s1", email="ada@example.org", email_verified=True)
    requests.put(f"{issuer}/users/s2", json={"email": "work@example.org"}, timeout=10).raise_for_status()

    def start(client: FlaskClient) -> str:
        data = {"csrf_token": token_of(client.get("/profile?tab=account"))}
        answer = client.post("/profile/sign-ins/oidc", data=data)
        assert answer.status_code == 303
        return str(answer.headers["Location"])

    answer = browser.get(at_provider(start(browser), sub="s2"))
    assert answer.headers["Location"] == "/profile?tab=account"
    assert {row.provider_account_id for row in session.scalars(select(OAuthAccount))} == {
        f"{issuer}#s1",
        f"{issuer}#s2",
    }
    (ada,) = users(session)
    other = stoa.test_client()
    through_oidc(other, issuer, "s2")
    assert user_of(other)["id"] == ada.id
    # an identity of another user is refused, and so is a browser that was signed out meanwhile
    third = stoa.test_client()
    through_oidc(third, issuer, "s3", email="eve@example.org", email_verified=True)
    answer = third.get(at_provider(start(third), sub="s2"))
    assert answer.headers["Location"] == "/profile?tab=account"
    assert "signs in another account" in third.get("/profile?tab=account").text
    back = at_provider(start(third), sub="s4")
    third.delete_cookie(COOKIE)
    assert third.get(back).headers["Location"].startswith("/login")
    assert len(session.scalars(select(OAuthAccount)).all()) == 3


def test_a_verified_address_joins_the_user_who_has_it(
    browser: FlaskClient, issuer: str, session: OrmSession, alice: Person
) -> None:
    through_oidc(browser, issuer, "s1", email="ALICE@example.org", email_verified=True)
    assert user_of(browser)["id"] == alice.id
    assert len(users(session)) == 1
    assert session.scalars(select(CreditLedger)).all() == []


@pytest.mark.parametrize("verified", [False, None, "yes", 1])
def test_an_unverified_address_joins_nobody(
    browser: FlaskClient,
    issuer: str,
    session: OrmSession,
    alice: Person,
    outbox: list[Email],
    verified: Any,
) -> None:
    claims = {} if verified is None else {"email_verified": verified}
    answer = through_oidc(browser, issuer, "mallory", email="alice@example.org", **claims)
    assert answer.status_code == 303
    assert urlsplit(answer.headers["Location"]).path == "/login/sent"
    assert user_of(browser) == {}
    assert session.scalars(select(OAuthAccount)).all() == []
    assert [message.to for message in outbox] == ["alice@example.org"]


def test_an_unverified_address_makes_nobody_until_it_is_proved(
    browser: FlaskClient, stoa: Flask, issuer: str, session: OrmSession, outbox: list[Email]
) -> None:
    through_oidc(browser, issuer, "s1", "/runs", email="ada@example.org", name="Ada")
    assert users(session) == []
    answer = open_link(browser, path_in(outbox[0]))
    assert answer.headers["Location"] == "/runs"
    (user,) = users(session)
    assert (user.email, user.name) == ("ada@example.org", "Ada")
    again = stoa.test_client()
    through_oidc(again, issuer, "s1", email="ada@example.org")
    assert user_of(again)["id"] == user.id


def test_a_link_opened_elsewhere_joins_no_identity(
    browser: FlaskClient,
    stoa: Flask,
    issuer: str,
    session: OrmSession,
    alice: Person,
    outbox: list[Email],
) -> None:
    through_oidc(browser, issuer, "mallory", email="alice@example.org")
    hers = stoa.test_client()
    open_link(hers, path_in(outbox[0]))
    assert user_of(hers)["id"] == alice.id
    assert session.scalars(select(OAuthAccount)).all() == []


def request_link(browser: FlaskClient, outbox: list[Email], email: str = "alice@example.org") -> str:
    """Request an ordinary link. Returns its path."""
    token = token_of(browser.get("/login"))
    assert browser.post("/login", data={"csrf_token": token, "email": email}).status_code == 303
    return path_in(outbox[-1])


def connected(session: OrmSession) -> set[tuple[str, str]]:
    """Return connected subjects with their users."""
    session.expire_all()
    rows = session.execute(
        select(OAuthAccount.provider_account_id, User.email).join(User, User.id == OAuthAccount.user_id)
    )
    return {(subject.partition("#")[2] or subject, email) for subject, email in rows}


@dataclass
class Pending:
    """A sign-in as `mallory` at the issuer, with alice's unverified address, was started."""

    stoa: Flask
    issuer: str
    browser: FlaskClient
    outbox: list[Email]
    session: OrmSession
    link: str

    def other(self) -> FlaskClient:
        return self.stoa.test_client()


@pytest.fixture
def pending(
    stoa: Flask,
    browser: FlaskClient,
    issuer: str,
    session: OrmSession,
    alice: Person,
    bob: Person,
    outbox: list[Email],
) -> Pending:
    through_oidc(browser, issuer, "mallory", "/runs", email="alice@example.org", name="Mal Lory")
    return Pending(stoa, issuer, browser, outbox, session, path_in(outbox[-1]))


def only_viewed(pending: Pending) -> FlaskClient:
    for _ in range(3):
        assert pending.browser.get(pending.link).status_code == 200
        pending.browser.head(pending.link)
    return pending.browser


def posted_without_csrf_token(pending: Pending) -> FlaskClient:
    assert pending.browser.post(pending.link).status_code == 400
    return pending.browser


def signed_in_there_by_another_link(pending: Pending) -> FlaskClient:
    open_link(pending.browser, request_link(pending.browser, pending.outbox))
    return pending.browser


def signed_in_there_through_the_provider(pending: Pending) -> FlaskClient:
    through_oidc(pending.browser, pending.issuer, "alice-too", email="alice@example.org", email_verified=True)
    pending.session.execute(delete(OAuthAccount).where(OAuthAccount.provider_account_id.like("%alice-too")))
    pending.session.commit()
    return pending.browser


def somebody_else_signed_in_there(pending: Pending) -> FlaskClient:
    open_link(pending.browser, request_link(pending.browser, pending.outbox, "bob@example.org"))
    page = pending.browser.get(pending.link)
    assert page.status_code == 409
    assert "bob@example.org" in page.text
    assert "alice@example.org" in page.text
    form = {"csrf_token": token_of(page)}
    assert pending.browser.post(pending.link, data=form).status_code == 409
    return pending.browser


def opened_in_another_browser(pending: Pending) -> FlaskClient:
    other = pending.other()
    page = other.get(pending.link)
    assert "is not connected yet" in page.text
    assert "Mal Lory" in page.text
    open_link(other, pending.link)
    assert user_of(other)["email"] == "alice@example.org"
    assert pending.browser.get(pending.link).status_code == 410
    return pending.browser


def opened_in_another_browser_of_somebody_else(pending: Pending) -> FlaskClient:
    other = pending.other()
    open_link(other, request_link(other, pending.outbox, "bob@example.org"))
    assert other.get(pending.link).status_code == 409
    assert (
        other.post(
            pending.link, data={"csrf_token": token_of(other.get("/profile?tab=security"))}
        ).status_code
        == 409
    )
    return other


def too_late(pending: Pending) -> FlaskClient:
    pending.session.execute(update(LoginLink).values(expires_at=factories.now()))
    pending.session.commit()
    assert pending.browser.get(pending.link).status_code == 410
    form = {"csrf_token": token_of(pending.browser.get("/login"))}
    assert pending.browser.post(pending.link, data=form).status_code == 410
    return pending.browser


def banned(pending: Pending) -> FlaskClient:
    pending.session.execute(update(User).where(User.email == "alice@example.org").values(banned=True))
    pending.session.commit()
    form = {"csrf_token": token_of(pending.browser.get("/login"))}
    assert pending.browser.post(pending.link, data=form).status_code == 403
    assert user_of(pending.browser) == {}
    return pending.browser


def another_link_of_another_identity(pending: Pending) -> FlaskClient:
    through_oidc(pending.browser, pending.issuer, "alice-too", email="alice@example.org")
    open_link(pending.browser, path_in(pending.outbox[-1]))
    assert connected(pending.session) == {("alice-too", "alice@example.org")}
    pending.session.execute(delete(OAuthAccount))
    pending.session.commit()
    return pending.browser


@pytest.mark.parametrize(
    "happens",
    [
        only_viewed,
        posted_without_csrf_token,
        signed_in_there_by_another_link,
        signed_in_there_through_the_provider,
        somebody_else_signed_in_there,
        opened_in_another_browser,
        opened_in_another_browser_of_somebody_else,
        too_late,
        banned,
        another_link_of_another_identity,
    ],
)
def test_nothing_but_its_own_link_joins_an_unverified_identity(
    pending: Pending, happens: Callable[[Pending], FlaskClient]
) -> None:
    browser = happens(pending)
    browser.get("/profile?tab=usage")
    assert connected(pending.session) == set()
    attacker = pending.other()
    through_oidc(attacker, pending.issuer, "mallory", email="alice@example.org")
    assert user_of(attacker) == {}


@pytest.mark.parametrize(
    "before",
    [
        only_viewed,
        signed_in_there_by_another_link,
        signed_in_there_through_the_provider,
        posted_without_csrf_token,
        another_link_of_another_identity,
    ],
)
def test_its_link_names_it_asks_and_joins_it_once(
    pending: Pending, before: Callable[[Pending], FlaskClient]
) -> None:
    browser = before(pending)
    page = browser.get(pending.link).text
    for shown in ("Mal Lory", "mallory", "alice@example.org", "Connect and sign in"):
        assert shown in page
    answer = open_link(browser, pending.link)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs")
    assert connected(pending.session) == {("mallory", "alice@example.org")}
    assert user_of(browser)["email"] == "alice@example.org"
    rows = pending.session.scalars(select(AuditLog).where(AuditLog.action == "identity.joined")).all()
    assert {row.actor for row in rows} == {"alice@example.org"}
    pending.session.execute(delete(OAuthAccount))
    pending.session.commit()
    assert browser.get(pending.link).status_code == 410
    form = {"csrf_token": token_of(browser.get("/profile?tab=security"))}
    assert browser.post(pending.link, data=form).status_code == 410
    assert connected(pending.session) == set()


def test_an_identity_that_signs_in_somebody_else_meanwhile_stays_theirs(pending: Pending) -> None:
    other = pending.other()
    through_oidc(other, pending.issuer, "mallory", email="bob@example.org", email_verified=True)
    form = {"csrf_token": token_of(pending.browser.get(pending.link))}
    answer = pending.browser.post(pending.link, data=form)
    assert answer.status_code == 409
    assert "already signs in another account" in answer.text
    assert connected(pending.session) == {("mallory", "bob@example.org")}
    assert user_of(pending.browser) == {}


def test_of_many_windows_one_uses_the_link(pending: Pending) -> None:
    form = {"csrf_token": token_of(pending.browser.get(pending.link))}
    flow = pending.browser.get_cookie("stoa-flow")
    assert flow is not None
    barrier, codes = threading.Barrier(4), []

    def post() -> None:
        window = pending.other()
        window.set_cookie("stoa-flow", flow.value)
        barrier.wait()
        codes.append(window.post(pending.link, data=form).status_code)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [303, 410, 410, 410]
    assert connected(pending.session) == {("mallory", "alice@example.org")}


def test_two_links_of_one_identity_to_two_accounts_connect_one(pending: Pending) -> None:
    """The address changed between two sign-ins: each link verifies its own, and the second finds the identity taken."""
    second = pending.other()
    through_oidc(second, pending.issuer, "mallory", email="bob@example.org")
    links = [(pending.browser, pending.link), (second, path_in(pending.outbox[-1]))]
    barrier, codes = threading.Barrier(2), []
    forms = [{"csrf_token": token_of(browser.get(link))} for browser, link in links]

    def post(number: int) -> None:
        barrier.wait()
        browser, link = links[number]
        codes.append(browser.post(link, data=forms[number]).status_code)

    threads = [threading.Thread(target=post, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [303, 409]
    assert len(connected(pending.session)) == 1


def test_an_unverified_github_identity_waits_for_its_link(
    browser: FlaskClient, github: FakeGitHub, session: OrmSession, alice: Person, outbox: list[Email]
) -> None:
    github.person = {"id": 8, "login": "mal-lory", "name": "\u202eecilA"}
    github.addresses = [{"email": "alice@example.org", "primary": True, "verified": False}]
    through_github(browser)
    assert outbox[-1].subject == "Connect GitHub to Stoa on localhost:8000?"
    page = browser.get(path_in(outbox[-1])).text
    for shown in ("GitHub", "mal-lory", "<bdi", "8</bdi>"):
        assert shown in page
    open_link(browser, path_in(outbox[-1]))
    assert connected(session) == {("8", "alice@example.org")}


# -- invalid provider data -----------------------------------------------------------------------------------

UNFIT = ["\0", "a\0b", "a\nb", "\x1b[31m", "\x7f", "a\x85b", "x" * 1001]


@pytest.fixture
def claims(stoa: Flask, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The claims that the issuer sends next."""
    userinfo: dict[str, Any] = {
        "iss": "https://issuer.example",
        "sub": "s1",
        "email": "ada@example.org",
        "email_verified": True,
    }
    client = stoa.extensions["authlib.integrations.flask_client"].create_client("oidc")
    monkeypatch.setattr(client, "authorize_access_token", lambda: {"userinfo": userinfo})
    return userinfo


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("key", ["sub", "email", "name", "preferred_username"])
@pytest.mark.parametrize("value", [*UNFIT, "\ud800", 7, True, ["s"], {"a": 1}])
def test_an_openid_claim_that_cannot_be_kept_is_a_400_page(
    browser: FlaskClient,
    session: OrmSession,
    outbox: list[Email],
    claims: dict[str, Any],
    key: str,
    value: Any,
    verified: bool,
) -> None:
    claims.update({"email_verified": verified, key: value})
    answer = browser.get("/api/auth/callback/oidc?code=x&state=y")
    assert answer.status_code == 400
    assert answer.mimetype == "text/html"
    assert "cannot sign you in" in answer.text
    assert users(session) == []
    assert outbox == []


@pytest.mark.parametrize(
    "overrides",
    [
        *(
            {"email_verified": value}
            for value in ("false", "True", "1", 1, 0, None, [], [True], {"a": 1}, "")
        ),
        *(
            {"email": email, "email_verified": True}
            for email in ("ali\uff43e@example.org", "alice@\uff45xample.org", "al\u0131ce@example.org")
        ),
        {"email": "\u212aate@example.org", "email_verified": True},
        {"email": "kate@xn--example-.org\u3002", "email_verified": True},
    ],
)
def test_what_verifies_no_address_of_ours_joins_nobody(
    browser: FlaskClient,
    session: OrmSession,
    claims: dict[str, Any],
    alice: Person,
    outbox: list[Email],
    overrides: dict[str, Any],
) -> None:
    kate = factories.user("kate")
    claims.update({"email": "alice@example.org"} | overrides)
    answer = browser.get("/api/auth/callback/oidc?code=x&state=y")
    assert answer.headers["Location"].partition("?")[0] in ("/login/sent", "/login")
    assert user_of(browser) == {}
    assert {user.id for user in users(session)} == {alice.id, kate.id}
    assert connected(session) == set()


@pytest.mark.parametrize("sub", ["", " ", None, 0, False])
def test_an_empty_openid_subject_is_nobody(
    browser: FlaskClient, session: OrmSession, claims: dict[str, Any], sub: Any
) -> None:
    claims["sub"] = sub
    assert browser.get("/api/auth/callback/oidc?code=x&state=y").status_code == 400
    assert users(session) == []


@pytest.mark.parametrize("picture", [*UNFIT, "\ud800", 7, None, ["s"]])
def test_a_bad_picture_keeps_nobody_out(
    browser: FlaskClient, session: OrmSession, claims: dict[str, Any], picture: Any
) -> None:
    claims["picture"] = picture
    assert browser.get("/api/auth/callback/oidc?code=x&state=y").status_code == 303
    (user,) = users(session)
    assert user.image is None


@pytest.mark.parametrize(
    "claim", [{"name": None}, {"name": "", "preferred_username": "ada"}, {"name": " Ada "}, {}]
)
def test_a_name_may_be_missing(
    browser: FlaskClient, session: OrmSession, claims: dict[str, Any], claim: dict[str, Any]
) -> None:
    claims.update(claim)
    assert browser.get("/api/auth/callback/oidc?code=x&state=y").status_code == 303
    assert users(session)[0].name in (None, "ada", "Ada")


@pytest.mark.parametrize("userinfo", [[], None, "x", {}, {"sub": "s"}])
def test_an_issuer_that_says_nothing_signs_nobody_in(
    browser: FlaskClient,
    stoa: Flask,
    session: OrmSession,
    monkeypatch: pytest.MonkeyPatch,
    userinfo: Any,
) -> None:
    client = stoa.extensions["authlib.integrations.flask_client"].create_client("oidc")
    monkeypatch.setattr(client, "authorize_access_token", lambda: {"userinfo": userinfo})
    monkeypatch.setattr(client, "userinfo", lambda token: {})
    assert browser.get("/api/auth/callback/oidc?code=x&state=y").headers["Location"] == "/login"
    assert users(session) == []


@pytest.mark.parametrize("key", ["id", "login", "name", "email"])
@pytest.mark.parametrize("value", [*UNFIT, True, ["s"], {"a": 1}, 1.5])
def test_a_github_answer_that_cannot_be_kept_is_a_400_page(
    browser: FlaskClient, github: FakeGitHub, session: OrmSession, key: str, value: Any
) -> None:
    github.person = {"id": 9, "login": "octo", "name": "Octo"}
    github.addresses = [{"email": "octo@example.org", "primary": True, "verified": True}]
    (github.addresses[0] if key == "email" else github.person)[key] = value
    assert through_github(browser).status_code == 400
    assert users(session) == []


@pytest.mark.parametrize("addresses", [{"message": "no"}, ["x"], None, "x", [None]])
def test_github_addresses_of_another_shape(
    browser: FlaskClient, github: FakeGitHub, session: OrmSession, addresses: Any
) -> None:
    github.addresses = addresses
    assert through_github(browser).headers["Location"] == "/login"
    assert users(session) == []


def test_no_address_at_all(browser: FlaskClient, issuer: str, session: OrmSession) -> None:
    answer = through_oidc(browser, issuer, "s1", name="Ada")
    assert answer.headers["Location"] == "/login"
    assert "sent no e-mail address" in browser.get("/login").text
    assert users(session) == []


def test_cancelled_at_the_provider(browser: FlaskClient) -> None:
    state = parse_qs(urlsplit(browser.get("/login/oidc").headers["Location"]).query)["state"][0]
    browser.get(f"/api/auth/callback/oidc?error=access_denied&state={state}")
    assert "cancelled at the provider" in browser.get("/login").text


@pytest.mark.parametrize("query", ["", "?code=x", "?code=x&state=y", "?state=%00&code=%ff", "?error=x%0a"])
@pytest.mark.parametrize("provider", ["oidc", "github"])
def test_a_callback_nobody_asked_for(
    browser: FlaskClient, session: OrmSession, provider: str, query: str
) -> None:
    answer = browser.get(f"/api/auth/callback/{provider}{query}")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/login"
    assert users(session) == []


def test_a_state_works_in_its_own_browser_only(
    browser: FlaskClient, stoa: Flask, issuer: str, session: OrmSession
) -> None:
    requests.put(f"{issuer}/users/s1", json={"email": "a@example.org", "email_verified": True}, timeout=10)
    back = at_provider(browser.get("/login/oidc").headers["Location"], sub="s1")
    assert stoa.test_client().get(back).headers["Location"] == "/login"
    assert users(session) == []
    assert browser.get(back).headers["Location"] == "/profile?tab=usage"
    assert browser.get(back).headers["Location"] == "/login"


def test_ways_never_ended_do_not_fill_the_cookie(browser: FlaskClient) -> None:
    for _ in range(20):
        browser.get("/login/oidc")
    cookie = browser.get_cookie("stoa-flow")
    assert cookie is not None
    assert len(cookie.value) < 2000


def test_the_device_login_survives_the_provider(browser: FlaskClient, issuer: str) -> None:
    asked = browser.post("/api/auth/cli/code", json={"fingerprintId": "f"}).json or {}
    query = urlsplit(asked["loginUrl"]).query
    start = browser.get(f"/login/oidc?next=/login%3F{query.replace('=', '%3D')}")
    requests.put(f"{issuer}/users/s1", json={"email": "a@example.org", "email_verified": True}, timeout=10)
    answer = browser.get(at_provider(start.headers["Location"], sub="s1"))
    assert answer.headers["Location"] == f"/onboard?{query}"


# -- GitHub --------------------------------------------------------------------------------------------------


def test_github_by_its_primary_verified_address(
    browser: FlaskClient, github: FakeGitHub, session: OrmSession
) -> None:
    github.person = {
        "id": 7,
        "login": "octo",
        "name": None,
        "email": "shown@example.org",
        "avatar_url": "https://x/y",
    }
    github.addresses = [
        {"email": "other@example.org", "primary": False, "verified": True},
        {"email": "Octo@example.org", "primary": True, "verified": True},
    ]
    assert through_github(browser).status_code == 303
    (user,) = users(session)
    assert (user.email, user.name, user.image) == ("octo@example.org", "octo", "https://x/y")
    account = session.scalars(select(OAuthAccount)).one()
    assert (account.provider, account.provider_account_id, account.type) == ("github", "7", "oauth")


def test_github_and_oidc_with_one_verified_address_are_one_user(
    browser: FlaskClient, stoa: Flask, github: FakeGitHub, issuer: str, session: OrmSession
) -> None:
    github.person = {"id": 7, "login": "octo"}
    github.addresses = [{"email": "octo@example.org", "primary": True, "verified": True}]
    through_github(browser)
    other = stoa.test_client()
    through_oidc(other, issuer, "s7", email="octo@example.org", email_verified=True)
    assert len(users(session)) == 1
    assert len(session.scalars(select(OAuthAccount)).all()) == 2


def test_github_unverified_joins_nobody(
    browser: FlaskClient, github: FakeGitHub, session: OrmSession, alice: Person, outbox: list[Email]
) -> None:
    github.person = {"id": 8, "login": "mallory"}
    github.addresses = [{"email": "alice@example.org", "primary": True, "verified": False}]
    assert urlsplit(through_github(browser).headers["Location"]).path == "/login/sent"
    assert user_of(browser) == {}
    assert session.scalars(select(OAuthAccount)).all() == []


@pytest.mark.parametrize("addresses", [[], [{"email": "a@example.org", "primary": False, "verified": True}]])
def test_github_without_a_primary_address(
    browser: FlaskClient, github: FakeGitHub, session: OrmSession, addresses: list[dict[str, Any]]
) -> None:
    github.addresses = addresses
    assert through_github(browser).headers["Location"] == "/login"
    assert users(session) == []


def test_github_down(browser: FlaskClient, github: FakeGitHub, session: OrmSession) -> None:
    github.broken = True
    try:
        assert through_github(browser).headers["Location"] == "/login"
    finally:
        github.broken = False
    assert "could not sign you in" in browser.get("/login").text


# -- NextAuth's REST -----------------------------------------------------------------------------------------


def test_the_providers(browser: FlaskClient, issuer: str) -> None:
    ways = browser.get("/api/auth/providers").json or {}
    assert set(ways) == {"oidc", "github", "email"}
    assert ways["github"] == {
        "id": "github",
        "name": "GitHub",
        "type": "oauth",
        "signinUrl": f"{BASE}/api/auth/signin/github",
        "callbackUrl": f"{BASE}/api/auth/callback/github",
    }


def test_nobodys_session_is_empty(browser: FlaskClient) -> None:
    answer = browser.get("/api/auth/session")
    assert answer.json == {}
    assert "no-store" in answer.headers["Cache-Control"]


def test_somebodys_session(alice: Person) -> None:
    body = alice.browser.get("/api/auth/session").json or {}
    assert set(body) == {"user", "expires"}
    assert body["user"] == {
        "name": "alice",
        "email": "alice@example.org",
        "image": None,
        "id": alice.id,
        "stripe_customer_id": None,
        "stripe_price_id": None,
    }
    assert body["expires"].endswith("Z")


def test_signing_in_by_its_rest(browser: FlaskClient, github: FakeGitHub, session: OrmSession) -> None:
    github.person = {"id": 7, "login": "octo"}
    github.addresses = [{"email": "octo@example.org", "primary": True, "verified": True}]
    token = (browser.get("/api/auth/csrf").json or {})["csrfToken"]
    form = {"csrfToken": token, "callbackUrl": f"{BASE}/runs", "json": "true"}
    answer = browser.post("/api/auth/signin/github", data=form)
    assert answer.status_code == 200
    address = (answer.json or {})["url"]
    assert address.startswith(f"{github.url}/login/oauth/authorize?")
    back = browser.get(at_provider(address))
    assert back.headers["Location"] == "/runs"
    token = (browser.get("/api/auth/csrf").json or {})["csrfToken"]
    form = {"csrfToken": token, "callbackUrl": f"{BASE}/", "json": "true"}
    assert browser.post("/api/auth/signout", data=form).json == {"url": f"{BASE}/"}
    assert user_of(browser) == {}
    assert session.scalars(select(Session)).all() == []


def test_signing_in_by_its_rest_with_an_address(browser: FlaskClient, outbox: list[Email]) -> None:
    token = (browser.get("/api/auth/csrf").json or {})["csrfToken"]
    form = {"csrfToken": token, "email": "Ada@example.org", "json": "true"}
    assert browser.post("/api/auth/signin/email", data=form).json == {"url": f"{BASE}/login/sent"}
    assert [message.to for message in outbox] == ["ada@example.org"]
    bad = browser.post("/api/auth/signin/email", data={**form, "email": "x"})
    assert bad.json == {"url": f"{BASE}/login"}


@pytest.mark.parametrize("token", [None, "", "x"])
def test_its_rest_needs_the_token(browser: FlaskClient, token: str | None) -> None:
    form = {"json": "true"} if token is None else {"json": "true", "csrfToken": token}
    assert browser.post("/api/auth/signin/github", data=form).json == {"url": f"{BASE}/login"}
    assert browser.post("/api/auth/signin/github").status_code == 303


def test_its_rest_refuses_other_sites(browser: FlaskClient) -> None:
    token = (browser.get("/api/auth/csrf").json or {})["csrfToken"]
    form = {"json": "true", "csrfToken": token}
    answer = browser.post("/api/auth/signin/github", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.json == {"url": f"{BASE}/login"}


def test_an_unknown_provider(browser: FlaskClient) -> None:
    token = (browser.get("/api/auth/csrf").json or {})["csrfToken"]
    for path in ("signin", "callback"):
        call = browser.post if path == "signin" else browser.get
        assert call(f"/api/auth/{path}/google", data={"csrfToken": token}).status_code == 404


def test_the_sign_in_page_of_its_rest(browser: FlaskClient) -> None:
    answer = browser.get("/api/auth/signin", query_string={"callbackUrl": "/runs"})
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/login?next=/runs"


def test_a_provider_that_is_away(stoa: Flask, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client = stoa.extensions["authlib.integrations.flask_client"].create_client("oidc")
    monkeypatch.setattr(client, "_server_metadata_url", "http://localhost:9/.well-known/openid-configuration")
    monkeypatch.setattr(client, "server_metadata", {})
    assert browser.get("/login/oidc").headers["Location"] == "/login"
    assert "could not sign you in" in browser.get("/login").text


def test_joining_through_a_provider_keeps_the_cast_apart(
    browser: FlaskClient, issuer: str, session: OrmSession, alice: Person
) -> None:
    factories.user("carol")
    through_oidc(browser, issuer, "c", email="carol@example.org", email_verified=True)
    assert user_of(browser)["email"] == "carol@example.org"
    assert user_of(alice.browser)["id"] == alice.id


# -- banned accounts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_a_banned_account_is_not_signed_in(
    browser: FlaskClient, stoa: Flask, issuer: str, session: OrmSession, alice: Person, known: bool
) -> None:
    claims = {"email": "alice@example.org", "email_verified": True}
    if known:
        through_oidc(stoa.test_client(), issuer, "s1", **claims)
    before = len(session.scalars(select(Session)).all())
    user = session.get_one(User, alice.id)
    user.banned, user.banned_reason = True, "Sent spam."
    session.commit()
    answer = through_oidc(browser, issuer, "s1", **claims)
    assert answer.status_code == 403
    assert "Sent spam." in answer.text
    assert user_of(browser) == {}
    session.expire_all()
    assert len(session.scalars(select(Session)).all()) == before
    assert len(session.scalars(select(OAuthAccount)).all()) == known
