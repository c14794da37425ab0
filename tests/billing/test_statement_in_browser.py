"""The statement in Chromium: axe at both widths and schemes, filters in place, days from the chart, use without
JavaScript."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session

from models.ledger import charge
from tests import factories
from tests.billing.statements import NOW, history
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person

pytestmark = pytest.mark.browser

TAB = "/profile?tab=statement"


@pytest.fixture
def base(app: Flask, session: Session, alice: Person) -> Iterator[str]:
    """A server, and entries of all kinds for alice, with 70 charges of a day."""
    assert alice.user
    history(session, alice)
    for n in range(70):
        charge(alice.account, 1, cause=f"search-{n + 2}", now=NOW)
    session.commit()
    factories.grant(alice.user, 80, "free", expires_at=factories.now() + (factories.now() - NOW))
    factories.hold(alice.user, 12)
    with serving(app) as address:
        yield address


@pytest.fixture
def cookie(session: Session, alice: Person) -> dict[str, Any]:
    assert alice.user
    return factories.browser_cookie(alice.user)


def settled(page: Page) -> None:
    expect(page.locator(".htmx-settling, .htmx-swapping, .htmx-request")).to_have_count(0)


def test_axe_finds_nothing(open_page: OpenPage, base: str, cookie: Any, alice: Person) -> None:
    with open_page(base, expected=(422,)) as page:
        page.context.add_cookies([cookie])
        paths = (
            TAB,
            f"{TAB}&kind=calls&least=9&from=2026-02-01",
            f"{TAB}&from=x",
            f"/profile/statement/{NOW.date()}",
            f"/profile/statement/grants/sold-{alice.id}",
        )
        for path in paths:
            page.goto(path)
            page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true })")
            judge(page, *WIDTHS)


def test_filters_update_in_place_and_causes_are_linked(open_page: OpenPage, base: str, cookie: Any) -> None:
    with open_page(base) as page:
        page.context.add_cookies([cookie])
        page.goto(TAB)
        page.evaluate("window.stayed = true")
        entries = page.locator("#entries tbody tr")
        assert entries.count() == 51
        page.get_by_role("link", name="Load more").click()
        expect(page.get_by_role("link", name="Load more")).to_have_count(0)
        assert entries.count() == 82

        page.get_by_label("Kind").select_option("expiries")
        expect(entries).to_have_count(1)
        settled(page)
        expect(page).to_have_url(re.compile("kind=expiries"))
        page.get_by_label("Kind").select_option("")
        page.get_by_label("Cause").fill("LAB/")
        expect(entries).to_have_count(3)
        settled(page)
        page.get_by_label("At least").fill("100")
        page.get_by_role("button", name="Show entries").click()
        expect(entries).to_have_count(1)
        settled(page)
        with page.expect_download() as started:
            page.get_by_role("link", name="Download these as CSV").click()
        assert "filtered" in started.value.suggested_filename
        assert page.evaluate("window.stayed")
        page.get_by_role("link", name="Remove filter: At least 100 credits").click()
        expect(entries).to_have_count(3)
        page.get_by_role("link", name="lab/big").click()
        expect(page.get_by_role("heading", name="Ledger entries")).to_be_visible()
        page.go_back()
        # the chart's column of yesterday
        page.locator(".col-link").nth(28).click()
        expect(page).to_have_url(re.compile(f"/profile/statement/{NOW.date()}$"))
        expect(page.locator(".prose")).to_contain_text("70 other charges cost 70 credits.")
        page.get_by_role("link", name="Entries of this day").click()
        expect(page.get_by_label("From, UTC")).to_have_value(str(NOW.date()))


def test_everything_works_without_script(open_page: OpenPage, base: str, cookie: Any) -> None:
    with open_page(base, script=False, expected=(422,)) as page:
        page.context.add_cookies([cookie])
        page.goto("/profile?tab=billing")
        page.locator(".page-header").get_by_role("link", name="Statement").click()
        page.get_by_label("Kind").select_option("refunds")
        page.get_by_role("button", name="Show entries").click()
        rows = page.locator("#entries tbody tr")
        expect(rows).to_have_count(3)
        page.get_by_label("To, UTC").fill("2020-01-01")
        page.get_by_label("From").fill("2020-01-02")
        page.get_by_role("button", name="Show entries").click()
        expect(page.get_by_role("alert")).to_contain_text("or a later day")
        expect(page.get_by_label("To, UTC")).to_have_attribute("aria-invalid", "true")
        page.goto(TAB)
        page.get_by_role("link", name="Load more").click()
        expect(page).to_have_url(re.compile("before="))
        expect(rows).to_have_count(32)
        page.get_by_role("link", name="Back to the newest").click()
        page.locator("#balance summary").click()
        page.locator("#balance-t a").nth(28).click()
        expect(page.get_by_role("heading", name="Why the balance changed")).to_be_visible()
        page.get_by_role("link", name="Day before").click()
        expect(page.get_by_role("link", name="Day after")).to_be_visible()
