"""What an account used, on what and when: figures for charts and tables, answered by the rollups alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Literal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    desc,
    func,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import array

from models.db import db
from models.usage.latency import BUCKETS, merged, quantile
from models.usage.period import Period, Step
from models.usage.rollup import UsageRollup

By = Literal["model", "agent"]

NAMED = 7
"""So many series keep their names; the rest is Other."""

OTHER_SLOT = 8

_SUMS = (
    "calls",
    "input_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "credits",
    "latency_ms",
    "ttft_ms",
    "ttft_calls",
)


@dataclass(frozen=True)
class Figures:
    """Sums over some calls. Credits are whole, cost is dollars, spans are ms.

    Tokens stand in disjoint buckets: `input_tokens` is what no cache served, `reasoning_tokens` is within
    `output_tokens`.
    """

    calls: int = 0
    input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    credits: int = 0
    latency_ms: int = 0
    ttft_ms: int = 0
    ttft_calls: int = 0
    cost: Decimal = Decimal(0)
    histogram: Sequence[int] = field(default_factory=lambda: [0] * BUCKETS)

    @property
    def prompt_tokens(self) -> int:
        """All that was read: uncached, written to and read from a cache."""
        return self.input_tokens + self.cache_write_tokens + self.cache_read_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def plain_output_tokens(self) -> int:
        """Output that was not reasoning."""
        return self.output_tokens - self.reasoning_tokens

    @property
    def mean_ms(self) -> float | None:
        return self.latency_ms / self.calls if self.calls else None

    @property
    def mean_ttft_ms(self) -> float | None:
        """Mean time to the first token of the calls that streamed; None when none did."""
        return self.ttft_ms / self.ttft_calls if self.ttft_calls else None

    @property
    def p50_ms(self) -> float | None:
        return quantile(self.histogram, 0.5)

    @property
    def p95_ms(self) -> float | None:
        return quantile(self.histogram, 0.95)


def total(parts: Iterable[Figures]) -> Figures:
    """The sum of figures, the histograms bucket by bucket."""
    parts = list(parts)
    return Figures(
        **{name: sum(getattr(part, name) for part in parts) for name in _SUMS},
        cost=sum((part.cost for part in parts), Decimal(0)),
        histogram=merged(part.histogram for part in parts),
    )


@dataclass(frozen=True)
class Series:
    """One model or agent through the period. `key` None is all that is not named; `slot` is its colour, 1 to 8."""

    key: str | None
    slot: int
    columns: list[Figures]
    total: Figures


@dataclass(frozen=True)
class Spending:
    """The whole picture of a period. Every total is the sum of the same cells."""

    period: Period
    by: By
    starts: list[datetime]
    series: list[Series]
    columns: list[Figures]
    total: Figures


def spending(account_id: str, period: Period, by: By, now: datetime) -> Spending:
    """What the account used in `period`, by model or agent: the seven that cost most, and the rest as Other.

    Two queries whatever the period; at most 62 columns x 8 series come back. A series keeps its colour
    while the period changes, as colours go by rank over the last 30 days.
    """
    named = _slots(_top(account_id, period, by, now))
    starts = period.columns()
    cells = _cells(account_id, period, by, list(named)) if named else []
    place = {start: index for index, start in enumerate(starts)}
    rows: dict[str | None, list[Figures]] = {key: [Figures()] * len(starts) for key in named}
    for key, start, figures in cells:
        rows.setdefault(key, [Figures()] * len(starts))[place[start]] = figures
    series = [
        Series(key, OTHER_SLOT if key is None else named[key], columns, total(columns))
        for key, columns in rows.items()
    ]
    columns = [total(at) for at in zip(*rows.values(), strict=True)] if rows else [Figures()] * len(starts)
    return Spending(period, by, starts, series, columns, total(one.total for one in series))


def _column(by: By) -> Any:
    return UsageRollup.model if by == "model" else UsageRollup.agent_id


def _within(grain: str, start: str, end: str) -> ColumnElement[bool]:
    """Rollups of `account` in a stretch of time; all four name values that are given when the statement is run."""
    return and_(
        UsageRollup.account_id == bindparam("account"),
        UsageRollup.grain == bindparam(grain),
        UsageRollup.bucket >= bindparam(start),
        UsageRollup.bucket < bindparam(end),
    )


def _top(account_id: str, period: Period, by: By, now: datetime) -> list[tuple[str, int | None]]:
    """The keys that cost most in the period, each with its rank over the last 30 days."""
    words = {
        "account": account_id,
        "day": "day",
        "ago": now - timedelta(days=30),
        "now": now,
        "grain": period.grain,
        "start": period.start,
        "end": period.end,
    }
    return [(row.key, row.rank) for row in db.session.execute(_top_query(by), words)]


# Built once: putting a statement of so many sums together takes longer than running it.


@cache
def _top_query(by: By) -> Select[Any]:
    key = _column(by)
    order = (desc(func.sum(UsageRollup.credits)), desc(func.sum(UsageRollup.calls)), key)
    month = (
        select(key.label("key"), func.row_number().over(order_by=order).label("rank"))
        .where(_within("day", "ago", "now"))
        .group_by(key)
        .subquery()
    )
    chosen = (
        select(
            key.label("key"),
            func.sum(UsageRollup.credits).label("credits"),
            func.sum(UsageRollup.calls).label("calls"),
        )
        .where(_within("grain", "start", "end"))
        .group_by(key)
        .order_by(*order)
        .limit(NAMED)
        .subquery()
    )
    return (
        select(chosen.c.key, month.c.rank)
        .outerjoin(month, month.c.key == chosen.c.key)
        .order_by(chosen.c.credits.desc(), chosen.c.calls.desc(), chosen.c.key)
    )


def _slots(ranked: Sequence[tuple[str, int | None]]) -> dict[str, int]:
    kept = {key: rank for key, rank in ranked if rank is not None and rank <= NAMED}
    free = [slot for slot in range(1, NAMED + 1) if slot not in kept.values()]
    return {key: kept.get(key) or free.pop(0) for key, _ in ranked}


def _cells(
    account_id: str, period: Period, by: By, named: list[str]
) -> list[tuple[str | None, datetime, Figures]]:
    words = {
        "account": account_id,
        "grain": period.grain,
        "start": period.start,
        "end": period.end,
        "named": named,
    }
    rows = db.session.execute(_cells_query(by, period.step), words)
    return [(key, start, Figures(*figures)) for key, start, *figures in rows]


@cache
def _cells_query(by: By, step: Step) -> Select[Any]:
    """A row per named key (null: the rest) and column of the chart, its sums in the order of `Figures`."""
    key = _column(by)
    named = any_(bindparam("named", type_=ARRAY(Text)))
    name = case((key == named, key), else_=null()).label("key")
    start: ColumnElement[datetime] = UsageRollup.bucket.expression
    if step == "week":
        start = func.greatest(func.date_trunc("week", start, "UTC"), bindparam("start"))
    sums = [cast(func.sum(getattr(UsageRollup, each)), BigInteger).label(each) for each in _SUMS]
    histogram = array(
        [
            cast(func.coalesce(func.sum(UsageRollup.latency_hist[index + 1]), 0), Integer)
            for index in range(BUCKETS)
        ]
    )
    return (
        select(
            name,
            start.label("start"),
            *sums,
            func.sum(UsageRollup.cost).label("cost"),
            histogram.label("histogram"),
        )
        .where(_within("grain", "start", "end"))
        .group_by("key", "start")
    )
