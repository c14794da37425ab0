"""Usage reports over time, for charts and tables: of an account by model or agent, of an organisation by anything it counts."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP, array

from models.core.db import BigInt, db
from models.ledger.latency import BUCKETS, merge_histograms, quantile
from models.ledger.rollup import UsageRollup
from models.orgs import Org
from models.usage.org_usage import BEGINNING, counted_until
from models.usage.org_usage_rows import org_usage_rows
from models.usage.period import Period, Step

By = Literal["model", "agent", "version", "member", "team", "key", "repository"]

MAX_SERIES = 7
"""Number of named series of an account, and of coloured ones; the rest is shown as Other."""
MAX_ORG_SERIES = 25

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
    parameters = {"account": account_id, **_times(period, now)}
    return _report(period, by, db.session.execute(_account_cells(by, period.step), parameters).all())


def org_spending(org: Org, period: Period, by: By, now: datetime, *, user_id: str = "") -> UsageReport:
    """The organisation's usage in `period`, or that of its member `user_id`: the top 25 by credits, and the rest as Other.

    The period is in its time zone. Reads its cells and the calls that are not counted yet: for a member by hour, all calls of
    the organisation in the period.
    """
    since = counted_until(org)
    parameters = {
        "org": org.id,
        "counted_org": org.id if since > BEGINNING else "",
        "user": user_id,
        "dimension": by,
        "zone": org.time_zone,
        "since": min(since, period.start) if user_id and period.step == "hour" else since,
        "until": now + timedelta(days=1),
        **_times(period, now),
    }
    return _report(period, by, db.session.execute(_org_cells(period.step), parameters).all())


def _times(period: Period, now: datetime) -> dict[str, datetime]:
    whole_from, whole_to = period.whole_steps()
    return {
        "start": period.start,
        "end": period.end,
        "whole_from": whole_from,
        "whole_to": whole_to,
        "month_ago": now - timedelta(days=30),
        "now": now,
    }


def _report(period: Period, by: By, cells: Sequence[Row[Any]]) -> UsageReport:
    named = _slots({cell.key: cell.rank for cell in cells if cell.key is not None})
    starts = period.columns()
    rows: dict[str | None, dict[int, UsageTotals]] = {}
    stacks: list[list[UsageTotals]] = [[] for _ in starts]
    for cell in cells:
        totals = UsageTotals(**{name: getattr(cell, name) for name in UsageTotals._fields})
        # of two midnights, when clocks go back at midnight, the database may have taken the other
        index = max(0, bisect_right(starts, cell.start) - 1)
        row = rows.setdefault(cell.key, {})
        row[index] = sum_totals([row[index], totals]) if index in row else totals
        stacks[index].append(totals)
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
    return {key: ranked.get(key) or (free.pop(0) if free else OTHER_SLOT) for key in ranks}


class _Source(NamedTuple):
    """Where rollups are read: the columns they have, and the condition that selects one report's."""

    grain: ColumnElement[str]
    bucket: ColumnElement[datetime]
    key: ColumnElement[str]
    own: ColumnElement[bool]
    columns: Any
    histogram: Any


_KEYS = {"model": UsageRollup.model, "agent": UsageRollup.agent_id}


@cache
def _account_cells(by: By, step: Step) -> Select[*tuple[Any, ...]]:
    source = _Source(
        UsageRollup.grain.expression,
        UsageRollup.bucket.expression,
        _KEYS[by].expression,
        UsageRollup.account_id == bindparam("account"),
        UsageRollup,
        UsageRollup.latency_hist,
    )
    return _cells(source, step, "UTC", MAX_SERIES)


@cache
def _org_cells(step: Step) -> Select[*tuple[Any, ...]]:
    rows = org_usage_rows().c
    source = _Source(rows.grain, rows.bucket, rows.key, true(), rows, rows.histogram)
    return _cells(source, step, bindparam("zone", type_=Text), MAX_ORG_SERIES)


def _cells(source: _Source, step: Step, zone: Any, limit: int) -> Select[*tuple[Any, ...]]:
    """A row per chart column and top key (null: all others): the key's `rank` over the last 30 days, the `key`, the
    `start` of the column, and `UsageTotals`. Cached by the callers, because building the statement is slow."""
    key, bucket, own = source.key, source.bucket, source.own
    whole = _rollups(source, step, "whole_from", "whole_to")
    edges = _rollups(source, "day", "start", "whole_from"), _rollups(source, "day", "whole_to", "end")
    in_period = own, or_(whole, *edges) if step == "week" else whole
    last_month = own, _rollups(source, "day", "month_ago", "now")
    rank = func.row_number().over(
        order_by=(func.sum(source.columns.credits).desc(), func.sum(source.columns.calls).desc(), key)
    )
    ranked = select(key.label("key"), rank.label("place")).where(*in_period).group_by(key)
    top = ranked.order_by(rank).limit(limit).cte("top")
    month = select(key.label("key"), rank.label("rank")).where(*last_month).group_by(key).cte("month")
    first = bindparam("start", type_=TIMESTAMP(timezone=True))
    start = func.greatest(func.date_trunc("week", bucket, zone), first) if step == "week" else bucket
    cells = (
        select(top.c.key, top.c.place, start.label("start"), *_sums(source))
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


def _rollups(source: _Source, grain: Step, start: str, end: str) -> ColumnElement[bool]:
    """Selects rollups of one grain from the parameter `start` to the parameter `end`."""
    return and_(source.grain == grain, source.bucket >= bindparam(start), source.bucket < bindparam(end))


def _sums(source: _Source) -> list[ColumnElement[Any]]:
    """Columns of `UsageTotals` over rollups. Histograms are summed bucket by bucket into one array."""
    *counts, cost, histogram = UsageTotals._fields
    buckets = (cast(func.sum(source.histogram[number]), Integer) for number in range(1, BUCKETS + 1))
    return [
        *(cast(func.sum(getattr(source.columns, name)), BigInt).label(name) for name in counts),
        func.sum(source.columns.cost).label(cost),
        array(buckets).label(histogram),
    ]
