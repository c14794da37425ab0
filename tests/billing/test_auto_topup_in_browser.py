"""Automatic top-up in Chromium: saved while typing, shown without reloading, confirmed at the bank, accessible."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models import ledger
from models.billing.topups import auto_topup, topup_charging
from models.core import jobs
from models.core.db import now
from tests import factories
from tests.billing.stage import Desk
from tests.billing.topups import enable, mails, top_up
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

BILLING = "/profile?tab=billing"


@pytest.fixture
def base(app: Flask, desk: Desk) -> Iterator[str]:
    with serving(app) as address:
        desk.configure(stoa_base_url=address)
        yield address


@pytest.fixture
def cookie(session: OrmSession, alice: Person) -> Any:
    assert alice.user is not None
    return factories.browser_cookie(alice.user)


def stored(desk: Desk, who: Person) -> tuple[bool, int | None, int | None, int | None]:
    found = desk.run(auto_topup.settings_of, who.account)
    return found.enabled, found.threshold, found.amount, found.monthly_cap_cents


def saved(page: Page) -> None:
    expect(page.locator("#auto-topup").get_by_text("Saved", exact=True)).to_be_visible()


def test_it_is_saved_as_typed_and_the_top_up_arrives_without_reloading(
    open_page: OpenPage, base: str, desk: Desk, alice: Person, cookie: Any
) -> None:
    desk.card(alice)
    assert alice.user
    factories.grant(alice.user, 1000)
    with open_page(base, expected=(422,)) as page:
        page.context.add_cookies([cookie])
        page.goto(BILLING)
        page.get_by_label("Top up automatically").check()
        saved(page)
        assert stored(desk, alice) == (True, 500, 2000, 10_000)
        field = page.get_by_label("When below")
        field.fill("12")
        expect(page.get_by_text("Enter 150 to 1,000 credits.")).to_be_visible()
        expect(field).to_be_focused()
        field.press_sequentially("0")
        field.fill("700")
        saved(page)
        expect(field).to_be_focused()
        assert stored(desk, alice) == (True, 700, 2000, 10_000)
        card = page.locator("#auto-topup")
        expect(card.get_by_text("1,000 credits", exact=True)).to_be_visible()
        desk.run(ledger.charge, alice.account, 400, cause="call")
        assert desk.run(topup_charging.enqueue_due) == 1
        desk.run(jobs.top_up, account_id=alice.id)
        expect(card.get_by_text("2,600 credits", exact=True)).to_be_visible()
        expect(card.get_by_text("$20.00", exact=True)).to_be_visible()
    desk.prove()


def test_it_is_set_without_javascript(
    open_page: OpenPage, base: str, desk: Desk, alice: Person, cookie: Any
) -> None:
    desk.card(alice)
    with open_page(base, script=False) as page:
        page.context.add_cookies([cookie])
        page.goto(BILLING)
        page.get_by_label("Top up automatically").check()
        page.get_by_label("Top up by").fill("7.50")
        page.get_by_label("Monthly limit").fill("")
        page.locator("#auto-topup").get_by_role("button", name="Save").click()
        expect(page.get_by_text("Automatic top-up saved.")).to_be_visible()
        assert stored(desk, alice) == (True, 500, 750, None)


@pytest.mark.parametrize("script", [True, False])
def test_a_mailed_link_leads_through_the_bank(
    open_page: OpenPage, base: str, desk: Desk, alice: Person, script: bool
) -> None:
    desk.card(alice, "three_d_secure")
    enable(desk, alice)
    assert not top_up(desk, alice)
    link = mails(desk)[0]["text"].partition("Confirm the payment:\n")[2].split()[0]
    link = link.removeprefix(desk.settings.base_url)
    with open_page(base, script=script) as page:
        page.goto(link)
        if script:
            judge(page)
        page.get_by_role("button", name="Confirm $20.00").click()
        page.get_by_role("button", name="Confirm").click()
        expect(page.get_by_text("The credits were added to your account.")).to_be_visible()
    assert desk.balance(alice) == 2000
    desk.prove()


def test_axe_finds_nothing(open_page: OpenPage, base: str, desk: Desk, alice: Person, cookie: Any) -> None:
    method = desk.card(alice)
    with open_page(base, width=390) as page:
        page.context.add_cookies([cookie])
        page.goto("/profile/auto-topup")
        judge(page, *WIDTHS)
        for minute, (kind, shown) in enumerate(
            (
                ("insufficient_funds", "Try again now"),
                ("three_d_secure", "Confirm the payment"),
                ("lost_card", "Paused until you save another card"),
            )
        ):
            desk.session.execute(text("DELETE FROM auto_topup; DELETE FROM purchase"))
            desk.session.commit()
            desk.stripe.change_card(method, kind)
            enable(desk, alice)
            assert not top_up(desk, alice, now() + minute * timedelta(minutes=1))
            page.goto("/profile/auto-topup")
            expect(page.get_by_text(shown)).to_be_visible()
            judge(page, *WIDTHS)
