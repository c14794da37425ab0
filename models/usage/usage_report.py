"""Usage reports by model or agent over time, for charts and tables, from rollups only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Integer, Select, and_, bindparam, cast, func, or_, select
from sqlalchemy.dialects.postgresql import TIMESTAMP, array

from models.core.db import BigInt, db
from models.ledger.latency import BUCKETS, merge_histograms, quantile
from models.ledger.rollup import UsageRollup
from models.usage.period import Period, Step

By = Literal["model", "agent"]

MAX_SERIES = 7
"""Number of named series; the rest is shown as Other."""

OTHER_SLOT = 8


class UsageTotals(NamedTuple):
    """Totals over a set of calls. Credits are integers, cost is dollars, latency is ms.

    Input token counts are disjoint: `input_tokens` is uncached only. `output_tokens` includes `reasoning_tokens`.
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
        """All input tokens: uncached, cache writes and cache reads."""
        return self.input_tokens + self.cache_write_tokens + self.cache_read_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def plain_output_tokens(self) -> int:
        """Output tokens without reasoning."""
        return self.output_tokens - self.reasoning_tokens

    @property
    def p50_ms(self) -> float | None:
        return quantile(self.histogram, 0.5)

    @property
    def p95_ms(self) -> float | None:
        return quantile(self.histogram, 0.95)


ZERO_TOTALS = UsageTotals()


def sum_totals(parts: Sequence[UsageTotals]) -> UsageTotals:
    """Add totals, histograms bucket by bucket."""
    if not parts:
        return ZERO_TOTALS
    *sums, histograms = zip(*parts, strict=True)
    return UsageTotals._make((*map(sum, sums), merge_histograms(histograms)))


@dataclass(frozen=True)
class UsageSeries:
    """One model or agent over the period. `key` None is Other; `slot` is the colour, 1 to 8."""

    key: str | None
    slot: int
    columns: list[UsageTotals]
    total: UsageTotals


@dataclass(frozen=True)
class UsageReport:
    """Usage in a period. All totals are sums of the same cells."""

    period: Period
    by: By
    starts: list[datetime]
    series: list[UsageSeries]
    columns: list[UsageTotals]
    total: UsageTotals


def spending(account_id: str, period: Period, by: By, now: datetime) -> UsageReport:
    """The account's usage in `period` by model or agent: the top seven by credits, and the rest as Other.

    One statement for any period; returns at most 62 columns x 8 series. Colours are assigned by rank over the last 30
    days, so that a series keeps its colour when the period changes.
    """
    whole_from, whole_to = period.whole_steps()
    parameters = {
        "account": account_id,
        "start": period.start,
        "end": period.end,
        "whole_from": whole_from,
        "whole_to": whole_to,
        "month_ago": now - timedelta(days=30),
        "now": now,
    }
    cells = db.session.execute(_cells(by, period.step), parameters).all()
    named = _slots({cell.key: cell.rank for cell in cells if cell.key is not None})
    starts = period.columns()
    position = {start: index for index, start in enumerate(starts)}
    rows: dict[str | None, dict[int, UsageTotals]] = {}
    stacks: list[list[UsageTotals]] = [[] for _ in starts]
    for cell in cells:
        totals = UsageTotals(**{name: getattr(cell, name) for name in UsageTotals._fields})
        rows.setdefault(cell.key, {})[position[cell.start]] = totals
        stacks[position[cell.start]].append(totals)
    series = [
        UsageSeries(
            key,
            OTHER_SLOT if key is None else named[key],
            [row.get(index, ZERO_TOTALS) for index in range(len(starts))],
            sum_totals(list(row.values())),
        )
        for key, row in rows.items()
    ]
    columns = [sum_totals(stack) for stack in stacks]
    return UsageReport(period, by, starts, series, columns, sum_totals([each.total for each in series]))


def _slots(ranks: Mapping[str, int | None]) -> dict[str, int]:
    ranked = {key: rank for key, rank in ranks.items() if rank is not None and rank <= MAX_SERIES}
    free = [slot for slot in range(1, MAX_SERIES + 1) if slot not in ranked.values()]
    return {key: ranked.get(key) or free.pop(0) for key in ranks}


_KEYS = {"model": UsageRollup.model, "agent": UsageRollup.agent_id}


@cache
def _cells(by: By, step: Step) -> Select[*tuple[Any, ...]]:
    """A row per chart column and top key (null: all others): the key's `rank` over the last 30 days, the `key`, the
    `start` of the column, and `UsageTotals`. Cached, because building the statement is slow."""
    key = _KEYS[by]
    own = UsageRollup.account_id == bindparam("account")
    whole = _rollups(step, "whole_from", "whole_to")
    edges = _rollups("day", "start", "whole_from"), _rollups("day", "whole_to", "end")
    in_period = own, or_(whole, *edges) if step == "week" else whole
    last_month = own, _rollups("day", "month_ago", "now")
    rank = func.row_number().over(
        order_by=(func.sum(UsageRollup.credits).desc(), func.sum(UsageRollup.calls).desc(), key)
    )
    ranked = select(key.label("key"), rank.label("place")).where(*in_period).group_by(key)
    top = ranked.order_by(rank).limit(MAX_SERIES).cte("top")
    month = select(key.label("key"), rank.label("rank")).where(*last_month).group_by(key).cte("month")
    bucket = UsageRollup.bucket
    first = bindparam("start", type_=TIMESTAMP(timezone=True))
    start = func.greatest(func.date_trunc("week", bucket, "UTC"), first) if step == "week" else bucket
    cells = (
        select(top.c.key, top.c.place, start.label("start"), *_sums())
        .outerjoin(top, top.c.key == key)
        .where(*in_period)
        .group_by(top.c.key, top.c.place, "start")
        .cte("cells")
    )
    return (
        select(month.c.rank, cells)
        .select_from(cells.outerjoin(month, month.c.key == cells.c.key))
        .order_by(cells.c.place)
    )


def _rollups(grain: Step, start: str, end: str) -> ColumnElement[bool]:
    """Selects rollups of one grain from the parameter `start` to the parameter `end`."""
    bucket = UsageRollup.bucket
    return and_(UsageRollup.grain == grain, bucket >= bindparam(start), bucket < bindparam(end))


def _sums() -> list[ColumnElement[Any]]:
    """Columns of `UsageTotals` over rollups. Histograms are summed bucket by bucket into one array."""
    *counts, cost, histogram = UsageTotals._fields
    buckets = (cast(func.sum(UsageRollup.latency_hist[number]), Integer) for number in range(1, BUCKETS + 1))
    return [
        *(cast(func.sum(getattr(UsageRollup, name)), BigInt).label(name) for name in counts),
        func.sum(UsageRollup.cost).label(cost),
        array(buckets).label(histogram),
    ]
