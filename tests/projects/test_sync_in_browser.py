"""Syncs and overlaps in Chromium: decided by keyboard and with the mouse, with and without JavaScript; accessible at both widths."""

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.ledger import Account
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person
from tests.projects.sync_rows import BASE, MAIN, OWN, SyncRows, sync_rows

pytestmark = pytest.mark.browser


@pytest.fixture
def rows(session: OrmSession, alice: Person) -> SyncRows:
    """With two decisions."""
    base, main, own = (
        {**files, "a.txt": f"{name}\n"} for name, files in zip("bmo", (BASE, MAIN, OWN), strict=True)
    )
    found = sync_rows(alice.id, Account(user_id=alice.id), base, main, own)
    session.commit()
    return found


def prepare(page: Page, rows: SyncRows) -> None:
    page.goto(f"/projects/{rows.project}/sync")
    page.get_by_role("button", name="Sync with main: laptop").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Sync preview")


def test_pages_are_accessible_at_both_widths(
    app: Flask, alice: Person, rows: SyncRows, open_page: OpenPage
) -> None:
    assert alice.user
    with serving(app) as base, open_page(base, width=1440, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for path in ("/sync", "/overlaps", f"/workspaces/{rows.laptop}/drift"):
            page.goto(f"/projects/{rows.project}{path}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            judge(page, 1440, 390)
        prepare(page, rows)
        page.locator("summary", has_text="both.txt").click()
        expect(page.locator("details[open] .diff")).to_contain_text("line two")
        page.get_by_role("radio", name="Own text").first.check()
        judge(page, 1440, 390)
        page.get_by_role("link", name="Side by side").click()
        expect(page.locator(".diff--columns").first).to_be_visible()
        judge(page, 1440, 390)
        page.get_by_label("Undecided files").select_option("use_main")
        page.get_by_label("Text of the file").first.fill(" ")
        page.get_by_role("button", name="Sync").click()
        expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("Not synced")
        judge(page, 1440, 390)
        page.get_by_role("radio", name="Use main").first.check()
        page.get_by_role("button", name="Sync").click()
        expect(page.get_by_role("main")).to_contain_text("is synced with")
        judge(page, 1440, 390)


def test_a_sync_is_decided_by_keyboard(
    app: Flask, alice: Person, rows: SyncRows, open_page: OpenPage
) -> None:
    assert alice.user
    with serving(app) as base, open_page(base) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        prepare(page, rows)
        status, first, second = (
            page.locator("[data-left]"),
            page.locator("#decision-1"),
            page.locator("#decision-2"),
        )
        expect(status).to_have_text("2 of 2 decisions left")
        page.get_by_role("button", name="Sync").click()
        expect(first).to_be_focused()
        page.keyboard.press("m")
        expect(second).to_be_focused()
        expect(status).to_have_text("1 of 2 decisions left")
        page.keyboard.press("k")
        expect(first).to_be_focused()
        page.keyboard.press("j")
        page.keyboard.press("o")
        own = second.get_by_label("Text of the file")
        expect(own).to_be_focused()
        own.fill("one\nkeyboard m w\nthree\n")
        expect(status).to_have_text("All decided")
        # answers outlive the other view and a new preview
        page.get_by_role("link", name="Side by side").click()
        expect(status).to_have_text("All decided")
        prepare(page, rows)
        expect(status).to_have_text("All decided")
        expect(page.get_by_role("radio", name="Use main").first).to_be_checked()
        page.get_by_role("button", name="Sync").click()
        expect(page.get_by_role("main")).to_contain_text("is synced with")
        page.goto(f"/projects/{rows.project}/files?workspace={rows.laptop}&path=torn.txt")
        expect(page.get_by_role("main")).to_contain_text("keyboard m w")


def test_a_sync_works_without_javascript(
    app: Flask, alice: Person, rows: SyncRows, open_page: OpenPage
) -> None:
    assert alice.user
    with serving(app) as base, open_page(base, script=False, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        prepare(page, rows)
        page.locator("summary", has_text="both.txt").click()
        page.locator("details[open] a").click()
        expect(page.locator(".diff")).to_contain_text("line two")
        page.get_by_role("link", name="Back to the preview").click()
        page.get_by_role("radio", name="Use workspace").first.check()
        page.get_by_role("button", name="Sync").click()
        expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("torn.txt")
        expect(page.get_by_role("radio", name="Use workspace").first).to_be_checked()
        page.get_by_role("radio", name="Own text").last.check()
        page.get_by_label("Text of the file").last.fill("by hand\n")
        page.get_by_role("button", name="Sync").click()
        page.get_by_role("link", name="Undo").click()
        page.get_by_role("button", name="Undo this operation").click()
        expect(page.get_by_role("table", name="Operations")).to_contain_text("undid an operation of “laptop”")


def test_overlaps_appear_while_they_are_looked_at(
    app: Flask, session: OrmSession, alice: Person, rows: SyncRows, open_page: OpenPage
) -> None:
    assert alice.user
    with serving(app) as base, open_page(base) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{rows.project}/overlaps")
        table = page.get_by_role("table", name="Files that overlap")
        expect(table.get_by_role("row")).to_have_count(4)
        page.get_by_role("searchbox", name="Search paths").fill("torn")
        expect(table.get_by_role("row")).to_have_count(2)
        page.get_by_role("searchbox", name="Search paths").fill("")
        expect(table.get_by_role("row")).to_have_count(4)
        token = (alice.browser.get("/api/auth/csrf").json or {})["csrfToken"]
        path = f"/projects/{rows.project}/workspaces/{rows.laptop}/deletion"
        assert alice.browser.post(path, data={"csrf_token": token}).status_code == 303
        expect(table.get_by_role("row")).to_have_count(2, timeout=20_000)
