"""A project of the demo user: three workspaces that overlap, snapshots with merges, an undo, a prepared sync, two variables, and
agents at work (`demo_work`)."""

import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import update

from models.accounts import Session
from models.core.db import db
from models.demo import demo_work
from models.demo.demo_people import USER_ID
from models.ledger import Account
from models.projects import ActivityEvent, ProjectCaller, Workspace, environment
from models.projects.activity_log import last_event
from models.projects.environment import NewVariable
from models.projects.project_editing import create_project, set_brief
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import put_entries
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.snapshot_making import NewSnapshot, push_snapshot, snapshot_in
from models.projects.sync.sync_preparing import prepare_sync
from models.projects.workspaces.head_moves import Mover, operations_page
from models.projects.workspaces.operation_undo import undo_operation
from models.projects.workspaces.workspace_editing import create_workspace
from models.runs.history import RunFilter, runs_of

ACCOUNT = Account(user_id=USER_ID)
STEP = timedelta(hours=7)
BRIEF = {
    "intent": "personal_tool",
    "problem": "The harbour’s tide table is a picture. Nobody can ask it when the bar is passable.",
    "current_workaround": "A print at the harbour office, read with one hand free, early in the morning.",
    "must_have": ["Heights for a day", "Passable from and to", "A line for the fridge door"],
}
README = "# Tide table\n\nWhen the bar of Marsh Harbour is passable.\n\n    tides 2026-11-20\n"
PROJECT = '[project]\nname = "tides"\nversion = "0.1.0"\nrequires-python = ">=3.12"\n'
NEXT = PROJECT.replace("0.1.0", "0.2.0")
HEIGHTS = '''"""Heights of the tide from its constituents."""

from math import cos, tau

CONSTITUENTS = {"M2": (1.83, 12.4206), "S2": (0.61, 12.0)}


def height(hours: float) -> float:
    """Metres above chart datum."""
    return 2.9 + sum(a * cos(tau * hours / period) for a, period in CONSTITUENTS.values())
'''
PASSABLE = '''"""When the bar is passable."""

from tides.heights import height

DRAUGHT = 1.2  # metres


def passable(hours: float, bar: float = 2.0) -> bool:
    return height(hours) - bar > DRAUGHT
'''
TEST = """from unittest import TestCase

from tides.heights import height


class Heights(TestCase):
    def test_springs_are_higher_than_neaps(self):
        self.assertGreater(height(0), height(7.38 * 24))
"""
MOON = '''"""The moon, for springs and neaps."""

SYNODIC = 29.530588  # days


def age(days: float) -> float:
    return days % SYNODIC
'''
COMMAND = '''"""The command `tides`."""

import sys

from tides.passable import passable


def main() -> None:
    hours = [hour for hour in range(24) if passable(hour)]
    print(sys.argv[1], "passable at", *hours)
'''


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tide table</title>
<h1>Marsh Harbour</h1>
<p>The bar is passable two hours before and after high water.</p>
</html>
"""
SITE, NEWER_SITE = "A page for the fridge door", "Say where the heights begin"
"""The snapshots of main that are deployed, by their messages."""


class PlannedPush(NamedTuple):
    """A push to a workspace: what it says, the files that it changes (None removes one), and the workspace that it merges."""

    workspace: str
    message: str
    files: dict[str, str | None]
    merges: str = ""
    agent: str | None = None


PUSHES = (
    PlannedPush("main", "Begin with a README", {"README.md": README, "pyproject.toml": PROJECT}),
    PlannedPush("main", "Heights from two constituents", {"tides/heights.py": HEIGHTS}),
    PlannedPush("laptop", "Say when the bar is passable", {"tides/passable.py": PASSABLE}),
    PlannedPush("agent", "Test springs against neaps", {"tests/test_heights.py": TEST}, agent="delia/tester"),
    PlannedPush("laptop", "A command", {"tides/command.py": COMMAND}),
    PlannedPush("main", "Merge of laptop", {}, merges="laptop"),
    PlannedPush("agent", "Age of the moon", {"tides/moon.py": MOON}, agent="delia/tester"),
    PlannedPush(
        "laptop",
        "The boat draws more than I thought",
        {"tides/passable.py": PASSABLE.replace("1.2", "1.35")},
    ),
    PlannedPush("main", "Merge of agent", {}, merges="agent"),
    PlannedPush("main", "Version 0.2.0", {"pyproject.toml": NEXT}),
    PlannedPush("main", SITE, {"public/index.html": PAGE}),
    PlannedPush("agent", "Try without S2", {"tides/heights.py": HEIGHTS.replace(', "S2": (0.61, 12.0)', "")}),
    PlannedPush("main", "Merge of laptop", {"pyproject.toml": NEXT}, merges="laptop"),
)
CALL = "    tides 2026-11-20\n"
OVERLAPPING = (
    PlannedPush(
        "main",
        NEWER_SITE,
        {
            "public/index.html": PAGE.replace("water.", "water, in calm weather."),
            "README.md": README.replace(CALL, "    tides 2026-11-27\n"),
            "tides/heights.py": HEIGHTS.replace("chart datum.", "chart datum; hours from midnight."),
        },
    ),
    PlannedPush(
        "laptop",
        "A third constituent",
        {
            "README.md": README.replace(CALL, "    tides --harbour marsh 2026-11-20\n"),
            "tides/heights.py": HEIGHTS.replace("12.0)}", '12.0), "N2": (0.34, 12.6583)}'),
        },
    ),
    PlannedPush(
        "agent",
        "Say it shorter",
        {"README.md": README.replace(CALL, "    tides tomorrow\n"), "tides/heights.py": HEIGHTS},
        agent="delia/tester",
    ),
)
"""What all three change at the same time, after the others."""
SPRINGS = PlannedPush(
    "agent",
    "Say when springs come",
    {"tides/moon.py": MOON.replace("neaps.", "neaps: springs follow full and new moon by two days.")},
    agent="delia/tester",
)
"""What the turn of the conversation changes."""
FORKED_AFTER = 2
"""Pushes to the main workspace before the others start from it."""


def fill(now: datetime) -> None:
    """Create the project, with its last push some hours before `now`. Flushes. Raises FilesUnavailable."""
    caller = ProjectCaller(USER_ID, ACCOUNT, Session(user_id=USER_ID, type="cli"))
    mover = Mover(USER_ID, "cli")
    moments = [now - STEP * (len(PUSHES) - at) for at in range(len(PUSHES))]
    project = create_project(caller, ACCOUNT, "Tide table")
    set_brief(caller, project.id, "personal_tool", dict(BRIEF), 1_000)
    _date(project.id, moments[0] - STEP)
    project.created_at = moments[0] - STEP
    places = {"main": _workspace(caller, project.id, "main", moments[0] - STEP)}
    files: dict[str, dict[str, str]] = {"main": {}}
    for at, (push, moment) in enumerate(zip(PUSHES, moments, strict=True)):
        if at == FORKED_AFTER:
            for name in ("laptop", "agent"):
                head = places["main"].current_snapshot_id
                places[name] = _workspace(caller, project.id, name, moment - STEP / 2, head)
                files[name] = dict(files["main"])
        _push(caller, mover, project.id, push, places, files, moment)
        _date(project.id, moment, operation=True)
        places[push.workspace].last_seen_at = moment
    _take_back(caller, mover, project.id, places["agent"], now - STEP / 2)
    _overlap(caller, mover, project.id, places, files, now)
    _push(caller, mover, project.id, SPRINGS, places, files, now - STEP / 16)
    _date(project.id, now - STEP / 16, operation=True)
    last = operations_page(project.id, 1, workspace_id=places["agent"].id)[0]
    demo_work.converse(caller, places["agent"], last)
    demo_work.mend(caller, places["main"], now)
    demo_work.ship(caller, places["main"], (SITE, NEWER_SITE))
    for key, value, secret in (("HARBOUR", "marsh", False), ("WEATHER_API_KEY", "wx-demo-0000-4711", True)):
        environment.set_variable(caller, project.id, NewVariable(key, value, secret))
    project.updated_at = now - STEP / 2


def _workspace(
    caller: ProjectCaller, project_id: str, name: str, moment: datetime, base: str | None = None
) -> Workspace:
    made = create_workspace(
        caller, project_id, name, base_snapshot_id=base, local_path=f"/home/delia/{name}/tides"
    )
    made.created_at = made.last_seen_at = moment
    _date(project_id, moment)
    return made


def _push(
    caller: ProjectCaller,
    mover: Mover,
    project_id: str,
    push: PlannedPush,
    places: dict[str, Workspace],
    files: dict[str, dict[str, str]],
    moment: datetime,
) -> None:
    """Push what a workspace has with these changes; a merge takes what the other one has beside it, and an agent works in a run."""
    workspace = places[push.workspace]
    changed = {**files[push.workspace], **files.get(push.merges, {}), **push.files}
    mine = {path: text for path, text in changed.items() if text is not None}
    files[push.workspace] = mine
    others = [places[push.merges].current_snapshot_id] if push.merges else []
    heads = [workspace.current_snapshot_id, *others]
    run_id = _run_before(moment) if push.agent else None
    new = NewSnapshot(
        _stored(mine),
        parent_ids=[head for head in heads if head],
        workspace_id=workspace.id,
        message=push.message,
        agent=None if run_id else push.agent,
        run_id=run_id,
        author_name="Delia Marsh",
    )
    push_snapshot(caller, project_id, new, mover)


def _run_before(moment: datetime) -> str | None:
    """The last run of the demo user that began before and is completed."""
    found = runs_of(USER_ID, RunFilter(status="completed", until=moment), limit=1).runs
    return found[0].run.id if found else None


def _take_back(
    caller: ProjectCaller, mover: Mover, project_id: str, workspace: Workspace, moment: datetime
) -> None:
    """Undo the last move of a workspace."""
    last = operations_page(project_id, 1, workspace_id=workspace.id)[0]
    undo_operation(caller, workspace.id, last.id, mover)
    _date(project_id, moment, operation=True)
    workspace.last_seen_at = moment


def _overlap(
    caller: ProjectCaller,
    mover: Mover,
    project_id: str,
    places: dict[str, Workspace],
    files: dict[str, dict[str, str]],
    now: datetime,
) -> None:
    """Push what overlaps, and prepare a sync that has to be decided; it is open for a year."""
    for at, push in enumerate(OVERLAPPING):
        moment = now - STEP / (4 + 2 * at)
        _push(caller, mover, project_id, push, places, files, moment)
        _date(project_id, moment, operation=True)
        # a push that overlaps has two events
        new = update(ActivityEvent).where(
            ActivityEvent.project_id == project_id, ActivityEvent.created_at > now
        )
        db.session.execute(new.values(created_at=moment))
        places[push.workspace].last_seen_at = moment
    preview = prepare_sync(caller, places["laptop"].id)
    preview.expires_at = now + timedelta(days=365)


def _stored(files: dict[str, str]) -> str:
    """Store files and their manifest; the hash of the manifest."""
    blobs = {path: text.encode() for path, text in files.items()}
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in blobs.items()}
    put_blobs(ACCOUNT.id, [(hashes[path], data) for path, data in blobs.items()])
    entries = [Entry(path, "file", 0o644, hashes[path], len(data)) for path, data in blobs.items()]
    return put_entries(ACCOUNT.id, entries)


def _date(project_id: str, moment: datetime, *, operation: bool = False) -> None:
    """Date the newest event, and with `operation` the newest operation and the snapshot that it made, to a time in the past."""
    event = last_event(project_id)
    if event is not None:
        event.created_at = moment
    if operation:
        done = operations_page(project_id, 1)[0]
        done.created_at = moment
        made = snapshot_in(project_id, done.after_snapshot_id or "")
        if made is not None and done.kind == "snapshot":
            made.created_at = moment
