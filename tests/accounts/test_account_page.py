"""The profile tab `account`: name, theme and connected identities, for every test user."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts import OAuthAccount, User
from models.accounts.account_settings import identity_id
from models.core.audit_log import AuditLog
from tests import factories
from tests.accounts.browsing import token_of
from tests.factories import Person

ACCOUNT = "/profile?tab=account"
HTMX = {"HX-Request": "true"}


def sent(person: Person, path: str, headers: Any = None, **form: str) -> Any:
    page = person.browser.get(ACCOUNT if person.user else "/login")
    return person.browser.post(path, data={"csrf_token": token_of(page), **form}, headers=headers)


def stored(session: OrmSession, person: Person) -> User:
    session.expire_all()
    return session.get_one(User, person.id)


def identity(session: OrmSession, owner: Person, provider: str = "github", subject: str = "77") -> str:
    row = factories.save(
        OAuthAccount(user_id=owner.id, type="oauth", provider=provider, provider_account_id=subject)
    )
    return identity_id(row)


def actions(session: OrmSession) -> list[str]:
    return list(session.scalars(select(AuditLog.action).order_by(AuditLog.id)))


def test_name_and_theme_are_saved_and_applied(session: OrmSession, alice: Person) -> None:
    assert 'content="light dark"' in alice.browser.get(ACCOUNT).text
    answer = sent(alice, "/profile/account", name="  Ada Lovelace ", theme="dark")
    assert (answer.status_code, answer.headers["Location"]) == (303, ACCOUNT)
    page = alice.browser.get("/profile?tab=security").text
    assert '<html lang="en" data-theme="dark">' in page
    assert 'name="color-scheme" content="dark"' in page
    assert "Your account, Ada Lovelace" in page
    assert alice.browser.get("/no-such-page").text.count('data-theme="dark"') == 1
    assert sent(alice, "/profile/account", HTMX, name="", theme="light").headers["HX-Redirect"] == ACCOUNT
    user = stored(session, alice)
    assert (user.name, user.theme, user.display_name) == (None, "light", "alice")
    assert session.scalars(select(User.display_name).where(User.id == alice.id)).one() == "alice"
    assert "Your account, alice<" in alice.browser.get(ACCOUNT).text
    sent(alice, "/profile/account", name="", theme="light")
    assert actions(session) == ["user.changed", "user.changed"]


def test_pages_use_the_time_zone_and_the_language_of_numbers(session: OrmSession, alice: Person) -> None:
    at = datetime(2026, 3, 28, 23, 30, tzinfo=UTC)
    factories.call(alice.user, finished_at=at, started_at=at, model="zoned")
    alice.browser.set_cookie("stoa-zone", "Asia/Kolkata")
    assert "now Asia/Kolkata" in alice.browser.get(ACCOUNT).text
    assert "29 Mar 2026, 05:00:00 IST" in alice.browser.get("/calls").text
    sent(alice, "/profile/account", time_zone="America/New_York", number_language="de")
    user = stored(session, alice)
    assert (user.name, user.time_zone, user.number_language) == ("alice", "America/New_York", "de")
    # 19:30 of the day before, in summer time
    for days, found in (("28", True), ("29", False)):
        day = f"2026-03-{days}"
        page = alice.browser.get(f"/calls?range=custom&from={day}&to={day}").text
        assert ("28 Mar 2026, 19:30:00 EDT" in page) == found
        assert "From, America/New_York" in page
    for path in (
        "/profile?tab=usage",
        "/profile?tab=statement",
        ACCOUNT,
    ):
        assert "America/New_York" in alice.browser.get(path).text, path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "\x00"),
        ("time_zone", "../UTC"),
        ("number_language", "xx"),
    ],
)
def test_bad_zones_and_languages_are_refused(alice: Person, field: str, value: str) -> None:
    answer = sent(alice, "/profile/account", HTMX, **{field: value})
    assert answer.status_code == 422
    assert answer.text.count('aria-invalid="true"') == 1


@pytest.mark.parametrize(
    ("name", "theme"),
    [("x" * 101, "dark"), ("a\x00b", "dark"), ("a\u202eb", "dark"), ("Ada", "neon"), ("Ada", "")],
)
def test_bad_settings_are_refused(session: OrmSession, alice: Person, name: str, theme: str) -> None:
    answer = sent(alice, "/profile/account", HTMX, name=name, theme=theme)
    assert answer.status_code == 422
    assert answer.text.count('aria-invalid="true"') == 1
    assert (stored(session, alice).name, stored(session, alice).theme) == ("alice", "system")


def test_only_the_own_identity_is_disconnected(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    row = identity(session, alice)
    path = f"/profile/sign-ins/{row}/revocation"
    assert "77" in alice.browser.get(ACCOUNT).text
    for other in (bob, mallory):
        assert other.browser.get(path).status_code == 404
        assert sent(other, path).status_code == 404
    for address in (path, "/profile/account", "/profile/sign-ins/github"):
        assert sent(anonymous, address).headers["Location"] == "/login"
    assert anonymous.browser.get(ACCOUNT).status_code == 302
    assert session.scalars(select(OAuthAccount.user_id)).all() == [alice.id]
    assert "Disconnect GitHub?" in alice.browser.get(path).text
    assert sent(alice, path).status_code == 303
    assert session.scalars(select(OAuthAccount)).all() == []
    assert sent(alice, path).status_code == 404
    assert actions(session) == ["identity.removed"]


def test_the_last_way_to_sign_in_and_an_organisations_stay(session: OrmSession, alice: Person) -> None:
    row, sso = identity(session, alice), identity(session, alice, "sso:org-1", "u1")
    assert sent(alice, f"/profile/sign-ins/{sso}/revocation").status_code == 404
    assert "Set by the organisation" in alice.browser.get(ACCOUNT).text
    session.execute(update(User).where(User.id == alice.id).values(email_verified=None))
    session.execute(OAuthAccount.__table__.delete().where(OAuthAccount.provider != "github"))  # type: ignore[attr-defined]
    session.commit()
    assert sent(alice, f"/profile/sign-ins/{row}/revocation").status_code == 409
    assert len(session.scalars(select(OAuthAccount)).all()) == 1


def test_an_unknown_provider_is_not_connected(alice: Person) -> None:
    assert sent(alice, "/profile/sign-ins/gitlab").status_code in (404, 405)
    assert sent(alice, "/profile/sign-ins/google").status_code == 404
