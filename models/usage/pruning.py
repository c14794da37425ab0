"""Deletes the bodies of old calls in small batches that do not block traffic; billing data stays.

Those of charged calls are in `message`, those of failed and refused ones in `call_body`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import JSON, delete, func, select, text, update

from models.core.db import db
from models.gateway import CallBody
from models.ledger.message import HAS_BODIES, Message

BATCH = 500
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PrunedBatch:
    """One batch: the number of calls pruned, and the `start` of the next batch; None after the last one."""

    calls: int
    reached: datetime | None


def drop_bodies(before: datetime, *, start: datetime = BEGINNING, limit: int = BATCH) -> PrunedBatch:
    """Delete request, definitions, response and reasoning of the oldest calls that finished in `start <= t < before` and have any.

    One statement; commit after each batch. Keeps tokens, cost, credits and everything else that is billed or proved.
    Does not read or lock the ledger, so calls settle meanwhile. Idempotent and safe to run concurrently: rows locked
    by another run are skipped. `start` only lets the search skip rows that were just pruned.
    """
    old = (
        select(Message.id, Message.finished_at)
        .where(Message.finished_at >= start, Message.finished_at < before, text(HAS_BODIES))
        .order_by(Message.finished_at)
        .limit(limit)
        # only deleting its owner ever waits for a settled message
        .with_for_update(key_share=True, skip_locked=True)
        .cte("old")
        .prefix_with("MATERIALIZED")
    )
    dropped = (
        update(Message)
        .where(Message.id == old.c.id)
        .values(request=None, definitions=None, reasoning_text=None, response=JSON.NULL)
        .cte("dropped")
    )
    query = select(func.count().label("calls"), func.max(old.c.finished_at).label("reached")).add_cte(dropped)
    found = db.session.execute(query).one()
    return PrunedBatch(found.calls, found.reached)


def drop_failed_bodies(before: datetime, *, start: datetime = BEGINNING, limit: int = BATCH) -> PrunedBatch:
    """`drop_bodies` for what is kept of failed and refused calls, and of errors; the calls themselves stay."""
    old = (
        select(CallBody.request_id, CallBody.finished_at)
        .where(CallBody.finished_at >= start, CallBody.finished_at < before)
        .order_by(CallBody.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("old")
        .prefix_with("MATERIALIZED")
    )
    dropped = delete(CallBody).where(CallBody.request_id == old.c.request_id).cte("dropped")
    query = select(func.count().label("calls"), func.max(old.c.finished_at).label("reached")).add_cte(dropped)
    found = db.session.execute(query).one()
    return PrunedBatch(found.calls, found.reached)


def bodies_before(before: datetime) -> int:
    """Count the bodies of calls that finished before `before`. Takes seconds for millions of calls."""
    db.session.execute(text("SET LOCAL statement_timeout = 0"))
    db.session.execute(text("SET LOCAL max_parallel_workers_per_gather = 2"))
    charged = select(func.count()).select_from(Message).where(Message.finished_at < before, text(HAS_BODIES))
    failed = select(func.count()).select_from(CallBody).where(CallBody.finished_at < before)
    return db.session.scalars(charged).one() + db.session.scalars(failed).one()
