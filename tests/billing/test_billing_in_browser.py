"""Buying credits in Chromium: with and without JavaScript, and without axe violations."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.billing.payments.billing_details import save_billing_details
from models.ledger import Account
from models.orgs import Org
from tests import factories
from tests.billing.stage import Desk
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

ADDRESS = {
    "name": "Ada & Co",
    "line1": "1 Analytical Row",
    "city": "London",
    "postal_code": "N1",
    "country": "GB",
}


@pytest.fixture
def base(app: Flask, desk: Desk) -> Iterator[str]:
    with serving(app) as address:
        desk.configure(stoa_base_url=address)
        yield address


@pytest.fixture
def cookie(session: OrmSession, alice: Person) -> Any:
    assert alice.user is not None
    return factories.browser_cookie(alice.user)


def with_details(desk: Desk, who: Person) -> None:
    desk.run(save_billing_details, Account(user_id=who.id), ADDRESS, [("gb_vat", "GB123456789")])


def test_axe_finds_nothing(
    open_page: OpenPage, base: str, desk: Desk, alice: Person, acme: Org, cookie: Any
) -> None:
    with_details(desk, alice)
    bought = desk.bought(alice)
    desk.stripe.add_card(desk.customer(alice), "mastercard", default=False)
    desk.refund(bought, 400)
    desk.deliver_events()
    with open_page(base, width=390, expected=(422,)) as page:
        page.context.add_cookies([cookie])
        for path in (
            "/profile?tab=billing",
            f"/orgs/{acme.slug}/billing",
            "/profile/billing/cards",
            "/profile/billing/checkout?amount=2500",
            "/profile/billing/checkout?amount=custom&credits=7",
            "/profile/billing/details?credits=2500",
            f"/profile/billing/purchases/{bought.id}",
            f"/payment-success?operation={bought.id}&purchase=credits&amt=1000",
        ):
            page.goto(path)
            expect(page.get_by_text("Test mode")).to_be_visible()
            if "tab=billing" in path:
                expect(page.get_by_text("4444")).to_be_visible()
            judge(page, *WIDTHS)
        desk.dispute(bought, amount=600)
        desk.deliver_events()
        page.goto("/profile?tab=billing")
        expect(page.get_by_text("Buying is frozen")).to_be_visible()
        judge(page, *WIDTHS)


@pytest.mark.parametrize("script", [True, False])
def test_buying_on_stripes_page_and_then_with_the_saved_card(
    open_page: OpenPage, base: str, desk: Desk, alice: Person, cookie: Any, script: bool
) -> None:
    with open_page(base, script=script) as page:
        page.context.add_cookies([cookie])
        page.goto("/profile?tab=billing")
        page.get_by_label("Number of credits").fill("1500")
        if not script:
            page.get_by_role("radio", name="Another amount").check()
        page.get_by_role("button", name="Review and pay").click()
        page.get_by_label("Name or company").fill("Ada & Co")
        page.get_by_label("Address line 1").fill("1 Analytical Row")
        page.get_by_label("City").fill("London")
        page.get_by_label("Country").select_option("GB")
        page.get_by_role("button", name="Save and continue").click()
        page.get_by_role("button", name="Pay $15.00").click()
        expect(page.get_by_role("region", name="Play money")).to_be_visible()
        page.get_by_role("button", name="Pay").first.click()
        expect(page.get_by_text("1,500 credits bought")).to_be_visible()
        desk.deliver_events()  # makes the card the default

        _buy_again(page, script)
        assert desk.balance(alice) == 4000
        assert [each.state for each in desk.purchases(alice)] == ["paid", "paid"]
    desk.prove()


def _buy_again(page: Page, script: bool) -> None:
    """With the saved card, by a double click."""
    page.get_by_role("link", name="Billing").last.click()
    if not script:
        page.get_by_role("link", name="Show your saved cards").click()
    expect(page.get_by_text("Default", exact=True)).to_be_visible()
    page.goto("/profile?tab=billing")
    page.get_by_role("button", name="Review and pay").click()
    page.get_by_role("button", name="Pay $25.00").dblclick()
    expect(page.get_by_text("2,500 credits bought")).to_be_visible()


def test_the_payment_page_refreshes_when_stripe_answers(
    open_page: OpenPage, base: str, desk: Desk, alice: Person, cookie: Any
) -> None:
    with_details(desk, alice)
    session = desk.buy(alice).json["sessionId"]  # type: ignore[index]
    with open_page(base) as page:
        page.context.add_cookies([cookie])
        page.goto(f"/payment-success?session_id={session}&purchase=credits&amt=1000")
        expect(page.get_by_text("Waiting for Stripe")).to_be_visible()
        desk.stripe.pay(session)
        desk.deliver_events()
        expect(page.get_by_text("1,000 credits bought")).to_be_visible()
        judge(page)
