"""A user journey through everything that moves money, in Chromium: every movement is in a statement that verifies."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models import billing
from models.billing.topups import topup_charging
from models.core import jobs
from models.ledger.statement_check import check_statement
from tests import factories
from tests.billing.stage import Desk
from tests.billing.subscribers import Plans
from tests.billing.test_plans import PRO
from tests.chromium import OpenPage, serving
from tests.factories import Person

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

BILLING, STATEMENT = "/profile?tab=billing", "/profile?tab=statement"


@pytest.fixture
def base(app: Flask, desk: Desk) -> Iterator[str]:
    with serving(app) as address:
        desk.configure(stoa_base_url=address)
        yield address


@pytest.fixture
def page(open_page: OpenPage, base: str, session: OrmSession, alice: Person) -> Iterator[Page]:
    assert alice.user is not None
    with open_page(base) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        yield page


def fill_in_details(page: Page) -> None:
    page.get_by_label("Name or company").fill("Ada & Co")
    page.get_by_label("Address line 1").fill("1 Analytical Row")
    page.get_by_label("City").fill("London")
    page.get_by_label("Country").select_option("GB")
    page.get_by_role("button", name="Save and continue").click()


def call(base: str, who: Person) -> None:
    """Call a model through the gateway, for a few credits."""
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "word " * 40_000}]}
    answer = httpx.post(f"{base}/v1/chat/completions", json=body, headers=who.headers, timeout=60)
    assert answer.status_code == 200, answer.text


def test_the_whole_payment_journey(base: str, page: Page, desk: Desk, alice: Person) -> None:
    people = Plans(desk)
    desk.run(billing.create_plan, PRO)
    people.offer("Max", 10_000, sort=1, windows=PRO.windows, included_credits=3000)

    page.goto(BILLING)
    page.get_by_label("Number of credits").fill("600")
    page.get_by_role("button", name="Review and pay").click()
    fill_in_details(page)
    page.get_by_role("button", name="Pay $6.00").click()
    page.get_by_role("button", name="Pay").first.click()
    expect(page.get_by_text("600 credits bought")).to_be_visible()
    desk.deliver_events()  # makes the card the default

    page.goto(BILLING)
    page.get_by_label("Top up automatically").check()
    with page.expect_response(lambda answer: "595" in (answer.request.post_data or "")):
        page.get_by_label("When below").fill("595")
    call(base, alice)
    spent = -sum(amount for kind, amount in desk.entries(alice) if kind == "debit")
    assert 5 < spent < 600
    assert desk.run(topup_charging.enqueue_due) == 1
    desk.run(jobs.top_up, account_id=alice.id)
    card = page.locator("#auto-topup")
    expect(card.get_by_text(f"{2600 - spent:,} credits", exact=True)).to_be_visible()

    page.goto("/pricing")
    page.get_by_role("link", name="Subscribe: Pro").click()
    page.get_by_role("button", name="Continue to payment").click()
    page.get_by_role("button", name="Subscribe").first.click()
    people.deliver_events()
    expect(page.get_by_text("Pro is active")).to_be_visible()
    page.goto("/profile?tab=plan")
    page.get_by_role("link", name="Change plan: Max").click()
    expect(page.get_by_text("Due now")).to_be_visible()
    page.get_by_role("button", name="and change").click()
    expect(page.get_by_role("heading", name="Max")).to_be_visible()
    people.deliver_events()

    bought, topped_up = desk.purchases(alice)
    desk.refund(bought, 200)
    desk.refund(topped_up, 2000)
    desk.deliver_events()

    settled = desk.balance(alice)
    included = sum(principal for _, principal, _ in people.grants(alice))
    assert included > 0
    assert settled == 600 + 2000 + included - spent - 200 - 2000
    page.goto(STATEMENT)
    expect(page.get_by_text(f"{settled:,} credits", exact=True).first).to_be_visible()
    rows = page.get_by_role("table", name="Entries").get_by_role("rowheader").all_inner_texts()
    assert rows == [
        "Taken back by a refund: Purchase of 600 credits",
        "Taken back by a refund: Auto top-up of 2000 credits",
        "Included in Max",
        "Included in Pro",
        "Auto top-up of 2000 credits",
        "stoa/demo",
        "Purchase of 600 credits",
    ]
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download CSV").first.click()
    lines: Any = downloading.value.path().read_text().splitlines(keepends=True)
    check = check_statement(lines)
    assert check.valid, check.problems
    assert check.from_start
    desk.prove()
