"""Dropping what was said in old calls, while what they cost stays: in small batches that stop nobody."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text

from models.db import Database

BATCH = 500
FIRST = datetime(1, 1, 1, tzinfo=UTC)

# Calls that another prune has at hand are passed over: they are that one's. Nothing else ever waits for a settled
# message but the deletion of its owner.
_DROP = text(
    """
    WITH old AS MATERIALIZED (
        SELECT id, finished_at FROM message
        WHERE finished_at >= :start AND finished_at < :end
            AND (request IS NOT NULL OR reasoning_text <> '' OR response <> 'null'::jsonb)
        ORDER BY finished_at LIMIT :most
        FOR NO KEY UPDATE SKIP LOCKED
    ),
    dropped AS (
        UPDATE message m SET request = NULL, reasoning_text = NULL, response = 'null' FROM old WHERE m.id = old.id
    )
    SELECT count(*), max(finished_at) FROM old
    """
)
_COUNT = text(
    """
    SELECT count(*) FROM message
    WHERE finished_at < :end
        AND (request IS NOT NULL OR reasoning_text <> '' OR response <> 'null'::jsonb)
    """
)


@dataclass(frozen=True, slots=True)
class Dropped:
    """One batch: how many calls lost their bodies, and up to when (the start for the next batch); None after the last."""

    calls: int
    reached: datetime | None


def drop_bodies(
    session: Database, before: datetime, *, start: datetime | None = None, most: int = BATCH
) -> Dropped:
    """Drop request, answer and reasoning of the oldest calls that finished in `start <= t < before` and have any.

    One statement; commit after each. Tokens, cost, credits and all else that is billed or proved stays, and
    nothing of the ledger is read or locked, so calls settle meanwhile. Idempotent; several at once share the work.
    `start` only spares the search from passing what was dropped just now.
    """
    found = session.execute(_DROP, {"start": _utc(start or FIRST), "end": _utc(before), "most": most}).one()
    return Dropped(found[0], found[1] and found[1].replace(tzinfo=UTC))


def bodies_before(session: Database, before: datetime) -> int:
    """How many calls that finished before have a request, an answer or reasoning kept. Takes seconds for millions."""
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text("SET LOCAL max_parallel_workers_per_gather = 2"))
    return int(session.execute(_COUNT, {"end": _utc(before)}).scalar_one())


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
