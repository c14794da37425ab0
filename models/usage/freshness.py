"""Whether anything that a person's usage page shows has changed, in one cheap question."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from models.accounts.credentials import SLIDE_AFTER, TOUCH_EVERY, WEB_LIFETIME, hash_token

# Each settlement counts one up in a rollup of the hour, each movement of credits is an entry; what only the passing of
# time changes (holds and grants that end) is counted. Rollups of hours before the last are over.
_STAMP = text(
    """
    SELECT u.id, u.name, u.email, u.created_at, u.next_quota_reset AT TIME ZONE 'UTC' AS reset,
        (SELECT sum(r.calls) FROM usage_rollup r WHERE r.account_id = u.id AND r.grain = 'hour' AND r.bucket >= :last_hour),
        (SELECT max(e.id) FROM credit_entry e WHERE e.account_id = u.id),
        (SELECT count(*) FROM credit_ledger l WHERE l.user_id = u.id AND l.expires_at > :now),
        (SELECT array_agg(h.amount ORDER BY h.amount) FROM credit_hold h
         WHERE h.account_id = u.id AND h.state = 'live' AND h.expires_at > :now),
        ARRAY(SELECT c.request_id || ' ' || c.state FROM gateway_call c WHERE c.user_id = u.id AND c.account_id = u.id
              ORDER BY c.started_at DESC, c.request_id DESC LIMIT :latest)
    FROM session s JOIN "user" u ON u.id = s."userId"
    WHERE s."sessionToken" = :token AND s.expires AT TIME ZONE 'UTC' > :now
        AND s.last_used_at AT TIME ZONE 'UTC' > :touched
        AND (s.type <> 'web' OR s.expires AT TIME ZONE 'UTC' > :slid)
    """
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state of what a person's page shows: `value` differs whenever the page does; `due` is the quota cycle."""

    due: bool
    value: tuple[Any, ...]


def stamp(engine: Engine, token: str, now: datetime, latest: int) -> Stamp | None:
    """The state of the page of whose browser session `token` (raw) is: who it is, and the person's own balance, holds,
    figures of any period and `latest` calls.

    None for a session that is unknown or ended, and for one that is to be noted as used or to be given more days:
    signing in as usual sees to that. One statement outside a transaction that reads a few rows of each table.
    """
    words = {
        "token": hash_token(token),
        "now": now,
        "touched": now - TOUCH_EVERY,
        "slid": now + WEB_LIFETIME - SLIDE_AFTER,
        "last_hour": (now - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0),
        "latest": latest,
    }
    with engine.connect() as connection:
        row = connection.execution_options(isolation_level="AUTOCOMMIT").execute(_STAMP, words).one_or_none()
    if row is None:
        return None
    value = tuple(tuple(part) if isinstance(part, list) else part for part in row)
    return Stamp(row.reset is None or row.reset <= now, value)
