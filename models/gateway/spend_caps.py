"""What a capped person has used of their caps, as Claude Code shows it: in headers of each answer, in its `/usage`, and when a cap
is reached. Caps are the budgets that refuse the person's calls, and the windows of a plan beyond which no credits pay.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple

from models.core.db import now
from models.core.pool import Pool
from models.ledger import holds
from models.ledger.holds import Admission, LedgerUnavailable

CACHED_SECONDS = 15.0
MAX_CACHED = 10_000
THRESHOLDS = ((95, "0.95"), (75, "0.75"))
"""From which percentage on the client shows a notice, and how that is written."""
PREFIX = "anthropic-ratelimit-unified-"
GROUPS = {"hour": "hourly", "day": "daily", "week": "weekly", "month": "monthly", "total": "total"}
"""Names of periods of budgets."""
PERIODS = ("daily", "weekly", "monthly")
"""Periods that the client knows."""
POOLS = ("account", "team", "agent")
"""Levels of budgets that several people share."""
_QUERY = """
SELECT l.period, l.level, l.credits + l.raised, l.spent, l.resets_at
FROM budget_limits($1, $2, $3, $4, $5, NULL, '', $6) l WHERE l.hard
UNION ALL
SELECT CASE WHEN w.hours = 24 THEN 'day' WHEN w.hours = 168 THEN 'week' WHEN w.hours IS NULL THEN 'month' ELSE w.label END,
    'plan', w.credits, w.used, w.resets_at
FROM "user" u CROSS JOIN LATERAL plan_windows(u.id, $6) w
WHERE u.id = $2 AND u.id = $1 AND NOT u.fallback_to_a_la_carte
"""
_SPENT = """
SELECT coalesce(sum(r.credits) FILTER (WHERE r.bucket >= date_trunc('month', $3::timestamptz, 'UTC')), 0)::bigint,
    coalesce(sum(r.credits) FILTER (WHERE r.bucket >= date_trunc('day', $3::timestamptz, 'UTC')), 0)::bigint,
    coalesce(sum(r.credits) FILTER (WHERE r.bucket >= date_trunc('week', $3::timestamptz, 'UTC')), 0)::bigint
FROM usage_rollup r
WHERE r.account_id = $1 AND r.grain = 'day' AND r.user_id = $2
    AND r.bucket >= least(date_trunc('month', $3::timestamptz, 'UTC'), date_trunc('week', $3::timestamptz, 'UTC'))
"""


class CappedCaller(NamedTuple):
    """Whose caps: the account that pays, and who calls with what."""

    account_id: str
    user_id: str
    key_id: str | None = None
    team_id: str | None = None
    agent_id: str | None = None

    @classmethod
    def of(cls, admission: Admission) -> "CappedCaller | None":
        """The caller of an admitted call; None if it is unknown."""
        if admission.account_id is None or admission.user_id is None:
            return None
        return cls(
            admission.account_id,
            admission.user_id,
            admission.key_id,
            admission.team_id,
            admission.agent_id,
        )


class SpendCap(NamedTuple):
    """A cap, in credits. `level` is that of a budget, or `plan`; `period` a budget's, or the name of a plan's window."""

    period: str
    level: str
    limit: int
    spent: int
    resets_at: datetime | None

    @property
    def percent(self) -> int:
        """How much is used, in whole percent; of a cap of nothing all."""
        return 100 * self.spent // self.limit if self.limit > 0 else 100

    @property
    def group(self) -> str:
        """The period as an adjective."""
        return GROUPS.get(self.period, self.period)

    @property
    def resets_second(self) -> datetime | None:
        """When it resets, in UTC, to the second: header and `/usage` have to agree."""
        return self.resets_at and self.resets_at.astimezone(UTC).replace(microsecond=0)


class CallerCaps:
    """The caps of callers, read for each and cached for a few seconds. Safe for threads and greenlets."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._cached: dict[CappedCaller, tuple[float, Sequence[SpendCap]]] = {}

    def headers(self, admission: Admission) -> Mapping[str, str]:
        """The headers of an answer for this caller; none without a cap, or if the ledger is not reachable."""
        caller = CappedCaller.of(admission)
        if caller is None:
            return {}
        moment = time.monotonic()
        until, caps = self._cached.get(caller, (0.0, ()))
        if until <= moment:
            try:
                caps = read_caps(self._pool, caller)
            except LedgerUnavailable:
                return {}
            if len(self._cached) >= MAX_CACHED:
                self._cached.clear()
            self._cached[caller] = moment + CACHED_SECONDS, caps
        return cap_headers(fullest(caps))

    def clear(self) -> None:
        """Forget what was read."""
        self._cached.clear()


def read_caps(pool: Pool, caller: CappedCaller) -> list[SpendCap]:
    """The caps in force for a caller. Raises LedgerUnavailable."""
    return [SpendCap(*row) for row in holds.read(pool, _QUERY, (*caller, now()))]


def spent_lately(pool: Pool, caller: CappedCaller) -> tuple[int, int, int]:
    """Credits that the person has spent of the account in this month, on this day and in this week, in UTC. Raises
    LedgerUnavailable."""
    ((month, day, week),) = holds.read(pool, _SPENT, (caller.account_id, caller.user_id, now()))
    return int(month), int(day), int(week)


def fullest(caps: Sequence[SpendCap]) -> SpendCap | None:
    """The cap that the headers describe."""
    return max(caps, key=lambda cap: cap.percent, default=None)


def cap_headers(cap: SpendCap | None) -> dict[str, str]:
    """The headers of a successful answer for a person with this cap."""
    if cap is None:
        return {}
    passed = next((text for percent, text in THRESHOLDS if cap.percent >= percent), None)
    status = "allowed_warning" if passed else "allowed"
    found = {
        "status": status,
        "representative-claim": "overage",
        "overage-status": status,
        "overage-utilization": f"{min(cap.percent, 99) / 100:.2f}",
    }
    if passed:
        found["overage-surpassed-threshold"] = passed
    if cap.resets_second:
        found |= dict.fromkeys(("reset", "overage-reset"), str(int(cap.resets_second.timestamp())))
    return {PREFIX + name: value for name, value in found.items()}


def reached_headers(period: str, level: str, resets_at: datetime | None) -> dict[str, str]:
    """The headers of a refusal by a cap. Without a claim and an overage status the client prints the message as it is."""
    found = {
        "status": "rejected",
        "overage-utilization": "1",
        "overage-surpassed-threshold": "1",
        "overage-disabled-reason": "org_spend_cap_reached",
    }
    more = {"x-should-retry": "false"}
    if level in POOLS:
        found |= {"overage-scope": "group_pool", "overage-period": "monthly"}
    elif (group := GROUPS.get(period, period)) in PERIODS:
        found["overage-period"] = group
    if resets_at is not None:
        found |= dict.fromkeys(("reset", "overage-reset"), str(int(resets_at.timestamp())))
        more["retry-after"] = str(max(ceil((resets_at - now()).total_seconds()), 1))
    return {PREFIX + name: value for name, value in found.items()} | more
