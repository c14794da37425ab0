"""Projects in Chromium: made in steps, a workspace and a variable, history, files, comparison and undo, with and without JavaScript."""

import pytest
from flask import Flask
from playwright.sync_api import expect
from sqlalchemy.orm import Session as OrmSession

from models.ledger import Account
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person
from tests.projects.project_rows import project_rows

pytestmark = pytest.mark.browser

PAGES = (
    *("", "/workspaces", "/history", "/files", "/files?path=src/columns.py", "/operations", "/environment"),
    *("/activity", "/settings", "/comparison", "/snapshot"),
)


def test_pages_of_a_project_are_accessible_at_both_widths(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    found = project_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        undo = f"/operations/{found['operation_id']}/undo"
        for path in (*PAGES, undo):
            page.goto(f"/projects/{found['project_id']}{path}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            judge(page, 1440, 390)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_project_is_made_filled_and_taken_back(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    project_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    with serving(app) as base, open_page(base, script=script, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        main = page.get_by_role("main")
        page.goto("/projects")
        main.get_by_role("link", name="New project").click()
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_contain_text("Enter a name.")
        page.get_by_label("Name", exact=True).fill("Quay")
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Learning").check()
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Problem").fill("Waves")
        page.get_by_role("button", name="Make project").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Quay")
        expect(main).to_contain_text("Waves")

        main.get_by_role("link", name="Settings", exact=True).first.click()
        main.get_by_role("link", name="Environment").click()
        page.get_by_role("button", name="Set variable").click()
        expect(main).to_contain_text("Enter a key.")
        page.get_by_label("Key", exact=True).fill("PORT")
        page.get_by_label("Value", exact=True).fill("secret-8080")
        page.get_by_role("button", name="Set variable").click()
        expect(page.get_by_role("table", name="Variables")).to_contain_text("****8080")

        page.goto("/projects")
        main.get_by_role("link", name="Pier", exact=False).click()
        main.get_by_role("link", name="History", exact=True).first.click()
        main.get_by_role("link", name="Count them").first.click()
        expect(page.locator(".diff__come").first).to_contain_text("Twelve columns.")
        main.get_by_role("link", name="Operations").click()
        main.get_by_role("link", name="Undo").first.click()
        page.get_by_role("button", name="Undo this operation").click()
        expect(page.get_by_role("table", name="Operations")).to_contain_text("undid an operation of “main”")
