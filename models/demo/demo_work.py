"""Agents at work on the demo user's project: a conversation with a timeline, items with a green and a red run, and a site that was deployed
twice. Rows as their rooms make them; nothing is executed, and no model is called."""

from datetime import datetime, timedelta
from typing import Any

from models.conversations import TimelineItem, start_conversation
from models.core.db import db
from models.deployments.deployment_running import start_deployment
from models.deployments.site_addresses import site_hosts
from models.insights import ActionItem, ActionItemRun, FoundItem, upsert_item
from models.projects import ProjectCaller, Workspace, WorkspaceOperation
from models.projects.project_listing import snapshots_page
from models.runners import FileChange, store_changes
from models.threads import append
from models.turns import Turn

MODEL = "stoa/demo"
MINUTE = timedelta(minutes=1)
PROMPT = "Say in the module of the moon when springs come: about two days after full and new moon."
REPORT = (
    "`tides/moon.py` says now that springs follow full and new moon by about two days. Nothing else changed."
)
MISSING = FoundItem(
    "missing-test",
    "test_coverage",
    "warning",
    "Nothing tests when the bar is passable",
    description="`tides/passable.py` decides whether a boat may enter, and no test calls it.",
    path="tides/passable.py",
    symbol="passable",
    prompt="Write a test of passable() for high and low water.",
    fingerprint="demo-missing-test",
)
GUESSED = FoundItem(
    "guess",
    "refactoring",
    "info",
    "Heights should take the year into account",
    description="Two constituents are enough for a day, and not for a year.",
    path="tides/heights.py",
    symbol="height",
    prompt="Add the constituents that change within a year.",
    fingerprint="demo-guess",
)
NEW_TEST = """from unittest import TestCase

from tides.passable import passable


class Passable(TestCase):
    def test_high_water_is_passable_and_low_water_is_not(self):
        self.assertTrue(passable(0))
        self.assertFalse(passable(6.2))
"""
WRONG_HEIGHTS = '''"""Heights of the tide, by the year."""


def height(hours: float) -> float:
    return 2.9
'''
TESTS = "python3 -m unittest discover -s tests"
GREEN = (
    "..\n----------------------------------------------------------------------\nRan 2 tests in 0.000s\n\nOK"
)
RED = """F
======================================================================
FAIL: test_springs_are_higher_than_neaps (test_heights.Heights.test_springs_are_higher_than_neaps)
----------------------------------------------------------------------
AssertionError: 2.9 not greater than 2.9

Ran 1 test in 0.001s

FAILED (failures=1)"""


def converse(caller: ProjectCaller, workspace: Workspace, operation: WorkspaceOperation) -> None:
    """The conversation whose turn made the snapshot of this operation. Flushes."""
    moment = operation.created_at
    found = start_conversation(caller, workspace.id, title="When springs come", model=MODEL)
    asked = append(found.thread, role="user", content=PROMPT)
    turn = Turn(
        kind="conversation",
        subject_id=found.thread.id,
        branch_id=asked.branch_id,
        account_id=found.thread.account_id,
        user_id=caller.user_id,
        key_id="demo",
        state="completed",
        request={"parent_id": asked.id, "conversation_id": found.conversation.id},
        rounds=1,
        credits=0,
        created_at=moment - MINUTE,
        started_at=moment - MINUTE,
        ended_at=moment,
    )
    db.session.add(turn)
    db.session.flush()
    asked.turn_id = turn.id
    append(
        found.thread,
        role="assistant",
        content=REPORT,
        parent_id=asked.id,
        turn_id=turn.id,
        model=MODEL,
        finish_reason="stop",
        credits=0,
    )
    item = TimelineItem(
        conversation_id=found.conversation.id,
        project_id=workspace.project_id,
        workspace_id=workspace.id,
        turn_id=turn.id,
        message_id=turn.id.removeprefix("turn_"),
        snapshot_id=operation.after_snapshot_id,
        operation_id=operation.id,
        manifest_hash=operation.after_manifest_hash,
        previous_manifest_hash=operation.before_manifest_hash,
        files=[{"path": "tides/moon.py", "change": "modified"}],
        files_count=1,
        state="completed",
        summary="1 file changed: tides/moon.py",
        summary_status="completed",
        created_at=moment,
    )
    db.session.add(item)
    found.conversation.created_at = found.conversation.updated_at = moment
    db.session.flush()


def mend(caller: ProjectCaller, workspace: Workspace, now: datetime) -> None:
    """Two items of the main workspace: one with a patch that waits and whose checks are green, one whose attempts failed. Flushes."""
    missing, guessed = (
        upsert_item(workspace, found, analyser="hand", source="manual", created_by=caller.user_id)
        for found in (MISSING, GUESSED)
    )
    green = _run(caller, workspace, missing, now - 40 * MINUTE, {"tests/test_passable.py": NEW_TEST})
    green.attempts = [_attempt(1, GREEN, True, "I wrote a test for high and for low water.")]
    green.status, green.verified, green.attempt_count = "ready", True, 1
    red = _run(caller, workspace, guessed, now - 90 * MINUTE, {"tides/heights.py": WRONG_HEIGHTS})
    red.attempts = [_attempt(number, RED, False, "I took the mean of the year.") for number in (1, 2, 3)]
    red.status, red.attempt_count, red.error_code = "failed", 3, "attempts_failed"
    red.error = f"No attempt succeeded. The check `{TESTS}` failed."
    for run in (green, red):
        run.checks, run.report = run.attempts[-1]["checks"], run.attempts[-1]["report"]
        run.summary = run.report
        db.session.add(run)
    missing.status = "ready"
    db.session.flush()


def ship(caller: ProjectCaller, workspace: Workspace, messages: tuple[str, str]) -> None:
    """Deploy the two snapshots with these messages as a static site, so that the newer one can be rolled back; nothing where this server serves
    no sites. Flushes."""
    if site_hosts() is None:
        return
    made = {each.message: each.id for each in snapshots_page(workspace.project_id, 50)}
    for message in messages:
        start_deployment(caller, workspace.id, snapshot_id=made[message], message=message)


def _run(
    caller: ProjectCaller, workspace: Workspace, item: ActionItem, moment: datetime, files: dict[str, str]
) -> ActionItemRun:
    account_id, base = caller.account.id, workspace.current_manifest_hash
    assert base is not None
    item.created_at = item.updated_at = moment - 60 * MINUTE
    changes = {path: FileChange(text.encode()) for path, text in files.items()}
    return ActionItemRun(
        action_item_id=item.id,
        project_id=workspace.project_id,
        workspace_id=workspace.id,
        user_id=caller.user_id,
        level="process",
        model=MODEL,
        base_snapshot_id=workspace.current_snapshot_id,
        base_manifest_hash=base,
        result_manifest_hash=store_changes(account_id, base, changes),
        budget=500,
        credits=0,
        created_at=moment,
        started_at=moment,
        completed_at=moment + 2 * MINUTE,
        updated_at=moment + 2 * MINUTE,
    )


def _attempt(number: int, output: str, success: bool, report: str) -> dict[str, Any]:
    check = {"kind": "test", "command": TESTS, "success": success, "output": output, "seconds": 0.4}
    problem = "" if success else f"The check `{TESTS}` failed."
    return {
        **{"number": number, "state": "passed" if success else "failed", "turn_id": None, "restarts": 0},
        **{"manifest_hash": None, "tests_touched": [], "credits": 0, "report": report, "problem": problem},
        "checks": [{**check, "ended": "exit", "exit_code": 0 if success else 1}],
    }
