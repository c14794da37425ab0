"""What the parts that drive a run share: its locked rows, what is written of its last attempt, and how it pauses and ends."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select

from models.core.db import db, now
from models.core.errors import DomainError
from models.insights.action_item import ActionItem
from models.insights.item_run import ActionItemRun
from models.insights.item_run_ending import end_failed
from models.insights.item_run_reading import locked_run
from models.projects import Project
from models.turns import Turn
from models.turns.engine import TurnHandle
from models.turns.turn_call import PAUSING

OUT_OF_CREDITS = PAUSING
"""Codes after which a run waits for a person: the same call may succeed later."""
LockedRun = tuple[ActionItem, ActionItemRun]


class ItemRunSteps:
    """The turn that drives one run. `over`: it has ended, or waits."""

    def __init__(self, handle: TurnHandle) -> None:
        self.handle = handle
        self.over = False

    def locked(self, turn: Turn) -> LockedRun | None:
        """Within a step: the item and the run, locked; None if the run is gone or has ended, and then the turn ends."""
        locked = locked_run(self.handle.subject_id)
        if locked is not None and locked[1].active:
            return locked
        self.over = True
        if turn.state == "running":
            self.handle.end(turn, "cancelled")
        return None

    def fail(
        self,
        turn: Turn,
        item: ActionItem,
        run: ActionItemRun,
        code: str,
        message: str,
        *,
        ours: bool = False,
    ) -> None:
        """Within a step: end the run as failed, and the turn. `ours`: on our side, so that what it cost is to be given back."""
        self.over = True
        run.credits = spent_by(run)
        end_failed(item, run, code, message, ours=ours)
        if code == "stopped":
            self.handle.end(turn, "cancelled")
        else:
            self.handle.end(turn, "failed", code=code, message=message[:2_000])

    def pause(self, turn: Turn, run: ActionItemRun, code: str, message: str) -> None:
        """Within a step: let the run wait until somebody raises its budget or brings credits; the work of its attempt stays."""
        self.over = True
        run.credits = spent_by(run)
        run.status, run.error_code, run.error, run.updated_at = "paused", code, message[:2_000], now()
        turn.state, turn.error_code, turn.error_message = "paused", code, message[:2_000]
        self.handle.record("turn.paused", {"code": code, "message": message, "credits": run.credits})

    def fail_with(self, error: DomainError) -> None:
        """End the run because of an error of its files or its level."""
        with self.handle.step() as turn:
            locked = self.locked(turn)
            if locked is not None:
                note(locked[1], state="failed", problem=error.message)
                self.fail(turn, *locked, error.code, error.message, ours=error.status >= 500)

    def run_row(self) -> ActionItemRun:
        """The run, in the current context."""
        return db.session.get_one(ActionItemRun, self.handle.subject_id)


def note(run: ActionItemRun, **facts: Any) -> None:
    """Change what is written of the last attempt."""
    *before, last = run.attempts
    run.attempts = [*before, {**last, **facts}]


def last_turn(run: ActionItemRun) -> Turn | None:
    """The agent's turn of the last attempt, while it is at work."""
    last = run.attempts[-1] if run.attempts else None
    return db.session.get(Turn, last["turn_id"]) if last and last["state"] == "working" else None


def turn_ids(run: ActionItemRun) -> Sequence[str]:
    """The agents' turns of all attempts."""
    return [each["turn_id"] for each in run.attempts if each.get("turn_id")]


def spent_by(run: ActionItemRun) -> int:
    """Credits of the turns of all attempts."""
    total = select(func.sum(Turn.credits)).where(Turn.id.in_(turn_ids(run)))
    return int(db.session.scalar(total) or 0)


def account_of(run: ActionItemRun) -> str:
    """The account that the run's project belongs to, which pays."""
    return db.session.scalars(select(Project.account_id).where(Project.id == run.project_id)).one()
