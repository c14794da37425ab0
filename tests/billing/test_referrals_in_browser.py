"""Referrals in Chromium: accessibility in both widths and schemes, accepting an invitation with and without JavaScript, and a
list that refreshes automatically."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession

from models.accounts import User
from models.billing.referral_program import referrals
from models.core import mail
from models.core.db import now
from models.core.mail import Email
from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person
from views.web.guards import limiter

pytestmark = pytest.mark.browser

TAB = "/profile?tab=referrals"


@pytest.fixture
def base(app: Flask) -> Iterator[str]:
    with serving(app) as address:
        yield address
    with app.app_context():
        limiter.reset()


def cookie_of(user: User) -> dict[str, str]:
    return factories.browser_cookie(user)


@pytest.fixture
def users(session: OrmSession, alice: Person, bob: Person) -> tuple[User, User]:
    return session.get_one(User, alice.id), session.get_one(User, bob.id)


def refer(session: OrmSession, referrer: User) -> None:
    """One referral in each state, and one of the referrer."""
    names = ["Mara Lindqvist", "Jonas", "Somebody With A Very Long Name Indeed", "Ayşe"]
    people = [
        factories.user(name, email=f"{name.replace(' ', '.').lower()[:18]}@example.org") for name in names
    ]
    assert referrer.referral_code
    for number, person in enumerate(people):
        reward = "now" if number == 0 else "first_purchase"
        referrals.redeem(person.id, referrer.referral_code, reward=reward, free_credits=0)
    for person in people[2:]:
        assert referrals.referral_paid(person.id, "buy-1")
    assert referrals.referral_void(people[3].id, "buy-1", "refund")
    session.commit()
    factories.referral(factories.user("Nora"), referrer, 250, status="completed", completed_at=now())


def test_axe_finds_nothing(
    open_page: OpenPage,
    base: str,
    session: OrmSession,
    users: tuple[User, User],
) -> None:
    alice, bob = users
    invitation = f"/referrals/{alice.referral_code}"
    with open_page(base, width=390, expected=(404, 422)) as page:
        for address in (invitation, "/referrals/ref-none"):
            page.goto(address)
            judge(page, *WIDTHS)
        page.context.add_cookies([cookie_of(bob)])  # type: ignore[list-item]
        page.goto(invitation)
        judge(page, *WIDTHS)
        page.context.add_cookies([cookie_of(alice)])  # type: ignore[list-item]
        for address in (TAB, invitation, "/affiliates"):
            page.goto(address)
            judge(page, *WIDTHS)
        page.get_by_role("textbox", name="Handle").fill("no")
        page.get_by_role("button", name="Set handle").click()
        expect(page.locator("[aria-invalid]")).to_be_visible()
        judge(page, *WIDTHS)
        page.get_by_role("textbox", name="Handle").fill("ally")
        page.get_by_role("button", name="Set handle").click()
        expect(page.locator("code", has_text="/ally")).to_be_visible()
        judge(page, *WIDTHS)
        refer(session, alice)
        page.goto(TAB)
        expect(page.get_by_text("Referred by Nora")).to_be_visible()
        expect(page.get_by_text("Void")).to_be_visible()
        judge(page, *WIDTHS)
        alice.referral_limit = 3
        session.commit()
        page.goto(TAB)
        expect(page.get_by_text("You have used all your referrals.")).to_be_visible()
        judge(page, *WIDTHS)
        page.context.add_cookies([cookie_of(bob)])  # type: ignore[list-item]
        page.goto(invitation)
        expect(page.get_by_role("alert")).to_be_visible()
        judge(page, *WIDTHS)
        page.context.clear_cookies()
        page.goto(invitation)
        expect(page.get_by_text("Referral limit reached.")).to_be_visible()
        judge(page, *WIDTHS)


@pytest.mark.parametrize("script", [True, False])
def test_a_short_link_refers_a_new_user_and_grants_both(
    open_page: OpenPage,
    base: str,
    session: OrmSession,
    users: tuple[User, User],
    monkeypatch: pytest.MonkeyPatch,
    script: bool,
) -> None:
    alice, _ = users
    outbox: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: outbox.append(message))
    with open_page(base, script=script) as page:
        page.context.add_cookies([cookie_of(alice)])  # type: ignore[list-item]
        page.goto(TAB)
        page.get_by_role("link", name="Get a short link").click()
        page.get_by_role("textbox", name="Handle").fill("Ally")
        page.get_by_role("button", name="Set handle").click()
        expect(page.locator("code", has_text="/ally")).to_be_visible()
        page.context.clear_cookies()
        page.goto("/ally")
        expect(page).to_have_title("@ally invites you · Stoa")
        page.get_by_role("link", name="Sign in to accept").click()
        page.get_by_label("E-mail").fill("new@example.net")
        page.get_by_role("button", name="Send sign-in link").click()
        expect(page.get_by_text("new@example.net")).to_be_visible()
        found = re.search(r"/login/link/\S+", outbox[0].text)
        assert found
        page.goto(found[0])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Accept the invitation").click()
        expect(page.get_by_text("Referred by alice")).to_be_visible()
        expect(page.get_by_text("You got 250 credits.")).to_be_visible()
        page.context.clear_cookies()
        page.context.add_cookies([cookie_of(alice)])  # type: ignore[list-item]
        page.goto(TAB)
        expect(page.get_by_text("new@example.net")).to_be_visible()
        expect(page.get_by_text("1 of 500", exact=True)).to_be_visible()


def test_the_list_refreshes_without_the_rest_of_the_page(
    open_page: OpenPage, base: str, session: OrmSession, users: tuple[User, User]
) -> None:
    alice, bob = users
    with open_page(base) as page:
        page.context.add_cookies([cookie_of(alice)])  # type: ignore[list-item]
        page.clock.install()
        page.goto(TAB)
        expect(page.get_by_text("No referrals yet")).to_be_visible()
        assert alice.referral_code
        referrals.redeem(bob.id, alice.referral_code, reward="now", free_credits=0)
        session.commit()
        page.clock.run_for(timedelta(seconds=16).seconds * 1000)
        expect(page.get_by_text("bob@example.org")).to_be_visible()
        expect(page.get_by_role("heading", name="Your link")).to_be_visible()
        judge(page)
