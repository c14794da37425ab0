"""What an account used, on what and when: figures for charts and tables, answered by the rollups alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Integer, Select, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import TIMESTAMP, array

from models.core.db import BigInt, db
from models.ledger.latency import BUCKETS, merged, quantile
from models.ledger.rollup import UsageRollup
from models.usage.period import Period, Step

By = Literal["model", "agent"]

NAMED = 7
"""So many series keep their names; the rest is Other."""

OTHER_SLOT = 8


class UsageTotals(NamedTuple):
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
    cost: Decimal = Decimal(0)
    histogram: Sequence[int] = (0,) * BUCKETS

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
    def p50_ms(self) -> float | None:
        return quantile(self.histogram, 0.5)

    @property
    def p95_ms(self) -> float | None:
        return quantile(self.histogram, 0.95)


NOTHING = UsageTotals()


def total(parts: Sequence[UsageTotals]) -> UsageTotals:
    """The sum of figures, the histograms bucket by bucket."""
    if not parts:
        return NOTHING
    *sums, histograms = zip(*parts, strict=True)
    return UsageTotals._make((*map(sum, sums), merged(histograms)))


@dataclass(frozen=True)
class UsageSeries:
    """One model or agent through the period. `key` None is all that is not named; `slot` is its colour, 1 to 8."""

    key: str | None
    slot: int
    columns: list[UsageTotals]
    total: UsageTotals


@dataclass(frozen=True)
class UsageReport:
    """The whole picture of a period. Every total is the sum of the same cells."""

    period: Period
    by: By
    starts: list[datetime]
    series: list[UsageSeries]
    columns: list[UsageTotals]
    total: UsageTotals


def spending(account_id: str, period: Period, by: By, now: datetime) -> UsageReport:
    """What the account used in `period`, by model or agent: the seven that cost most, and the rest as Other.

    One statement whatever the period; at most 62 columns x 8 series come back. A series keeps its colour
    while the period changes, as colours go by rank over the last 30 days.
    """
    words = {
        "account": account_id,
        "grain": period.grain,
        "start": period.start,
        "end": period.end,
        "month_ago": now - timedelta(days=30),
        "now": now,
    }
    cells = db.session.execute(_cells(by, period.step), words).all()
    named = _slots({cell.key: cell.rank for cell in cells if cell.key is not None})
    starts = period.columns()
    place = {start: index for index, start in enumerate(starts)}
    rows: dict[str | None, dict[int, UsageTotals]] = {}
    stacks: list[list[UsageTotals]] = [[] for _ in starts]
    for cell in cells:
        figures = UsageTotals(**{name: getattr(cell, name) for name in UsageTotals._fields})
        rows.setdefault(cell.key, {})[place[cell.start]] = figures
        stacks[place[cell.start]].append(figures)
    series = [
        UsageSeries(
            key,
            OTHER_SLOT if key is None else named[key],
            [row.get(index, NOTHING) for index in range(len(starts))],
            total(list(row.values())),
        )
        for key, row in rows.items()
    ]
    columns = [total(stack) for stack in stacks]
    return UsageReport(period, by, starts, series, columns, total([one.total for one in series]))


def _slots(ranks: Mapping[str, int | None]) -> dict[str, int]:
    kept = {key: rank for key, rank in ranks.items() if rank is not None and rank <= NAMED}
    free = [slot for slot in range(1, NAMED + 1) if slot not in kept.values()]
    return {key: kept.get(key) or free.pop(0) for key in ranks}


_KEYS = {"model": UsageRollup.model, "agent": UsageRollup.agent_id}


@cache
def _cells(by: By, step: Step) -> Select[*tuple[Any, ...]]:
    """A row for each of the keys that cost most (then null: the rest) and column of the chart: the key's `rank` over the
    last 30 days, the `key`, the `start` of the column, and `UsageTotals`. Made once, since it is long."""
    key = _KEYS[by]
    mine = UsageRollup.account_id == bindparam("account")
    inside = (
        mine,
        UsageRollup.grain == bindparam("grain"),
        UsageRollup.bucket >= bindparam("start"),
        UsageRollup.bucket < bindparam("end"),
    )
    lately = (
        mine,
        UsageRollup.grain == "day",
        UsageRollup.bucket >= bindparam("month_ago"),
        UsageRollup.bucket < bindparam("now"),
    )
    place = func.row_number().over(
        order_by=(func.sum(UsageRollup.credits).desc(), func.sum(UsageRollup.calls).desc(), key)
    )
    most = select(key.label("key"), place.label("place")).where(*inside).group_by(key)
    chosen = most.order_by(place).limit(NAMED).cte("chosen")
    month = select(key.label("key"), place.label("rank")).where(*lately).group_by(key).cte("month")
    bucket = UsageRollup.bucket
    first = bindparam("start", type_=TIMESTAMP(timezone=True))
    start = func.greatest(func.date_trunc("week", bucket, "UTC"), first) if step == "week" else bucket
    cells = (
        select(chosen.c.key, chosen.c.place, start.label("start"), *_sums())
        .outerjoin(chosen, chosen.c.key == key)
        .where(*inside)
        .group_by(chosen.c.key, chosen.c.place, "start")
        .cte("cells")
    )
    return (
        select(month.c.rank, cells)
        .select_from(cells.outerjoin(month, month.c.key == cells.c.key))
        .order_by(cells.c.place)
    )


def _sums() -> list[ColumnElement[Any]]:
    """`UsageTotals` of some rollups. The histograms are added up bucket by bucket, into one array."""
    *counts, cost, histogram = UsageTotals._fields
    buckets = (cast(func.sum(UsageRollup.latency_hist[number]), Integer) for number in range(1, BUCKETS + 1))
    return [
        *(cast(func.sum(getattr(UsageRollup, name)), BigInt).label(name) for name in counts),
        func.sum(UsageRollup.cost).label(cost),
        array(buckets).label(histogram),
    ]
