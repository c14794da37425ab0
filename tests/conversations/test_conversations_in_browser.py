"""Conversations in Chromium: begun, answered while it is watched, changed files in the timeline, undone; with and without JavaScript."""

import os
import re
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.ledger import Account
from models.turns import TurnEngine
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.conversations.talks import Talk
from tests.factories import Person
from tests.projects.project_rows import project_rows

pytestmark = pytest.mark.browser

PICTURES = os.environ.get("STOA_SCREENSHOTS")
EDIT = "In README.md replace 'Twelve' with 'Twenty' and add a file notes.md saying Remember the roof"


def picture(page: Page, name: str) -> None:
    """Keep pictures of the page, if a folder for them is named."""
    if not PICTURES:
        return
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=Path(PICTURES) / f"{name}-{width}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme="light")


def test_pages_of_conversations_are_accessible_at_both_widths(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    found = project_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    path = f"/projects/{found['project_id']}/conversations"
    one, item_id = f"{path}/{found['conversation_id']}", found["timeline/item_id"]
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        for name, address in (
            ("list", path),
            ("new", f"{path}/new"),
            ("conversation", one),
            ("settings", f"{one}/settings"),
            ("emptying", f"{one}/emptying"),
            ("timeline", f"{one}/timeline"),
            ("change", f"{one}/timeline/{item_id}"),
        ):
            page.goto(address)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            judge(page, 1440, 390)
            picture(page, name)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_conversation_edits_files_and_its_change_is_undone(
    app: Flask, rich: Person, engine_of_turns: TurnEngine, open_page: OpenPage, script: bool
) -> None:
    talk = Talk(rich, engine_of_turns)
    with serving(app) as base, open_page(base, script=script, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(rich.user)])
        page.goto(f"/projects/{talk.project_id}/conversations")
        page.get_by_role("link", name="New conversation").click()
        page.get_by_role("button", name="Begin").click()
        expect(page.locator("#content-e")).to_contain_text("Say what to do.")
        page.get_by_label("What to do").fill(EDIT)
        page.get_by_label("Virtual").check()
        page.locator("#model").fill("stoa/demo")
        page.get_by_role("button", name="Begin").click()
        timeline = page.get_by_role("complementary", name="Timeline")
        expect(timeline).to_contain_text("2 files changed")
        expect(page.get_by_role("article").last).not_to_have_attribute("aria-busy", "true")
        expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
        page.locator("#content").fill("What is a pier?")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text("This is stoa/demo").last).to_be_visible()
        timeline.get_by_role("link", name=re.compile("^Changes")).click()
        expect(page.get_by_role("main")).to_contain_text("Twenty columns.")
        page.get_by_role("link", name="Undo").click()
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Operations")
        assert engine_of_turns.idle(30)
    assert talk.files()["README.md"] == "# Pier\n\nTwelve columns.\n"


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_change_is_branched_and_the_files_are_saved(
    app: Flask, rich: Person, engine_of_turns: TurnEngine, open_page: OpenPage, script: bool
) -> None:
    talk = Talk(rich, engine_of_turns)
    turn = talk.said(EDIT)
    assert turn.state == "completed"
    # a client told other files, of which no snapshot was made
    workspace = talk.workspace
    workspace.current_snapshot_id, head = workspace.base_snapshot_id, workspace.current_snapshot_id
    db.session.commit()
    with serving(app) as base, open_page(base, script=script, width=390, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(rich.user)])
        one = f"/projects/{talk.project_id}/conversations/{talk.id}"
        page.goto(one)
        if script:
            judge(page, 1440, 390)
        picture(page, f"branching-{script}-conversation")
        page.set_viewport_size({"width": 390, "height": 900})
        page.get_by_role("button", name="Save snapshot").click()
        expect(page.get_by_text("The files are a snapshot now.")).to_be_visible()
        page.get_by_role("button", name="Save snapshot").click()
        expect(page.get_by_text("The files are in a snapshot already.")).to_be_visible()
        page.get_by_role("link", name=re.compile("^Branch here")).first.click()
        expect(page).to_have_url(re.compile("/timeline/.*#branch$"))
        expect(page.get_by_role("heading", name="Branch here")).to_be_in_viewport()
        if script:
            judge(page, 1440, 390)
        picture(page, f"branching-{script}-change")
        page.set_viewport_size({"width": 390, "height": 900})
        for name, problem in (("", "Enter a name"), ("main", "named 'main'")):
            page.get_by_label("Name of the workspace").fill(name)
            page.get_by_role("button", name="Branch here").click()
            expect(page.locator("#name-e")).to_contain_text(problem)
        page.get_by_label("Name of the workspace").fill("the other pier")
        page.get_by_role("button", name="Branch here").click()
        expect(page.get_by_text("“the other pier” has these files")).to_be_visible()
        expect(page).not_to_have_url(re.compile(f"{talk.id}$"))
        expect(page.get_by_role("complementary", name="Timeline")).to_contain_text("No changes yet")
        if script:
            judge(page, 1440, 390)
        picture(page, f"branching-{script}-branched")
    assert head is not None
    assert talk.workspace.current_manifest_hash == turn.request["result"]["manifest_hash"]
