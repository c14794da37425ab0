"""Dropping what was said in old calls, while what they cost stays: in small batches that stop nobody."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import JSON, func, select, text, update

from models.core.db import db
from models.ledger.message import BODIES_KEPT, Message

BATCH = 500
FIRST = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PrunedBatch:
    """One batch: how many calls lost their bodies, and up to when (the start for the next batch); None after the last."""

    calls: int
    reached: datetime | None


def drop_bodies(before: datetime, *, start: datetime = FIRST, most: int = BATCH) -> PrunedBatch:
    """Drop request, answer and reasoning of the oldest calls that finished in `start <= t < before` and have any.

    One statement; commit after each. Tokens, cost, credits and all else that is billed or proved stays, and
    nothing of the ledger is read or locked, so calls settle meanwhile. Idempotent; several at once share the work: calls
    that another has at hand are passed over. `start` only spares the search from passing what was dropped just now.
    """
    old = (
        select(Message.id, Message.finished_at)
        .where(Message.finished_at >= start, Message.finished_at < before, text(BODIES_KEPT))
        .order_by(Message.finished_at)
        .limit(most)
        # nothing else ever waits for a settled message but the deletion of its owner
        .with_for_update(key_share=True, skip_locked=True)
        .cte("old")
        .prefix_with("MATERIALIZED")
    )
    dropped = (
        update(Message)
        .where(Message.id == old.c.id)
        .values(request=None, reasoning_text=None, response=JSON.NULL)
        .cte("dropped")
    )
    query = select(func.count().label("calls"), func.max(old.c.finished_at).label("reached")).add_cte(dropped)
    found = db.session.execute(query).one()
    return PrunedBatch(found.calls, found.reached)


def bodies_before(before: datetime) -> int:
    """How many calls that finished before have a request, an answer or reasoning kept. Takes seconds for millions."""
    db.session.execute(text("SET LOCAL statement_timeout = 0"))
    db.session.execute(text("SET LOCAL max_parallel_workers_per_gather = 2"))
    query = select(func.count()).select_from(Message).where(Message.finished_at < before, text(BODIES_KEPT))
    return db.session.scalars(query).one()
