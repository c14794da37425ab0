"""Starts runs of action items, and says beforehand what they may cost (fastest contract 3.13, 4.9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from models.accounts.key_format import PresentedKey
from models.core.db import db, now
from models.core.errors import Conflict
from models.insights.action_item import ActionItem
from models.insights.item_run import MAX_ATTEMPTS, ActionItemRun
from models.insights.item_run_reading import (
    WrongState,
    files_now,
    runs_of_item,
    taken_back,
    tree_named,
)
from models.insights.item_verbs import kept_item
from models.projects import Project, ProjectCaller, Workspace
from models.projects.snapshots.manifest_store import use_manifest
from models.runners.isolation_levels import LevelUnavailable, levels
from models.runners.workplace import Level
from models.turns import Turn
from models.turns.turn_verbs import NewTurn, begin_turn

KIND = "item_run"
"""The kind of the turns that drive runs."""
DEFAULT_BUDGET, MAX_BUDGET = 500, 1_000_000
KEPT_RUNS = 20
"""Runs of an item that stay, besides those that were applied."""
QUOTED_RUNS, LEAST_QUOTED = 50, 3


class RunInProgress(Conflict):
    """Another run of the item waits or works."""

    code = "run_in_progress"

    def __init__(self) -> None:
        super().__init__("A run of this item is in progress. Wait for it, or stop it.")


@dataclass(frozen=True)
class RunWishes:
    """What a person wants of a run. `level`: by default the first of process and virtual that works here. `model`: by default the server's.
    `budget` is for all attempts together, in credits."""

    level: Level | None = None
    model: str | None = None
    budget: int = DEFAULT_BUDGET
    allow_test_changes: bool = False
    attempts: int = MAX_ATTEMPTS


class RunQuote(NamedTuple):
    """What earlier runs of the account cost, in credits: nine of ten were between; None with too few of them."""

    least: int
    most: int
    runs: int


def run_quote(account_id: str) -> RunQuote | None:
    """An estimate of a run from the last ones that the account paid; the budget of a run is what bounds it."""
    recent = (
        select(ActionItemRun.credits)
        .join(Project, Project.id == ActionItemRun.project_id)
        .where(Project.account_id == account_id, ActionItemRun.completed_at.is_not(None))
        .where(ActionItemRun.attempt_count > 0)
        .order_by(ActionItemRun.completed_at.desc())
        .limit(QUOTED_RUNS)
    )
    paid = sorted(db.session.scalars(recent))
    if len(paid) < LEAST_QUOTED:
        return None
    edge = len(paid) // 20
    return RunQuote(paid[edge], paid[-1 - edge], len(paid))


def default_level(account_id: str) -> Level:
    """The level of runs that name none: the first of process and virtual that works here."""
    return "process" if levels(account_id)["process"].available else "virtual"


def start_run(
    caller: ProjectCaller, item_id: str, wishes: RunWishes, *, key: PresentedKey, owner: str
) -> tuple[ActionItemRun, Turn]:
    """Begin a run of an item, driven by a turn that is leased to the worker `owner`: the caller commits, then runs the turn. An item that a
    source computes, such as a failed deployment, is stored first, once. Locks the item, flushes. Raises NotFound, Forbidden, WrongState (400)
    for one that is over, RunInProgress, LevelUnavailable and Conflict (409) for a workspace without files."""
    project, workspace, item = kept_item(caller, item_id)
    level = _level(project.account_id, wishes.level)
    _check_open(item)
    if any(run.active for run in runs_of_item(item.id)):
        raise RunInProgress
    base = _files(project, workspace)
    _forget_old(item)
    run = ActionItemRun(
        action_item_id=item.id,
        project_id=project.id,
        workspace_id=workspace.id,
        user_id=caller.user_id,
        level=level,
        model=wishes.model,
        allow_test_changes=wishes.allow_test_changes,
        max_attempts=wishes.attempts,
        base_snapshot_id=workspace.current_snapshot_id,
        base_manifest_hash=base,
        budget=wishes.budget,
    )
    db.session.add(run)
    try:
        with db.session.begin_nested():
            db.session.flush()
    except IntegrityError:
        raise RunInProgress from None
    turn = driving_turn(run, project.account_id, caller.user_id, key, owner)
    item.status, item.updated_at, item.snoozed_until = "running", now(), None
    db.session.flush()
    return run, turn


def driving_turn(run: ActionItemRun, account_id: str, user_id: str, key: PresentedKey, owner: str) -> Turn:
    """Begin a turn that drives a run, leased to the worker `owner`. Flushes. Raises TurnInProgress (409) while another one does."""
    turn = begin_turn(NewTurn(KIND, run.id, run.id, account_id, user_id, key, {}), owner=owner)
    run.turn_id = turn.id
    return turn


def _level(account_id: str, wanted: Level | None) -> Level:
    if wanted is None:
        return default_level(account_id)
    state = levels(account_id)[wanted]
    if not state.available:
        raise LevelUnavailable(state.sentence)
    return wanted


def _check_open(item: ActionItem) -> None:
    told = {
        "dismissed": "This item was dismissed.",
        "applied": "The patch of this item is applied already.",
        "resolved": "The last analysis did not find this any more.",
    }
    if item.status == "applied" and any(map(taken_back, runs_of_item(item.id))):
        return
    if item.status in told:
        raise WrongState(told[item.status])


def _files(project: Project, workspace: Workspace) -> str:
    """The manifest that the run begins with; it stays. Raises Conflict."""
    hash = files_now(project, workspace)
    if hash is None or use_manifest(project.account_id, hash) is None:
        raise Conflict(
            "The files of the workspace are not stored. Push a snapshot of it first.", code="no_snapshot"
        )
    if tree_named(project.account_id, hash) is None:
        raise Conflict("The files of the workspace are in no format that the server can read.")
    return hash


def _forget_old(item: ActionItem) -> None:
    """Delete the oldest runs of an item that were not applied, so that their files may go."""
    kept: Sequence[str] = [run.id for run in runs_of_item(item.id, KEPT_RUNS - 1)]
    old = delete(ActionItemRun).where(
        ActionItemRun.action_item_id == item.id,
        ActionItemRun.id.not_in(kept),
        ActionItemRun.status.in_(("ready", "failed")),
        ~ActionItemRun.ours | ActionItemRun.returned.is_not(None),
    )
    db.session.execute(old.execution_options(synchronize_session=False))
