"""Figures of an organisation: its month, who and what used most, its pace, and when its credits end."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import Select, Text, bindparam, cast, func, select, text

from models.core.db import BigInt, db, midnight
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.orgs import Org
from models.usage.org_usage import BEGINNING, counted_until
from models.usage.org_usage_rows import org_usage_rows

PACE_DAYS = 7
FOREVER = timedelta(days=366)
RUNS_PER_DAY, MOST_DAYS = 20, 40


class KeyTotal(NamedTuple):
    """What one value of a dimension used. Credits are integers."""

    key: str
    calls: int
    credits: int


@dataclass(frozen=True)
class Forecast:
    """When the credits end at the recent pace: `credits_per_day` over the `days` before `at`. `empty_at` is None if nothing is
    used, or if it is more than a year away."""

    balance: int
    credits_per_day: float
    days: float
    empty_at: datetime | None


@dataclass(frozen=True)
class CallHealth:
    """Calls of an hour or a day: how many, how many failed, and the mean latency in milliseconds (None without calls)."""

    calls: int
    failed: int
    latency_ms: float | None

    @property
    def error_rate(self) -> float:
        """Percent of the calls that failed."""
        return 100 * self.failed / self.calls if self.calls else 0.0


def clock_of(org: Org) -> ZoneInfo:
    """The organisation's time zone."""
    return ZoneInfo(org.time_zone)


def month_of(org: Org, now: datetime) -> tuple[datetime, datetime]:
    """Start and end of the calendar month on the organisation's clock."""
    first = now.astimezone(clock_of(org)).date().replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return midnight(first, clock_of(org)), midnight(following, clock_of(org))


def totals_by(
    org: Org,
    dimension: str,
    start: datetime,
    end: datetime,
    *,
    grain: str = "day",
    limit: int | None = 10,
    user_id: str = "",
) -> list[KeyTotal]:
    """Totals by key, most credits first, from `start` to `end`: both the start of an hour or day (`grain`) on the
    organisation's clock."""
    rows = db.session.execute(_totals(limit), _parameters(org, dimension, start, end, grain, user_id))
    return [KeyTotal(row.key, row.calls, row.credits) for row in rows]


def active_members(org: Org, now: datetime) -> int:
    """Members with a call this month."""
    start, end = month_of(org, now)
    rows = org_usage_rows().c
    query = select(func.count(rows.key.distinct())).where(*_in_range())
    return db.session.scalar(query, _parameters(org, "member", start, end, "day", "")) or 0


def credits_between(
    org: Org, start: datetime, end: datetime, *, grain: str = "day", user_id: str = ""
) -> int:
    """Credits used from `start` to `end`, as in `totals_by`."""
    totals = totals_by(org, "model", start, end, grain=grain, limit=None, user_id=user_id)
    return sum(total.credits for total in totals)


def credits_by_day(org: Org, first: date, last: date, *, user_id: str = "") -> dict[date, int]:
    """Credits of each day with usage, from `first` to `last`, both included."""
    clock = clock_of(org)
    start, end = midnight(first, clock), midnight(last + timedelta(days=1), clock)
    rows = db.session.execute(_by_bucket(), _parameters(org, "model", start, end, "day", user_id))
    return {row.bucket.astimezone(clock).date(): row.credits for row in rows}


def month_used(org: Org, now: datetime, *, user_id: str = "") -> int:
    """Credits used this month, on the organisation's clock."""
    return credits_between(org, *month_of(org, now), user_id=user_id)


def used_since(org: Org, start: datetime, end: datetime) -> int:
    """Credits of the calls that finished in `start <= t < end`, exactly; for ranges of hours."""
    query = select(func.coalesce(func.sum(Message.credits), 0)).where(
        Message.org_id == org.id,
        Message.byok.is_(False),
        Message.finished_at >= start,
        Message.finished_at < end,
    )
    return int(db.session.scalar(query) or 0)


def pace(org: Org, now: datetime) -> tuple[float, float]:
    """Credits a day over the last seven days, or since the first call if that is later; and the days it was measured over."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    start = hour - timedelta(days=PACE_DAYS)
    first = db.session.scalar(
        select(Message.finished_at).where(Message.org_id == org.id).order_by(Message.finished_at).limit(1)
    )
    if first is None or first >= now:
        return 0.0, 0.0
    days = min(now - start, now - first) / timedelta(days=1)
    used = credits_between(org, start, hour + timedelta(hours=1), grain="hour")
    # of less than an hour nothing can be said
    return (used / days, days) if days >= 1 / 24 else (0.0, 0.0)


def forecast(org: Org, balance: int, now: datetime) -> Forecast:
    """When `balance` credits end at the pace of the last seven days."""
    per_day, days = pace(org, now)
    empty_at = None
    if per_day > 0 and balance / per_day < FOREVER / timedelta(days=1):
        empty_at = now + timedelta(days=max(balance, 0) / per_day)
    return Forecast(balance, per_day, days, empty_at)


def health(org: Org, since: datetime, *, user_id: str = "") -> CallHealth:
    """The calls that finished since `since`, failed ones included."""
    query = select(
        func.count(),
        func.count().filter(GatewayCall.state == "failed"),
        func.avg(GatewayCall.latency_ms).filter(GatewayCall.state == "settled"),
    ).where(GatewayCall.account_id == org.id, GatewayCall.finished_at >= since)
    if user_id:
        query = query.where(GatewayCall.user_id == user_id)
    calls, failed, latency = db.session.execute(query).one()
    return CallHealth(calls, failed, None if latency is None else float(latency))


def largest_runs(
    org: Org, start: datetime, end: datetime, *, user_id: str = "", limit: int = 10
) -> Sequence[KeyTotal]:
    """The runs that used most from `start` to `end`, days on the organisation's clock, among the 20 largest of each of the 40 days
    that have the largest."""
    since = counted_until(org)
    parameters = {
        "org": org.id,
        "user": user_id,
        "zone": org.time_zone,
        "since": since,
        "start": start,
        "end": end,
        "counted_org": org.id if since > BEGINNING else "",
        "limit": limit,
        "each": RUNS_PER_DAY,
        "most": MOST_DAYS,
    }
    rows = db.session.execute(_LARGEST_RUNS, parameters)
    return [KeyTotal(row.key, row.calls, row.credits) for row in rows]


_LARGEST_RUNS = text("""
    WITH days AS (
        SELECT generate_series(date_trunc('day', CAST(:start AS timestamptz), :zone), CAST(:end AS timestamptz), '1 day', :zone) AS day
    ), largest_days AS (
        SELECT days.day FROM days CROSS JOIN LATERAL (
            SELECT u.credits FROM org_usage u
            WHERE u.org_id = :counted_org AND u.user_id = :user AND u.dimension = 'run' AND u.bucket = days.day AND u.key <> ''
            ORDER BY u.credits DESC LIMIT 1
        ) largest
        WHERE days.day < :end ORDER BY largest.credits DESC, days.day LIMIT :most
    ), found AS (
        SELECT largest.key, largest.calls, largest.credits
        FROM largest_days CROSS JOIN LATERAL (
            SELECT u.key, u.calls, u.credits FROM org_usage u
            WHERE u.org_id = :counted_org AND u.user_id = :user AND u.dimension = 'run' AND u.bucket = largest_days.day AND u.key <> ''
            ORDER BY u.credits DESC LIMIT :each
        ) largest
        UNION ALL
        SELECT c.key, c.calls, c.credits
        FROM org_usage_cells(:org, :zone, greatest(CAST(:since AS timestamptz), CAST(:start AS timestamptz)), :end) c
        WHERE c.dimension = 'run' AND c.user_id = :user
    )
    SELECT key, sum(calls)::bigint AS calls, sum(credits)::bigint AS credits FROM found
    WHERE key <> '' GROUP BY key ORDER BY 3 DESC, 1 LIMIT :limit
""")


def _parameters(
    org: Org, dimension: str, start: datetime, end: datetime, grain: str, user_id: str
) -> dict[str, Any]:
    since = counted_until(org)
    return {
        "org": org.id,
        "counted_org": org.id if since > BEGINNING else "",
        "user": user_id,
        "dimension": dimension,
        "zone": org.time_zone,
        "since": min(since, start) if user_id and grain == "hour" else since,
        "until": end,
        "start": start,
        "end": end,
        "grain": grain,
    }


@cache
def _totals(limit: int | None) -> Select[*tuple[Any, ...]]:
    rows = org_usage_rows().c
    credits = cast(func.sum(rows.credits), BigInt).label("credits")
    calls = cast(func.sum(rows.calls), BigInt).label("calls")
    query: Select[*tuple[Any, ...]] = (
        select(rows.key, calls, credits)
        .where(*_in_range())
        .group_by(rows.key)
        .order_by(credits.desc(), calls.desc(), rows.key)
    )
    return query.limit(limit)


@cache
def _by_bucket() -> Select[*tuple[Any, ...]]:
    rows = org_usage_rows().c
    credits = cast(func.sum(rows.credits), BigInt).label("credits")
    return select(rows.bucket, credits).where(*_in_range()).group_by(rows.bucket).order_by(rows.bucket)


def _in_range() -> list[Any]:
    rows = org_usage_rows().c
    return [
        rows.grain == bindparam("grain", type_=Text),
        rows.bucket >= bindparam("start"),
        rows.bucket < bindparam("end"),
    ]
