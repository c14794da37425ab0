"""Envelopes of runs: the most that a run and its sub-runs may spend. Holds are taken from them (`budget_admit`)."""

from datetime import datetime

from sqlalchemy import text

from models.core.db import db
from models.core.db import now as utc_now
from models.ledger.call_records import BudgetRefusal
from models.ledger.credit_operations import MAX_GRANT, call_function


def open_run_budget(
    run_id: str, credits: int | None, source: str, now: datetime | None = None
) -> BudgetRefusal | None:
    """Give a new run an envelope of `credits`, taken from that of its nearest ancestor; None: the run shares that one.
    A run keeps its first envelope. `source` is what asked for it: "start", "call" or "agent".

    Returns what refused it: the ancestor's envelope leaves less. Locks that envelope until the transaction ends.
    """
    row = call_function(
        "SELECT * FROM run_budget_open(:run, :credits, :source, :now)",
        run=run_id,
        credits=None if credits is None else min(credits, MAX_GRANT),
        source=source,
        now=now or utc_now(),
    )
    return row.refusal and BudgetRefusal(**row.refusal)


def close_run_budget(run_id: str, now: datetime | None = None) -> None:
    """End a run's envelope, if it has one: what is left goes back to the one it was taken from, which takes over its calls in
    flight and its sub-runs. Idempotent. Locks both envelopes until the transaction ends."""
    call_function("SELECT run_budget_close(:run, :now)", run=run_id, now=now or utc_now())


def widen_run_budget(run_id: str, credits: int, now: datetime | None = None) -> None:
    """Add `credits` to the open envelope of a run, or take them from it (below zero); a run without one gets one of them. Locks the
    envelope until the transaction ends."""
    row = db.session.execute(
        text(
            "UPDATE run_budget SET limit_credits = greatest(limit_credits + :credits, 0)"
            " WHERE run_id = :run AND closed_at IS NULL RETURNING run_id"
        ),
        {"run": run_id, "credits": credits},
    ).one_or_none()
    if row is None and credits > 0:
        open_run_budget(run_id, credits, "call", now)
