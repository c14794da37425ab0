"""Passkeys: added, used, renamed and removed by their owner only; crafted, repeated and late answers are refused."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession
from webauthn.helpers import bytes_to_base64url

from models.accounts import OAuthAccount, Passkey, Session, SpentChallenge, User, bans, passkeys
from models.accounts.relying_party import relying_party
from models.accounts.signing_in import sign_in_verified_email
from models.core import mail
from models.core.audit_log import AuditLog
from models.core.mail import Email
from models.orgs import Org
from tests import factories
from tests.accounts.authenticator import USER_PRESENT, Authenticator
from tests.accounts.browsing import token_of
from tests.factories import Person
from views.accounts.pages import passkey_pages

SECURITY = "/profile?tab=security"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Email]:
    """The mails that requests send."""
    found: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: found.append(message))
    return found


def post(browser: FlaskClient, path: str, page: str = SECURITY, **form: str) -> Any:
    return browser.post(path, data={"csrf_token": token_of(browser.get(page)), **form})


def add(person: Person, device: Authenticator, name: str = "Phone") -> Any:
    options = person.browser.get("/profile/passkeys/options").json
    return post(person.browser, "/profile/passkeys", name=name, credential=device.create(options))


def login(browser: FlaskClient, device: Authenticator, **form: str) -> Any:
    answer = device.get(browser.get("/login/passkey").json)
    return post(browser, "/login/passkey", "/login", credential=answer, **form)


def actions(session: OrmSession) -> list[str]:
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


def test_a_passkey_is_added_and_signs_in(
    app: Flask, session: OrmSession, alice: Person, sent: list[Email]
) -> None:
    device = Authenticator()
    assert add(alice, device).headers["Location"] == SECURITY
    row = session.scalars(select(Passkey)).one()
    assert (row.user_id, row.name, row.transports, row.sign_count) == (alice.id, "Phone", ["internal"], 1)
    browser = app.test_client()
    answer = login(browser, device, next="/profile?tab=usage")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/profile?tab=usage")
    page = browser.get(SECURITY).text
    assert "Phone" in page
    session.expire_all()
    assert row.sign_count == 2
    assert row.last_used_ip == "127.0.0.1"
    assert row.last_used_at is not None
    assert actions(session) == ["passkey.added", "passkey.used", "user.signed_in"]
    assert [each.subject for each in sent] == ["A passkey was added to your account on Stoa"]
    options = alice.browser.get("/profile/passkeys/options").json
    assert [each["id"] for each in options["excludeCredentials"]] == [
        bytes_to_base64url(device.credential_id)
    ]
    assert options["authenticatorSelection"] | {"requireResidentKey": True} == {
        "requireResidentKey": True,
        "residentKey": "required",
        "userVerification": "required",
    }


def test_everybody_manages_their_own_only(
    session: OrmSession, cast: dict[str, Person], sent: list[Email]
) -> None:
    alice = cast["alice"]
    add(alice, Authenticator())
    row = session.scalars(select(Passkey)).one()
    path = f"/profile/passkeys/{row.id}"
    for name in ("bob", "mallory"):
        for address in (path, f"{path}/removal"):
            assert cast[name].browser.get(address).status_code == 404
            assert post(cast[name].browser, address, name="mine").status_code == 404
    for address in (path, f"{path}/removal", "/profile/passkeys"):
        assert post(cast["anonymous"].browser, address, "/login").headers["Location"] == "/login"
    for address in (path, "/profile/passkeys/new", "/profile/passkeys/options"):
        assert cast["anonymous"].browser.get(address).status_code == 302
    for name in ("", "x" * 101, "a\x00b", "a\u202eb"):
        assert post(alice.browser, path, name=name).status_code == 422
    assert post(alice.browser, path, name=" Work key ").status_code == 303
    session.expire_all()
    assert row.name == "Work key"
    assert post(alice.browser, f"{path}/removal").status_code == 303
    assert post(alice.browser, f"{path}/removal").status_code == 404
    assert actions(session) == ["passkey.added", "passkey.renamed", "passkey.removed"]
    assert [each.subject.split()[3] for each in sent] == ["added", "removed"]


Refusal = tuple[str, Callable[[Authenticator], None]]


def _set(name: str, value: Any) -> Callable[[Authenticator], None]:
    return lambda device: setattr(device, name, value)


CRAFTED: list[Refusal] = [
    ("could not be verified", _set("origin", "http://localhost:8001")),
    ("could not be verified", _set("rp_id", "example.org")),
    ("could not be verified", _set("flags", USER_PRESENT)),
    ("could not be verified", _set("key", Authenticator().key)),
    ("not known here", _set("credential_id", b"another")),
    ("belongs to another account", _set("user_handle", bytes_to_base64url(b"another"))),
    ("belongs to another account", _set("user_handle", None)),
]


@pytest.mark.parametrize(("message", "change"), CRAFTED)
def test_a_crafted_answer_signs_nobody_in(
    app: Flask,
    session: OrmSession,
    alice: Person,
    sent: list[Email],
    message: str,
    change: Callable[[Authenticator], None],
) -> None:
    device = Authenticator()
    add(alice, device)
    browser = app.test_client()
    change(device)
    answer = login(browser, device)
    assert (answer.status_code, message in answer.text) == (422, True)
    assert browser.get(SECURITY).status_code == 302
    assert session.scalars(select(Passkey.sign_count)).one() == 1


def test_an_answer_is_used_once_in_its_browser_and_in_time(
    app: Flask, session: OrmSession, alice: Person, sent: list[Email], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Authenticator()
    add(alice, device)
    browser, other = app.test_client(), app.test_client()
    answer = device.get(browser.get("/login/passkey").json)
    stolen = post(other, "/login/passkey", "/login", credential=answer)
    assert (stolen.status_code, "another browser" in stolen.text) == (422, True)
    assert post(browser, "/login/passkey", "/login", credential=answer).status_code == 303
    post(browser, "/api/auth/signout", SECURITY)
    again = post(browser, "/login/passkey", "/login?again=1", credential=answer)
    assert (again.status_code, "used already" in again.text) == (422, True)
    wrong = json.loads(device.get({"challenge": bytes_to_base64url(bytes(56))}))
    for content in (json.dumps(wrong), "", "null", "[]", "{}", "[" * 9_000, '{"response": 1}', "x" * 40_000):
        refused = post(browser, "/login/passkey", "/login?again=1", credential=content)
        assert refused.status_code == 422, content[:40]
    late = device.get(browser.get("/login/passkey").json)
    later: Callable[[], datetime] = lambda: factories.now() + timedelta(minutes=5, seconds=1)  # noqa: E731
    monkeypatch.setattr(passkey_pages, "now", later)
    refused = post(browser, "/login/passkey", "/login?again=1", credential=late)
    assert (refused.status_code, "longer than five minutes" in refused.text) == (422, True)
    passkeys.forget_challenges(later())
    assert session.scalar(select(func.count()).select_from(SpentChallenge)) == 0


def test_a_failed_answer_is_spent_too(
    app: Flask, session: OrmSession, alice: Person, sent: list[Email]
) -> None:
    device = Authenticator()
    add(alice, device)
    browser = app.test_client()
    options = browser.get("/login/passkey").json
    device.flags = USER_PRESENT
    assert post(browser, "/login/passkey", "/login", credential=device.get(options)).status_code == 422
    device.flags |= 4
    refused = post(browser, "/login/passkey", "/login", credential=device.get(options))
    assert (refused.status_code, "used already" in refused.text) == (422, True)


def test_a_copied_passkey_is_refused_and_reported(
    app: Flask, session: OrmSession, alice: Person, sent: list[Email]
) -> None:
    device = Authenticator(count=7)
    add(alice, device)
    device.count = 3
    device.key, key = Authenticator().key, device.key
    browser = app.test_client()
    assert login(browser, device).status_code == 422  # whoever has no key reports nothing
    assert "passkey.clone_refused" not in actions(session)
    device.key = key
    answer = login(browser, device)
    assert (answer.status_code, "may have been copied" in answer.text) == (403, True)
    assert browser.get(SECURITY).status_code == 302
    assert actions(session)[-1] == "passkey.clone_refused"
    assert sent[-1].subject == "A sign-in with a passkey was refused on Stoa"
    assert session.scalars(select(Passkey.sign_count)).one() == 8
    device.count = 8
    assert login(browser, device).status_code == 303


def test_adding_needs_a_recent_sign_in_and_a_new_credential(
    session: OrmSession, alice: Person, bob: Person, sent: list[Email]
) -> None:
    device = Authenticator()
    add(alice, device)
    taken = add(bob, device)
    assert (taken.status_code, "connected already" in taken.text) == (409, True)
    options = bob.browser.get("/profile/passkeys/options").json
    foreign = post(alice.browser, "/profile/passkeys", name="x", credential=device.create(options))
    assert foreign.status_code == 422
    unverified = Authenticator(flags=USER_PRESENT)
    assert add(bob, unverified).status_code == 422
    session.execute(update(Session).values(created_at=factories.now() - timedelta(minutes=16)))
    session.commit()
    assert bob.browser.get("/profile/passkeys/options").status_code == 403
    page = bob.browser.get("/profile/passkeys/new").text
    assert "Sign in again first" in page
    assert "Create passkey" not in page
    again = bob.browser.get("/login?again=1&way=link&next=/profile/passkeys/new").text
    assert "Sign in again" in again
    assert 'value="bob@example.org"' in again
    refused = post(bob.browser, "/profile/passkeys", name="x", credential=Authenticator().create(options))
    assert refused.status_code == 403
    assert session.scalars(select(Passkey.user_id)).all() == [alice.id]


def test_without_scripts_the_pages_say_so(alice: Person, anonymous: Person) -> None:
    page = anonymous.browser.get("/login").text
    assert "<noscript>" in page
    assert "Passkeys need JavaScript" in page
    assert "Passkeys need JavaScript" in alice.browser.get("/profile/passkeys/new").text
    refused = post(alice.browser, "/profile/passkeys", name="Phone", credential="")
    assert (refused.status_code, "sent no passkey" in refused.text) == (422, True)


def test_there_are_at_most_twenty(session: OrmSession, alice: Person, sent: list[Email]) -> None:
    rows = [
        Passkey(
            user_id=alice.id, credential_id=bytes([n]), public_key=b"", sign_count=0, transports=[], name="x"
        )
        for n in range(20)
    ]
    session.add_all(rows)
    session.commit()
    assert alice.browser.get("/profile/passkeys/options").status_code == 409
    assert post(alice.browser, "/profile/passkeys", name="x", credential="{}").status_code == 409


def test_a_banned_user_is_not_signed_in(
    app: Flask, session: OrmSession, alice: Person, sent: list[Email]
) -> None:
    device = Authenticator()
    add(alice, device)
    bans.ban(session.get_one(User, alice.id), "Spam", factories.now())
    session.commit()
    answer = login(app.test_client(), device)
    assert (answer.status_code, "Spam" in answer.text) == (403, True)
    assert session.scalars(select(Passkey.sign_count)).one() == 1


def test_the_last_way_to_sign_in_stays(session: OrmSession, alice: Person, sent: list[Email]) -> None:
    add(alice, Authenticator())
    session.execute(update(User).where(User.id == alice.id).values(email_verified=None))
    row = session.scalars(select(Passkey)).one()
    session.commit()
    path = f"/profile/passkeys/{row.id}/removal"
    assert post(alice.browser, path).status_code == 409
    factories.save(OAuthAccount(user_id=alice.id, type="oauth", provider="github", provider_account_id="1"))
    assert post(alice.browser, path).status_code == 303


def test_whoever_proves_an_unverified_address_removes_its_passkeys(
    session: OrmSession, alice: Person, sent: list[Email]
) -> None:
    add(alice, Authenticator())
    session.execute(update(User).where(User.id == alice.id).values(email_verified=None))
    session.commit()
    sign_in_verified_email("alice@example.org", factories.now(), free_credits=0)
    assert session.scalars(select(Passkey)).all() == []


def test_a_passkey_does_not_pass_single_sign_on(
    app: Flask, session: OrmSession, alice: Person, bob: Person, acme: Org, sent: list[Email]
) -> None:
    device = Authenticator()
    add(bob, device)
    acme.sso_enforced_at = factories.now()
    session.commit()
    browser = app.test_client()
    assert login(browser, device).status_code == 303
    page = browser.get("/orgs/acme")
    assert (page.status_code, "has its own sign-in" in page.text) == (403, True)
    assert browser.get(SECURITY).status_code == 200


@pytest.mark.parametrize(
    ("base", "id_"),
    [
        ("https://stoa.example.org", "stoa.example.org"),
        ("https://stoa.example.org:8443", "stoa.example.org"),
        ("http://localhost:8000", "localhost"),
        ("http://stoa.example.org", None),
        ("https://192.0.2.1", None),
        ("https://[2001:db8::1]", None),
    ],
)
def test_browsers_have_passkeys_at_names_with_https(base: str, id_: str | None) -> None:
    found = relying_party(base, "secret")
    assert (found.id, found.origin) == (id_, base) if found else id_ is None
