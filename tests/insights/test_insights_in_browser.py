"""Inbox, next steps and decisions in Chromium: accessible at both widths, moved through by keyboard, and used without JavaScript."""

import os
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.ledger import Account
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person
from tests.insights.insight_rows import insight_rows
from tests.projects.project_rows import project_rows

pytestmark = pytest.mark.browser


def test_pages_of_insights_are_accessible_and_the_inbox_has_keys(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    ids = project_rows(alice.id, Account(user_id=alice.id))
    ids |= insight_rows(ids)
    session.commit()
    start = f"/projects/{ids['project_id']}"
    pictures = os.environ.get("STOA_SCREENSHOTS")
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for number, path in enumerate(
            (
                f"{start}/inbox",
                f"{start}/items/{ids['item_id']}",
                f"{start}/items/new",
                f"{start}/next-steps",
                f"{start}/next-steps/ask",
                f"{start}/decisions",
                f"{start}/decisions?state=accepted",
                f"{start}/decisions/ask",
                start,
                "/inbox",
                "/inbox?view=all",
                "/inbox?view=snoozed",
            )
        ):
            page.goto(path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            if pictures:
                _photograph(page, Path(pictures), str(number))
            judge(page, 1440, 390)
        for inbox in (f"{start}/inbox", "/inbox?view=all"):
            page.goto(inbox)
            rows = page.locator("a[data-row]")
            page.keyboard.press("j")
            expect(rows.nth(0)).to_be_focused()
            page.keyboard.press("j")
            expect(rows.nth(1)).to_be_focused()
            page.keyboard.press("k")
            expect(rows.nth(0)).to_be_focused()
            page.keyboard.press("Enter")
            expect(page).not_to_have_url(f"{base}{inbox}")


def _photograph(page: Page, folder: Path, name: str) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})


def test_a_model_is_asked_without_javascript(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    ids = project_rows(alice.id, Account(user_id=alice.id))
    factories.grant(alice.user, 100)
    session.commit()
    with serving(app) as base, open_page(base, script=False) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{ids['project_id']}/next-steps")
        page.get_by_role("link", name="Ask a model").click()
        page.get_by_role("combobox", name="Model").fill("stoa/demo")
        page.get_by_role("button", name="Show its cost").click()
        page.get_by_role("button", name="Suggest,").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Next steps")
        expect(page.get_by_role("main")).to_contain_text("Written by stoa/demo")


def test_an_item_is_dismissed_without_javascript(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    ids = project_rows(alice.id, Account(user_id=alice.id))
    ids |= insight_rows(ids)
    session.commit()
    with serving(app) as base, open_page(base, script=False) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{ids['project_id']}/inbox")
        page.get_by_role("link", name="critical?").first.click()
        page.get_by_label("Dismiss it for good").fill("Meant so")
        page.get_by_role("button", name="Dismiss").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Inbox")
        expect(page.get_by_role("main")).not_to_contain_text("critical?")
