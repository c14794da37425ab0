"""The list of calls in Chromium: filters in place, a call beside the list, older calls, by keyboard, and without JavaScript."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person, browser_cookie, now

pytestmark = pytest.mark.browser


@pytest.fixture
def base(app: Flask, session: Session, alice: Person) -> Iterator[str]:
    """A server with 60 calls of alice, each sixth refused."""
    with factories.one_commit():
        for minutes in range(60):
            at = now() - timedelta(minutes=minutes)
            if minutes % 6 == 5:
                factories.call(
                    alice.user,
                    finished_at=at,
                    state="failed",
                    provider=None,
                    error="insufficient_credits",
                    http_status=402,
                )
                continue
            message = factories.message(alice.user, finished_at=at, agent_id="acme/reviewer@2.4.1")
            factories.call(
                alice.user,
                message=message,
                finished_at=at,
                model=f"north/model-{minutes % 3}",
                micro_credits=1_234_000,
            )
    with serving(app) as address:
        yield address


def test_a_call_is_found_and_opened(open_page: OpenPage, base: str, alice: Person) -> None:
    assert alice.user
    with open_page(base, expected=(422,)) as page:
        page.context.add_cookies([browser_cookie(alice.user)])
        page.goto("/calls")
        judge(page, *WIDTHS)
        rows = page.get_by_role("table", name="Calls").get_by_role("row")
        expect(rows).to_have_count(51)
        page.get_by_role("link", name="Load more").focus()
        page.keyboard.press("Enter")
        expect(rows).to_have_count(61)
        page.get_by_label("Model", exact=True).fill("north/model-1")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(21)
        expect(page).to_have_url(f"{base}/calls?model=north/model-1")
        page.get_by_role("link", name="Remove filter: Model: north/model-1").focus()
        for _ in range(5):  # the exports, the columns to sort by, then the first row: one stop
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        panel = page.get_by_role("complementary", name="Call")
        expect(panel.get_by_role("heading", name="north/model-1")).to_be_focused()
        judge(page)
        page.go_back()
        expect(panel).to_be_hidden()
        expect(page).to_have_url(f"{base}/calls?model=north/model-1")
        page.go_back()
        expect(page).to_have_url(f"{base}/calls")
        expect(page.get_by_label("Model", exact=True)).to_have_value("")
        expect(page.get_by_text("north/model-2").first).to_be_visible()
        page.goto("/calls?status=x")
        judge(page, *WIDTHS)


def test_calls_without_script(open_page: OpenPage, base: str, alice: Person) -> None:
    assert alice.user
    with open_page(base, script=False, width=390) as page:
        page.context.add_cookies([browser_cookie(alice.user)])
        page.goto("/calls")
        page.get_by_role("link", name="Load more").click()
        page.get_by_role("link", name="Back to the newest").click()
        page.get_by_text("More filters").click()
        page.locator("#state").select_option("failed")
        page.get_by_role("button", name="Show calls").click()
        expect(page.get_by_text("Insufficient credits").first).to_be_visible()
        page.locator("#call-rows").get_by_role("link").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Refused")
