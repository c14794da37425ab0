"""Whether anything that a person's usage page shows has changed, in one cheap question."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from models.db import Database

# Each settlement counts one up in a rollup of the day, each movement of credits is an entry; what only the passing of
# time changes (holds and grants that end) is counted. Rollups of days before yesterday are over.
_STAMP = text(
    """
    SELECT u.next_quota_reset AT TIME ZONE 'UTC', u.created_at,
        (SELECT sum(r.calls) FROM usage_rollup r WHERE r.account_id = :user AND r.grain = 'day' AND r.bucket >= :yesterday),
        (SELECT max(e.id) FROM credit_entry e WHERE e.account_id = :user),
        (SELECT count(*) FROM credit_ledger l WHERE l.user_id = :user AND l.expires_at > :now),
        (SELECT array_agg(h.amount) FROM credit_hold h
         WHERE h.account_id = :user AND h.state = 'live' AND h.expires_at > :now),
        ARRAY(SELECT c.request_id || ' ' || c.state FROM gateway_call c WHERE c.user_id = :user AND c.account_id = :user
              ORDER BY c.started_at DESC, c.request_id DESC LIMIT :latest)
    FROM "user" u WHERE u.id = :user
    """
)


def stamp(session: Database, user_id: str, now: datetime, latest: int) -> tuple[bool, tuple[Any, ...]]:
    """Whether the quota cycle is due, and a value that differs whenever the person's own balance, holds, figures of
    any period or `latest` calls do. A statement that reads a few rows of each, however many there are."""
    yesterday = (now - timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    row = session.execute(
        _STAMP, {"user": user_id, "now": now, "yesterday": yesterday, "latest": latest}
    ).one()
    due = row[0] is None or row[0] <= now
    return due, tuple(tuple(value) if isinstance(value, list) else value for value in row)
