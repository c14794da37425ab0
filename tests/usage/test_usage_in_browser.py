"""Usage pages in Chromium: accessibility, changing the chart in place, and use without JavaScript."""

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from tests import factories
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person
from tests.usage.billed_calls import Call, insert_calls

pytestmark = pytest.mark.browser


@pytest.fixture
def base(app: Flask, session: Session, alice: Person) -> Iterator[str]:
    """A server with 40 days of calls of nine models, grants and a hold for alice."""
    assert alice.user is not None
    rng = random.Random(8)
    now = datetime.now(UTC)
    factories.grant(alice.user, 500, "free", balance=312, expires_at=now + timedelta(days=9))
    factories.grant(alice.user, 6000, "purchase", balance=3850)
    factories.hold(alice.user, 12)
    insert_calls(
        session,
        alice.id,
        [
            Call(
                at=now - timedelta(seconds=rng.randrange(40 * 86_400)),
                model=f"lab/model-{rng.randrange(9)}",
                agent=rng.choice(["", "acme/reviewer@2.4.1"]),
                credits=rng.randrange(40),
                latency_ms=rng.randrange(100, 9000),
                cache_read=4000,
            )
            for _ in range(400)
        ],
    )
    session.commit()
    with serving(app) as address:
        yield address


@pytest.fixture
def cookie(session: Session, alice: Person) -> dict[str, str]:
    assert alice.user is not None
    return {
        "name": "next-auth.session-token",
        "value": factories.token(alice.user, type="web"),
        "domain": "127.0.0.1",
        "path": "/",
    }


def test_axe_finds_nothing(open_page: OpenPage, base: str, cookie: dict[str, str]) -> None:
    with open_page(base, width=390, expected=(422,)) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        for path in (
            "/profile?tab=usage",
            "/profile?tab=usage&range=24h&show=latency&by=agent",
            "/profile?tab=usage&range=7d&show=errors&by=error&model=lab/model-1&state=failed",
            "/profile?tab=usage&range=custom&from=2026-01-09&to=x",
        ):
            page.goto(path)
            page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true })")
            judge(page, *WIDTHS)


def test_axe_finds_nothing_for_a_new_account(open_page: OpenPage, app: Flask, cookie: dict[str, str]) -> None:
    with serving(app) as base, open_page(base, width=390) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        for path in ("/profile", "/profile?tab=statement"):
            page.goto(path)
            judge(page, *WIDTHS)


def test_range_metric_and_group_change_without_leaving_the_page(
    open_page: OpenPage, base: str, cookie: dict[str, str]
) -> None:
    with open_page(base, expected=(422,)) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto("/profile?tab=usage")
        page.evaluate("window.stayed = true")
        month = page.locator(".chart__total").inner_text()

        page.get_by_role("link", name="7d").click()
        expect(page.get_by_role("link", name="7d")).to_have_attribute("aria-current", "true")
        expect(page).to_have_url(re.compile("range=7d"))
        expect(page.locator(".chart__total")).not_to_have_text(month)
        page.get_by_role("link", name="Tokens").click()
        expect(page.get_by_role("link", name="Tokens")).to_have_attribute("aria-current", "true")
        expect(page.locator(".htmx-settling, .htmx-swapping")).to_have_count(0)
        page.get_by_label("Group by").select_option("agent")
        expect(page.get_by_role("heading", name="By agent")).to_be_visible()
        expect(page).to_have_url(re.compile("range=7d.*show=tokens.*by=agent"))

        page.get_by_role("link", name="Custom").click()
        expect(page.get_by_label("First day")).to_be_visible()
        expect(page.locator(".htmx-settling, .htmx-swapping")).to_have_count(0)
        page.get_by_label("First day").fill("2020-01-01")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_role("alert")).to_contain_text("at most 366 days")
        expect(page.get_by_label("First day")).to_have_value("2020-01-01")
        # until then it is a plain form
        expect(page.locator(".htmx-settling, .htmx-swapping")).to_have_count(0)
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
        page.get_by_label("First day").fill(yesterday)
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page).to_have_url(re.compile(f"from={yesterday}"))
        assert page.evaluate("window.stayed")

        page.evaluate("history.go(-3)")
        expect(page.get_by_role("heading", name="By agent")).to_be_visible()
        expect(page.get_by_role("link", name="7d")).to_have_attribute("aria-current", "true")


def test_a_chart_is_read_and_filtered_by_keyboard(
    open_page: OpenPage, base: str, cookie: dict[str, str]
) -> None:
    with open_page(base) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto("/profile?tab=usage&range=7d")
        plot = page.locator("[data-plot]")
        page.get_by_role("link", name="Custom").focus()
        page.keyboard.press("Tab")
        expect(plot).to_be_focused()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        row = page.locator("#used-t tbody tr").nth(5)
        day = row.locator("th").text_content() or ""
        expect(page.locator(".tooltip h4")).to_contain_text(day)
        expect(page.locator("#chart-column")).to_contain_text(f"{day}, ")
        page.keyboard.press("Home")
        expect(page.locator(".tooltip h4")).not_to_contain_text(day)
        page.keyboard.press("Escape")
        expect(page.locator(".tooltip")).to_have_count(0)
        box = page.locator(".plot__cols").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 5.5 / 7, box["y"] + 50)
        expect(page.locator(".tooltip h4")).to_contain_text(day)
        page.mouse.move(5, 5)
        expect(page.locator(".tooltip")).to_have_count(0)

        # a column, then an entry of the legend, then both are removed
        plot.focus()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("from=.*to=.*range=custom"))
        expect(page.locator('[data-plot="24"]')).to_be_visible()
        expect(page.locator(".htmx-settling, .htmx-swapping")).to_have_count(0)
        entry = page.locator(".legend a").first
        name = entry.inner_text()
        entry.press("Enter")
        chip = page.get_by_role("link", name=f"Remove filter: Model: {name}")
        expect(chip).to_be_visible()
        expect(page).to_have_url(re.compile("model=lab"))
        expect(page.locator(".htmx-settling, .htmx-swapping")).to_have_count(0)
        chip.press("Enter")
        expect(chip).to_have_count(0)
        page.go_back()
        expect(chip).to_be_visible()


def test_everything_works_without_script(open_page: OpenPage, base: str, cookie: dict[str, str]) -> None:
    with open_page(base, script=False, expected=(422,)) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto("/profile?tab=usage")
        page.get_by_role("link", name="7d").click()
        expect(page.get_by_role("heading", name="Balance")).to_be_visible()
        page.get_by_label("Group by").select_option("agent")
        page.get_by_role("button", name="Group").click()
        expect(page.get_by_role("heading", name="By agent")).to_be_visible()
        expect(page.get_by_role("link", name="7d")).to_have_attribute("aria-current", "true")
        page.locator(".legend a").first.click()
        expect(page.get_by_role("link", name="Remove filter")).to_be_visible()
        page.get_by_role("link", name="Error rate").click()
        page.get_by_role("link", name="Remove filter").click()
        expect(page.get_by_role("link", name="Remove filter")).to_have_count(0)
        page.locator("#show-credits").click()
        page.locator(".chart summary").click()
        expect(page.locator("#used-t tfoot")).to_contain_text("Total")
        page.get_by_role("link", name="Custom").click()
        page.get_by_label("Last day").fill("2020-01-01")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_role("alert")).to_contain_text("or change the first day")


def test_the_export(open_page: OpenPage, base: str, cookie: dict[str, str]) -> None:
    with open_page(base) as page:
        page.context.add_cookies([cookie])  # type: ignore[list-item]
        page.goto("/profile?tab=usage")
        with page.expect_download() as started:
            page.get_by_role("link", name="Export CSV").click()
        assert started.value.suggested_filename.startswith("stoa-usage-")
