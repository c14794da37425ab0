"""Items to mend in a workspace of a person, and scripted agents and checks for their runs."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text

from models.conversations.conversation_prompts import KIND as CONVERSATION
from models.core.db import db, now
from models.insights import ActionItem, ActionItemRun, FoundItem, upsert_item
from models.insights.item_run_reading import files_now
from models.ledger import Account
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_editing import create_project
from models.projects.workspaces.workspace_editing import create_workspace
from models.runners import CommandResult, FileChange, LevelState, Workplace, open_workplace, store_changes
from models.threads import Thread, tree
from models.turns import TurnEngine, engine
from models.turns.engine import TurnHandle
from tests.projects.project_rows import Files, pushed

PROGRAM = "def add(a, b):\n    return a - b\n"
MENDED = "def add(a, b):\n    return a + b\n"
TEST = "from add import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
BASE: Files = {
    "add.py": PROGRAM,
    "test_add.py": TEST,
    "pyproject.toml": "[tool.pytest.ini_options]\n",
    "README.md": "# Sums\n",
}
Edits = Mapping[str, str | None]
Start = Callable[..., ActionItemRun]
PAST: Any = text("clock_timestamp() - interval '5 seconds'")
"""A time that is over: with it a lease has ended."""


@dataclass(frozen=True)
class ItemPlace:
    """A project with a workspace, and an item there."""

    project_id: str
    workspace_id: str
    item_id: str
    base_id: str


def item_place(caller: ProjectCaller, account: Account, files: Files | None = None) -> ItemPlace:
    """Make them in the current transaction."""
    project = create_project(caller, account, "Sums")
    workspace = create_workspace(caller, project.id, "main")
    base = pushed(caller, project.id, workspace.id, BASE if files is None else files, "Begin")
    item = found_item(workspace)
    return ItemPlace(project.id, workspace.id, item.id, base)


def found_item(workspace: Workspace, title: str = "add() subtracts") -> ActionItem:
    """An item of the workspace."""
    found = FoundItem(
        "rule:sum",
        "refactoring",
        "warning",
        title,
        path="add.py",
        symbol="add",
        prompt="Make it add.",
        snippet=title,
    )
    return upsert_item(workspace, found, analyser="rules")


@dataclass
class ScriptedAgent:
    """Answers the turns of conversations: each with the next edits of its script (None removes a file), or what a function does. Prompts
    are kept."""

    script: list[Edits | Callable[[TurnHandle], None]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    credits: int = 7

    def run(self, handle: TurnHandle, *, taken_over: bool) -> None:
        """See `TurnWork`."""
        step = self.script.pop(0) if self.script else {}
        if callable(step):
            step(handle)
            return
        with handle.step() as turn:
            thread = db.session.get_one(Thread, handle.subject_id)
            message = tree.message_of(thread, turn.request["parent_id"])
            self.prompts.append(message.text)
            base = turn.request["scratch"]["manifest_hash"]
            changes = {
                path: FileChange(None if text is None else text.encode()) for path, text in step.items()
            }
            made = store_changes(turn.account_id, base, changes)
            turn.request = {
                **turn.request,
                "result": {"manifest_hash": made, "previous_manifest_hash": base},
            }
            turn.credits = self.credits
            tree.append(
                thread,
                role="assistant",
                content="I mended it.\nIt adds.",
                parent_id=message.id,
                turn_id=turn.id,
            )
            if handle.stopped:
                handle.end(turn, "cancelled")
            else:
                handle.end(turn, "completed")


def waiting_for_stop(handle: TurnHandle) -> None:
    """An agent that works until it is stopped."""
    end = time.monotonic() + 20
    while not handle.stopped and time.monotonic() < end:
        time.sleep(0.01)
    with handle.step() as turn:
        turn.credits = 3
        handle.end(turn, "cancelled")


def pausing(code: str, message: str) -> Callable[[TurnHandle], None]:
    """An agent that pauses, and ends when it is told to."""

    def step(handle: TurnHandle) -> None:
        with handle.step() as turn:
            turn.credits = 4
            if handle.stopped:
                handle.end(turn, "cancelled")
                return
            turn.state, turn.error_code, turn.error_message = "paused", code, message

    return step


class CheckedPlace:
    """A workplace whose commands end as a function says; all else is the virtual one's."""

    level = "process"

    def __init__(self, inner: Workplace, outcome: Callable[[Workplace, str], CommandResult]) -> None:
        self._inner, self._outcome = inner, outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, command: str, **_: Any) -> CommandResult:
        return self._outcome(self._inner, command)

    def stop(self) -> None:
        pass


def sums_right(place: Workplace, command: str) -> CommandResult:
    """The test of the program: it succeeds once add() adds."""
    good = b"a + b" in place.read("add.py")
    return CommandResult("exit", 0 if good else 1, "1 passed" if good else "assert -1 == 3", 0.1)


@contextmanager
def checks_end(
    monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Workplace, str], CommandResult] = sums_right
) -> Iterator[None]:
    """Let the level process exist, with commands that end so."""
    from models.runners import isolation_levels

    with monkeypatch.context() as patch:
        patch.setitem(
            isolation_levels._OPEN, "process", lambda wanted: CheckedPlace(_virtual(wanted), outcome)
        )
        patch.setitem(isolation_levels._PROBES, "process", lambda account_id: LevelState(True, "It works."))
        yield


def _virtual(wanted: Any) -> Workplace:
    return open_workplace("virtual", wanted.account_id, wanted.root_manifest_hash, context=wanted.context)


def use_agent(
    monkeypatch: pytest.MonkeyPatch, *script: Edits | Callable[[TurnHandle], None]
) -> ScriptedAgent:
    """Let this agent answer all conversations."""
    agent = ScriptedAgent(list(script))
    monkeypatch.setitem(engine._KINDS, CONVERSATION, agent)
    return agent


def ready_run(place: ItemPlace, edits: Edits, *, verified: bool = True, **facts: Any) -> ActionItemRun:
    """A run of the item that is ready with these edits, in the current transaction."""
    workspace = db.session.get_one(Workspace, place.workspace_id)
    project = db.session.get_one(Project, place.project_id)
    base = files_now(project, workspace)
    assert base is not None
    changes = {path: FileChange(None if text is None else text.encode()) for path, text in edits.items()}
    made = ActionItemRun(
        action_item_id=place.item_id,
        project_id=place.project_id,
        workspace_id=place.workspace_id,
        user_id=project.created_by,
        status="ready",
        verified=verified,
        level="process",
        attempt_count=1,
        attempts=[],
        base_snapshot_id=workspace.current_snapshot_id,
        base_manifest_hash=base,
        result_manifest_hash=store_changes(project.account_id, base, changes),
        budget=500,
        completed_at=now(),
        **facts,
    )
    db.session.add(made)
    db.session.get_one(ActionItem, place.item_id).status = "ready"
    db.session.flush()
    return made


def run_rows(ids: Mapping[str, str]) -> dict[str, str]:
    """An item with a ready run that nothing vouches for, in the workspace of `project_rows`; ids for the arguments of routes."""
    workspace = db.session.get_one(Workspace, ids["workspace_id"])
    item = found_item(workspace, "A title-that-does-not-wrap-" + "x" * 90)
    place = ItemPlace(ids["project_id"], workspace.id, item.id, "")
    attempt = {
        **{
            "number": 1,
            "state": "passed",
            "turn_id": None,
            "manifest_hash": None,
            "restarts": 0,
            "credits": 12,
        },
        **{"problem": "", "report": "", "tests_touched": ["tests/test_columns.py"]},
        "checks": [
            {"kind": "build", "command": "make " + "x" * 90, "success": True, "output": "ok", "seconds": 1.0}
            | {"ended": "exit", "exit_code": 0}
        ],
    }
    run = ready_run(
        place,
        {"README.md": "# Pier\n\nOf wood.\n", "new.py": "x = 1\n"},
        verified=False,
        doubts="Not verified: no check that builds or tests was found in the root of the project.",
        report="I wrote of wood.\n",
        credits=12,
    )
    run.attempts = [attempt]
    db.session.flush()
    return {"item_id": item.id, f"{ids['project_id']}/runs/run_id": run.id}


def ended(turns: TurnEngine, run: ActionItemRun) -> ActionItemRun:
    """The run once all turns have ended, or wait."""
    id = run.id
    assert turns.idle(20)
    db.session.rollback()
    db.session.expire_all()
    return db.session.get_one(ActionItemRun, id)


def item_of(run: ActionItemRun) -> ActionItem:
    """The item of a run, as it is now."""
    return db.session.get_one(ActionItem, run.action_item_id, populate_existing=True)
