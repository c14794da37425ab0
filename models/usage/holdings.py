"""What an account has, row by row as its owner reads it: by kind and expiry, with what is spent, held and left."""

from dataclasses import dataclass
from datetime import datetime

from models.asking import read
from models.pool import Pool

_HOLDINGS = """
SELECT held.credits, held.calls, grants.*
FROM (
    SELECT coalesce(sum(amount), 0)::bigint AS credits, count(*) AS calls FROM credit_hold
    WHERE account_id = $1 AND state = 'live' AND expires_at > $2
) AS held
LEFT JOIN (
    SELECT type, expires_at, sum(principal)::bigint AS granted, sum(greatest(balance, 0))::bigint AS left,
        sum(greatest(-balance, 0))::bigint AS debt, min(priority) AS priority, min(created_at) AS created_at
    FROM credit_ledger
    WHERE (org_id = $1 OR user_id = $1 AND org_id IS NULL) AND (expires_at IS NULL OR expires_at > $2 OR balance < 0)
    GROUP BY type, expires_at
) AS grants ON true
ORDER BY grants.priority, grants.expires_at NULLS LAST, grants.created_at
"""


@dataclass(frozen=True)
class Holding:
    """Grants of one kind and expiry, in credits. `granted` less `spent` less `held` is `left`, never below nil."""

    kind: str
    expires_at: datetime | None
    granted: int
    spent: int
    held: int
    left: int


@dataclass(frozen=True)
class Holdings:
    """All that counts now, in spending order. `debt` is owed; `held` belongs to `calls_in_progress` calls."""

    rows: list[Holding]
    debt: int
    held: int
    calls_in_progress: int

    @property
    def granted(self) -> int:
        return sum(row.granted for row in self.rows)

    @property
    def spent(self) -> int:
        """Debt included: it was spent, too."""
        return sum(row.spent for row in self.rows) + self.debt

    @property
    def balance(self) -> int:
        """What was granted and not spent: the ledger's net balance."""
        return self.granted - self.spent

    @property
    def uncovered(self) -> int:
        """Held, but not by anything that is left."""
        return self.held - sum(row.held for row in self.rows)

    @property
    def left(self) -> int:
        """What a new call may use: the balance less what is held. Below nil when in debt or held beyond the balance."""
        return self.balance - self.held


def holdings(pool: Pool, account_id: str, now: datetime) -> Holdings:
    """The account's grants that count at `now` (contract 3.3), and what calls in progress hold of them.

    Held credits are shown where they would be spent: from the top of the spending order down.
    """
    lines = read(pool, _HOLDINGS, (account_id, now))
    held, calls = lines[0][:2]
    rows: list[Holding] = []
    unplaced, debt = held, 0
    for _, _, kind, expires_at, granted, left, owed, *_ in lines:
        if kind is None:  # no grant at all
            break
        part = min(unplaced, left)
        unplaced -= part
        debt += owed
        if granted or left:
            rows.append(Holding(kind, expires_at, granted, granted - left, part, left - part))
    return Holdings(rows, debt, held, calls)
