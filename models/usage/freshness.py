"""Whether anything that a person's usage page shows has changed, in one cheap question."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from models.accounts.credentials import SLIDE_AFTER, TOUCH_EVERY, WEB_LIFETIME, hash_token
from models.asking import read_at_once
from models.pool import Pool

# Each settlement counts one up in a rollup of the hour, each movement of credits is an entry; what only the passing of
# time changes (holds and grants that end) is counted. Rollups of hours before the last are over.
_STAMP = """
SELECT u.id, u.name, u.email, u.created_at, u.next_quota_reset AT TIME ZONE 'UTC' AS reset,
    (SELECT sum(r.calls) FROM usage_rollup r WHERE r.account_id = u.id AND r.grain = 'hour' AND r.bucket >= $5),
    (SELECT max(e.id) FROM credit_entry e WHERE e.account_id = u.id),
    (SELECT count(*) FROM credit_ledger l WHERE l.user_id = u.id AND l.expires_at > $2),
    (SELECT array_agg(h.amount ORDER BY h.amount) FROM credit_hold h
     WHERE h.account_id = u.id AND h.state = 'live' AND h.expires_at > $2),
    ARRAY(SELECT c.request_id || ' ' || c.state FROM gateway_call c WHERE c.account_id = u.id
          ORDER BY c.started_at DESC, c.request_id DESC LIMIT $6)
FROM session s JOIN "user" u ON u.id = s."userId"
WHERE s."sessionToken" = $1 AND s.org_id IS NULL AND s.expires AT TIME ZONE 'UTC' > $2
    AND s.last_used_at AT TIME ZONE 'UTC' > $3
    AND (s.type <> 'web' OR s.expires AT TIME ZONE 'UTC' > $4)
"""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state of what a person's page shows: `value` differs whenever the page does; `due` is the quota cycle."""

    due: bool
    value: tuple[Any, ...]


def stamp(pool: Pool, token: str, now: datetime, latest: int) -> Stamp | None:
    """The state of the page of whose browser session `token` (raw) is: who it is, and the person's own balance, holds,
    figures of any period and `latest` calls.

    None for a session that is unknown or ended or acts for an organisation, and for one that is to be noted as used or to be given more days:
    signing in as usual sees to that. One statement outside a transaction that reads a few rows of each table.
    """
    words = (
        hash_token(token),
        now,
        now - TOUCH_EVERY,
        now + WEB_LIFETIME - SLIDE_AFTER,
        (now - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0),
        latest,
    )
    found = read_at_once(pool, _STAMP, words)
    if not found:
        return None
    reset = found[0][4]
    value = tuple(tuple(part) if isinstance(part, list) else part for part in found[0])
    return Stamp(reset is None or reset <= now, value)
