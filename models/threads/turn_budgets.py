"""Budgets of turns: what a turn reserves from the budgets of its thread and its assistant while it is active, and what it spent of them.

A turn with a budget above it, or one of its own, runs in an envelope (`models.ledger.run_budgets`) of what it has reserved, which the ledger
enforces within each answer. So turns that run at once never spend more than is there. Amounts are credits. Each function is
called within `TurnHandle.step`, and locks the thread, if there is one, then the assistant.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select

from models.assistants import Assistant
from models.core.db import db
from models.gateway.call_errors import CallRefused
from models.ledger import run_budgets
from models.threads import tree
from models.threads.thread import Thread
from models.turns import Turn
from models.turns.turn_call import TurnCallFailed

CODE = "budget_exceeded"
AT_ONCE = 1_000
"""What a turn has reserved and not spent, at most, unless one call needs more."""


@dataclass(frozen=True)
class Shortage:
    """The budget that leaves nothing, or too little: of the `turn`, `thread` or `assistant`."""

    level: str
    budget: int
    left: int = 0

    @property
    def message(self) -> str:
        """What happened, and what helps."""
        state = "leaves too little for the next call" if self.left > 0 else "is used up"
        size = f"{self.budget:,} credit{'s' if self.budget != 1 else ''}"
        return f"The budget of this {self.level} ({size}) {state}. Raise it, then resume the turn."


@dataclass(frozen=True)
class _Level:
    level: str
    budget: int
    left: int


def reserve(
    turn: Turn, thread: Thread | None, assistant_id: str | None, wanted: int = AT_ONCE
) -> Shortage | None:
    """Let the turn have `wanted` credits that it has not spent, or as many as its budgets leave; its run's envelope grows alike. Returns
    the smallest budget if they leave nothing. Without any budget, nothing is reserved, and nothing locked."""
    if turn.budget is None and (thread is None or thread.budget is None) and not _limited(assistant_id):
        return None
    rows = list(_locked(thread, assistant_id))
    levels = _levels(turn, rows)
    if not levels:
        return None
    unspent = turn.reserved - (turn.credits or 0)
    least = min(levels, key=lambda each: each.left)
    added = max(min(wanted - unspent, least.left), 0)
    if unspent + added <= 0:
        return Shortage(least.level, least.budget)
    _move(turn, rows, added)
    return None


def short_of(turn: Turn, thread: Thread | None, assistant_id: str | None) -> Shortage | None:
    """The smallest of the turn's budgets, if it has any."""
    levels = _levels(turn, list(_locked(thread, assistant_id)))
    if not levels:
        return None
    least = min(levels, key=lambda each: each.left)
    return Shortage(least.level, least.budget, least.left + turn.reserved - (turn.credits or 0))


def give_back(turn: Turn, thread: Thread | None, assistant_id: str | None) -> None:
    """Return what the turn has reserved and not spent: it waits. Idempotent."""
    unspent = turn.reserved - (turn.credits or 0)
    if unspent > 0:
        _move(turn, list(_locked(thread, assistant_id)), -unspent)


def settle(turn: Turn, thread: Thread | None, assistant_id: str | None) -> None:
    """The turn ends: return what it has reserved, and count what it spent."""
    for row in _locked(thread, assistant_id):
        row.reserved -= turn.reserved
        row.spent += turn.credits or 0
    turn.reserved = 0
    db.session.flush()


def needed_by(error: Exception) -> int | None:
    """The credits that the call needs, if it was the run's envelope that refused it."""
    refused = error.__cause__ if isinstance(error, TurnCallFailed) else error
    if not isinstance(refused, CallRefused) or refused.admission.budget is None:
        return None
    budget = refused.admission.budget
    return budget.needed if budget.level == "run" and budget.budget_id is None else None


def _limited(assistant_id: str | None) -> bool:
    limit = select(Assistant.budget).where(Assistant.id == assistant_id)
    return assistant_id is not None and db.session.scalar(limit) is not None


def _locked(thread: Thread | None, assistant_id: str | None) -> Iterator[Thread | Assistant]:
    if thread is not None:
        yield tree.lock(thread)
    if assistant_id is not None:
        query = select(Assistant).where(Assistant.id == assistant_id).with_for_update(key_share=True)
        assistant = db.session.scalar(query.execution_options(populate_existing=True))
        if assistant is not None:
            yield assistant


def _levels(turn: Turn, rows: list[Thread | Assistant]) -> list[_Level]:
    found = []
    if turn.budget is not None:
        taken = max(turn.reserved, turn.credits or 0)
        found.append(_Level("turn", turn.budget, turn.budget - taken))
    for row in rows:
        if row.budget is not None:
            level = "thread" if isinstance(row, Thread) else "assistant"
            found.append(_Level(level, row.budget, row.budget - row.spent - row.reserved))
    return found


def _move(turn: Turn, rows: list[Thread | Assistant], credits: int) -> None:
    if not credits:
        return
    for row in rows:
        row.reserved += credits
    turn.reserved += credits
    db.session.flush()
    if turn.run_id is not None:
        run_budgets.widen_run_budget(turn.run_id, credits)
