"""Pages of runs in Chromium: accessible at both widths, and a patch that is rebased, with and without JavaScript."""

import os
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.insights import ActionItemRun
from models.insights.item_run import ATTEMPT
from models.insights.item_run_applying import apply_run
from models.ledger import Account
from models.projects import Workspace
from models.projects.workspaces.head_moves import Mover
from models.projects.workspaces.operation_undo import undo_operation
from models.turns import TurnEngine
from tests import factories
from tests.chromium import OpenPage, judge, serving
from tests.factories import Person
from tests.insights.item_run_rows import BASE, MENDED, found_item, item_place, ready_run, run_rows
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


CHECK = {
    **{"kind": "test", "command": "python3 -m pytest -q", "seconds": 1.5, "ended": "exit", "exit_code": 0},
    **{"success": True, "output": "3 passed", "flaky": False, "tree_hash": None},
}
RED = {**CHECK, "success": False, "exit_code": 1, "output": "assert -1 == 3\n" * 30}
OVER = {"verified": None, "doubts": None}
STATES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "running": ({**OVER, "status": "running", "completed_at": None}, [{"state": "working"}]),
    "checking": (
        {**OVER, "status": "running", "completed_at": None},
        [
            {"state": "failed", "checks": [RED], "problem": "The check failed."},
            {"state": "checking", "number": 2},
        ],
    ),
    "paused": (
        {
            **OVER,
            "status": "paused",
            "completed_at": None,
            "error_code": "budget_exceeded",
            "error": "The budget of this run (500 credits) is used up. Raise it, then let it go on.",
        },
        [{"state": "working", "credits": 480}],
    ),
    "red": (
        {**OVER, "status": "failed", "error_code": "attempts_failed", "error": "No attempt succeeded."},
        [
            {"state": "failed", "checks": [RED], "problem": "The check failed.", "number": n}
            for n in (1, 2, 3)
        ],
    ),
    "ours": (
        {
            **OVER,
            "status": "failed",
            "error_code": "internal_error",
            "error": "This failed on our side.",
            "ours": True,
            "returned": 12,
        },
        [{"state": "failed", "problem": "It broke.", "credits": 12}],
    ),
    "green": (
        {"verified": True, "doubts": None},
        [{"state": "passed", "checks": [CHECK], "outside": ["README.md"]}],
    ),
    "flaky": (
        {"verified": False, "doubts": "Not verified: `pytest` failed, and passed when it ran again."},
        [
            {
                "state": "passed",
                "checks": [{**CHECK, "flaky": True}],
                "hosts": [{"host": "a.example", "allowed": False}],
            }
        ],
    ),
}


def in_state(run: ActionItemRun, name: str) -> None:
    """Let a run be as `STATES` says."""
    facts, attempts = STATES[name]
    for key, value in facts.items():
        setattr(run, key, value)
    base = {"base_manifest_hash": run.base_manifest_hash}
    run.attempts = [{**ATTEMPT, **base, **each} for each in attempts]
    run.attempt_count = len(attempts)
    db.session.commit()


def test_each_state_of_a_run_is_accessible_at_both_widths(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    factories.grant(alice.user, 1_000)
    caller = caller_of(alice.id, Account(user_id=alice.id))
    place = item_place(caller, caller.account)
    for_state = {}
    for name in STATES:
        run = ready_run(place, {"add.py": MENDED, "README.md": "# Sums\n\nOf two.\n"})
        in_state(run, name)
        for_state[name] = run.id
        if run.completed_at is None:  # an item has one at a time
            run.action_item_id = found_item(
                db.session.get_one(Workspace, place.workspace_id), f"In {name}"
            ).id
        session.commit()
    applied = ready_run(place, {"add.py": MENDED})
    _, operation = apply_run(caller, applied.id, Mover(alice.id, "web"))
    undo_operation(caller, place.workspace_id, operation.id, Mover(alice.id, "web"))
    session.commit()
    with serving(app) as base, open_page(base, width=1440) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        start = f"/projects/{place.project_id}"
        others = {"undone": f"/runs/{applied.id}", "checks": "/checks"}
        for name, path in {**{name: f"/runs/{id}" for name, id in for_state.items()}, **others}.items():
            page.goto(start + path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            photograph(page, f"run-{name}")
            judge(page, 1440, 390)


def test_news_of_a_run_keep_the_focus_and_what_is_open(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage
) -> None:
    assert alice.user
    caller = caller_of(alice.id, Account(user_id=alice.id))
    place = item_place(caller, caller.account)
    run = ready_run(place, {"add.py": MENDED})
    in_state(run, "checking")
    with serving(app) as base, open_page(base) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        page.goto(f"/projects/{place.project_id}/runs/{run.id}")
        output = page.get_by_text("assert -1 == 3").first
        expect(output).to_be_visible()
        page.get_by_role("button", name="Stop").focus()
        run.attempts = [run.attempts[0], {**run.attempts[1], "state": "failed", "problem": "Red again."}]
        run.attempts = [*run.attempts, {**ATTEMPT, "number": 3}]
        session.commit()
        expect(page.get_by_text("Red again.")).to_be_visible()
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
        expect(output).to_be_visible()


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_patch_is_rebased_over_a_conflict_with_an_own_text(
    app: Flask, session: OrmSession, alice: Person, open_page: OpenPage, script: bool
) -> None:
    assert alice.user
    factories.grant(alice.user, 1_000)
    caller = caller_of(alice.id, Account(user_id=alice.id))
    place = item_place(caller, caller.account)
    run = ready_run(place, {"add.py": MENDED})
    other = {**BASE, "add.py": "def add(a, b):\n    return b - a\n"}
    pushed(caller, place.project_id, place.workspace_id, other, "Moved", place.base_id)
    session.commit()
    with serving(app) as base, open_page(base, script=script, expected=(422,)) as page:
        page.context.add_cookies([factories.browser_cookie(alice.user)])
        address = f"/projects/{place.project_id}/runs/{run.id}"
        page.goto(address)
        if script:
            photograph(page, "run-moved")
        main = page.get_by_role("main")
        main.get_by_role("link", name="Rebase").click()
        expect(main).to_contain_text("The patch and the workspace changed the same place.")
        if script:
            photograph(page, "run-conflict")
        else:
            page.get_by_role("button", name="Merge and check").click()
            expect(page.get_by_role("alert")).to_contain_text("One file needs an answer")
        page.get_by_label("Write what the file shall be").check()
        page.get_by_label("Text of the file").fill("def add(a, b):\n    return a + b + 0\n")
        page.get_by_role("button", name="Merge and check").click()
        turns: TurnEngine = app.extensions["turns"]
        assert turns.idle(20)
        page.goto(address)
        expect(main).to_contain_text("Ready: all checks passed")
        page.get_by_role("button", name="Apply the patch").click()
        expect(main).to_contain_text("The patch is applied")
