"""Pages of runs in Chromium: accessible at both widths, and a patch that is rebased, with and without JavaScript."""

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
from tests.insights.item_run_rows import BASE, MENDED, item_place, ready_run, run_rows
from tests.projects.project_rows import caller_of, project_rows, pushed

pytestmark = pytest.mark.browser


def photograph(page: Page, name: str) -> None:
    """Keep a picture, if STOA_SCREENSHOTS names a folder."""
    if folder := os.environ.get("STOA_SCREENSHOTS"):
        for width in (1440, 390):
            for scheme in ("light", "dark"):
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.screenshot(path=str(Path(folder) / f"{name}-{width}-{scheme}.png"), full_page=True)


def test_pages_of_runs_are_accessible_at_both_widths(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    found = project_rows(alice.id, Account(user_id=alice.id))
    found |= run_rows(found)
    run = found[f"{found['project_id']}/runs/run_id"]
    session.commit()
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for name, path in (
            ("runs", "/runs"),
            ("run", f"/runs/{run}"),
            ("rebase", f"/runs/{run}/rebase"),
            ("new", f"/items/{found['item_id']}/run"),
        ):
            page.goto(f"/projects/{found['project_id']}{path}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true })")
            photograph(page, name)
            judge(page, 1440, 390)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_patch_is_rebased_over_a_conflict(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    caller = caller_of(alice.id, Account(user_id=alice.id))
    place = item_place(caller, caller.account)
    run = ready_run(place, {"add.py": MENDED})
    other = {**BASE, "add.py": "def add(a, b):\n    return b - a\n"}
    pushed(caller, place.project_id, place.workspace_id, other, "Moved", place.base_id)
    session.commit()
    with serving(app) as base, open_page(base, script=script, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{place.project_id}/runs/{run.id}")
        main = page.get_by_role("main")
        main.get_by_role("link", name="Rebase").click()
        expect(main).to_contain_text("The patch and the workspace changed the same place.")
        if script:
            photograph(page, "conflict")
        page.get_by_role("button", name="Apply the merged patch").click()
        expect(page.get_by_role("alert")).to_contain_text("Choose for each file below.")
        page.get_by_label("Take it from the patch").check()
        page.get_by_role("button", name="Apply the merged patch").click()
        expect(main).to_contain_text("The patch is applied")
