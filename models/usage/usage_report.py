"""Usage reports over time, for charts and tables; of an account by model, agent, key or status, from rollups only."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from models.core.db import db
from models.ledger.latency import BUCKETS, merge_histograms, quantile
from models.ledger.rollup import UsageRollup
from models.usage import zone_rollups
from models.usage.period import Period, Step
from models.usage.usage_rows import rollup_key, rollup_parameters, rollup_rows, total_columns

By = Literal[
    "model",
    "agent",
    "version",
    "member",
    "team",
    "key",
    "repository",
    "error",
    "run",
    "package",
    "provider",
    "type",
]

MAX_SERIES = 7
"""Number of named series of an account, and of coloured ones; the rest is shown as Other."""

EXPANDED = 100
"""Number of named series when Other is expanded."""

OTHER_SLOT = 8


class UsageTotals(NamedTuple):
    """Totals over a set of settled calls, and the number of `failed` ones, which used nothing. Credits are integers, cost is
    dollars, latency is ms.

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
    failed: int = 0
    latency_max: int = 0
    histogram: Sequence[int] = (0,) * BUCKETS

    @property
    def prompt_tokens(self) -> int:
        """All input tokens: uncached, cache writes and cache reads."""
        return self.input_tokens + self.cache_write_tokens + self.cache_read_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def error_rate(self) -> float | None:
        """The fraction of all calls that failed; None without calls."""
        return self.failed / (self.calls + self.failed) if self.calls + self.failed else None

    @property
    def p50_ms(self) -> float | None:
        return quantile(self.histogram, 0.5, self.latency_max)

    @property
    def p95_ms(self) -> float | None:
        return quantile(self.histogram, 0.95, self.latency_max)


ZERO_TOTALS = UsageTotals()


def sum_totals(parts: Sequence[UsageTotals]) -> UsageTotals:
    """Add totals, histograms bucket by bucket."""
    if not parts:
        return ZERO_TOTALS
    *sums, largest, histograms = zip(*parts, strict=True)
    return UsageTotals._make((*map(sum, sums), max(largest), merge_histograms(histograms)))


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


@dataclass(frozen=True)
class UsageBefore:
    """Usage in the period before: in total, by column in order, and the credits by key of the report's series."""

    period: Period
    total: UsageTotals
    columns: list[UsageTotals]
    keys: dict[str, int]


def spending(
    account_id: str,
    period: Period,
    by: By,
    now: datetime,
    *,
    filters: Mapping[str, str] | None = None,
    limit: int = MAX_SERIES,
    ranks: Mapping[str, int] | None = None,
) -> UsageReport:
    """The account's usage in `period` by model, agent, key or error: the top `limit` by credits, and the rest as Other.

    `filters` narrow to the calls with these values of model, agent, key, error and state ("settled", "failed"). One statement for any
    period; returns at most 62 columns x (limit + 1) series. Colours are assigned by rank over the last 30 days without filters, so
    that a series keeps its colour when the period or a filter changes; `ranks`, if they are known.
    """
    filters = filters or {}
    counted = zone_rollups.counted_until(account_id, period.zone)
    parameters, splits = rollup_parameters(account_id, period, filters, counted)
    parameters |= {"month_ago": now - timedelta(days=30), "now": now}
    month = (period.name == "30d" and not filters) or ranks is not None
    statement = _cells(by, tuple(sorted(filters)), limit, month, splits)
    cells = db.session.execute(statement, parameters).all()
    found = {cell.key: cell.rank for cell in cells if cell.key is not None}
    slots = slots_of(found if ranks is None else {key: ranks.get(key) for key in found})
    return report_of(period, by, [(cell.key, cell.start, totals_from(cell)) for cell in cells], slots)


def spending_before(
    account_id: str, report: UsageReport, *, filters: Mapping[str, str] | None = None
) -> UsageBefore:
    """The account's usage in the period before that of `report`, with the same filters. One statement."""
    filters, period = filters or {}, report.period.before()
    keys = [each.key for each in report.series if each.key is not None]
    counted = zone_rollups.counted_until(account_id, period.zone)
    parameters, splits = rollup_parameters(account_id, period, filters, counted)
    statement = _cells_before(report.by, tuple(sorted(filters)), splits)
    return before_from_cells(period, db.session.execute(statement, parameters | {"keys": keys}).all())


def before_from_cells(period: Period, cells: Sequence[Any]) -> UsageBefore:
    """The usage before from the rows of `cells_before`."""
    named = [cell for cell in cells if cell.key is not None]
    return before_of(period, [(cell.start, totals_from(cell)) for cell in cells], named)


def before_of(
    period: Period, columns: Sequence[tuple[datetime, UsageTotals]], by_key: Sequence[Any]
) -> UsageBefore:
    """The usage before from totals with the starts of their columns, and rows with `key` and `credits`, which are added up."""
    stamps = [start.timestamp() for start in period.columns()]
    stacks: list[list[UsageTotals]] = [[] for _ in stamps]
    for start, totals in columns:
        stacks[column_index(stamps, start)].append(totals)
    sums = [sum_totals(stack) for stack in stacks]
    credits = Counter[str]()
    for row in by_key:
        credits[row.key] += row.credits
    return UsageBefore(period, sum_totals(sums), sums, credits)


def period_times(period: Period, now: datetime) -> dict[str, datetime]:
    """Parameters of `in_columns` and `column_start`, and of the last 30 days."""
    whole_from, whole_to = period.whole_steps()
    return {
        "start": period.start,
        "end": period.end,
        "whole_from": whole_from,
        "whole_to": whole_to,
        "month_ago": now - timedelta(days=30),
        "now": now,
    }


_values_of = attrgetter(*UsageTotals._fields)


def totals_from(row: Any) -> UsageTotals:
    """The totals of a row with `total_columns`."""
    return UsageTotals._make(_values_of(row))


def report_of(
    period: Period,
    by: By,
    cells: Sequence[tuple[str | None, datetime, UsageTotals]],
    slots: Mapping[str, int],
) -> UsageReport:
    """The report of cells (key, start of the column, totals), series in the order of their first cells; `slots` are the colours."""
    starts = period.columns()
    stamps = [start.timestamp() for start in starts]
    rows: dict[str | None, dict[int, UsageTotals]] = {}
    stacks: list[list[UsageTotals]] = [[] for _ in starts]
    for key, start, totals in cells:
        index = column_index(stamps, start)
        row = rows.setdefault(key, {})
        row[index] = sum_totals([row[index], totals]) if index in row else totals
        stacks[index].append(totals)
    series = [
        UsageSeries(
            key,
            OTHER_SLOT if key is None else slots[key],
            [row.get(index, ZERO_TOTALS) for index in range(len(starts))],
            sum_totals(list(row.values())),
        )
        for key, row in rows.items()
    ]
    columns = [sum_totals(stack) for stack in stacks]
    return UsageReport(period, by, starts, series, columns, sum_totals([each.total for each in series]))


def column_index(stamps: Sequence[float], start: datetime) -> int:
    """The column of a rollup, by the POSIX times of the columns' starts. Of two midnights, when clocks go back at midnight, the
    database may have taken the other."""
    return max(0, bisect_right(stamps, start.timestamp()) - 1)


def slots_of(ranks: Mapping[str, int | None]) -> dict[str, int]:
    """The colour of each key by its rank, 1 to 7; the rest take what is free."""
    ranked = {key: rank for key, rank in ranks.items() if rank is not None and rank <= MAX_SERIES}
    free = [slot for slot in range(1, MAX_SERIES + 1) if slot not in ranked.values()]
    return {key: ranked.get(key) or (free.pop(0) if free else OTHER_SLOT) for key in ranks}


ROLLED = frozenset(("model", "agent", "version", "key", "error", "member", "state"))
"""Dimensions of an organisation, and state, that rollups have."""


def rolled_name(name: str) -> str:
    """The rollups' name of a dimension of an organisation, of which an agent has all its versions."""
    return {"agent": "package", "version": "agent"}.get(name, name)


@cache
def _cells(
    by: By, names: tuple[str, ...], limit: int, month_itself: bool, splits: bool
) -> Select[*tuple[Any, ...]]:
    """A row per chart column and top key (null: all others): the key's `rank` over the last 30 days, the `key`, the
    `start` of the column, and `UsageTotals`. `month_itself`: these are the days of the period. Cached, because building the
    statement is slow."""
    rows = rollup_rows(names, splits).c
    # added up before they are ranked, so that the many rows are read only once
    summed = (
        select(rollup_key(rows, by).label("key"), rows.start, *total_columns(rows, rows.latency_hist))
        .group_by("key", rows.start)
        .cte("summed")
        .c
    )
    cells = top_cells(summed, summed.key, (), summed.start, limit, summed.histogram)
    if month_itself:
        return select(cells.c.place.label("rank"), cells).order_by(cells.c.place)
    own = UsageRollup.account_id == bindparam("account")
    month = ranked_keys(
        UsageRollup,
        rollup_key(UsageRollup, by),
        (own, _rollups(UsageRollup, "day", "month_ago", "now")),
        "month",
    )
    return (
        select(month.c.rank, cells)
        .select_from(cells.outerjoin(month, month.c.key == cells.c.key))
        .order_by(cells.c.place)
    )


def ranked_keys(rows: Any, key: Any, conditions: Sequence[ColumnElement[bool]], name: str) -> CTE:
    """A CTE of keys and their `rank` by credits, calls, failed calls and name."""
    order = func.sum(rows.credits).desc(), func.sum(rows.calls).desc(), func.sum(rows.failed).desc(), key
    rank = func.row_number().over(order_by=order).label("rank")
    return select(key.label("key"), rank).where(*conditions).group_by(key).cte(name)


def top_cells(
    rows: Any, key: Any, conditions: Sequence[ColumnElement[bool]], start: Any, limit: int, histogram: Any
) -> CTE:
    """A CTE with a row per `start` of a chart column and top key (null: all others): `key`, its `place` and `UsageTotals`."""
    ranked = ranked_keys(rows, key, conditions, "ranked")
    top = select(ranked.c.key, ranked.c.rank.label("place")).where(ranked.c.rank <= limit).cte("top")
    return (
        select(top.c.key, top.c.place, start.label("start"), *total_columns(rows, histogram))
        .outerjoin(top, top.c.key == key)
        .where(*conditions)
        .group_by(top.c.key, top.c.place, "start")
        .cte("cells")
    )


@cache
def _cells_before(by: By, names: tuple[str, ...], splits: bool) -> Select[*tuple[Any, ...]]:
    rows = rollup_rows(names, splits).c
    return cells_before(rows, rollup_key(rows, by), rows.latency_hist)


def cells_before(rows: Any, key: Any, histogram: Any) -> Select[*tuple[Any, ...]]:
    """`UsageTotals` by `start` of the column and key of the parameter `keys` (null: all others)."""
    named = key == any_(cast(bindparam("keys", type_=ARRAY(Text)), ARRAY(Text)))
    shown = case((named, key)).label("key")
    query: Select[*tuple[Any, ...]] = select(shown, rows.start, *total_columns(rows, histogram))
    return query.group_by("key", rows.start)


def in_columns(rows: Any, step: Step) -> ColumnElement[bool]:
    """Selects the rollups that make up a period's columns, by the parameters of `period_times`."""
    return or_(*column_parts(rows, step))


def column_parts(rows: Any, step: Step) -> list[ColumnElement[bool]]:
    """As `in_columns`: a condition for each range of rollups, which are disjoint."""
    whole = _rollups(rows, step, "whole_from", "whole_to")
    if step != "week":
        return [whole]
    return [whole, _rollups(rows, "day", "start", "whole_from"), _rollups(rows, "day", "whole_to", "end")]


def column_start(bucket: Any, step: Step, zone: Any) -> Any:
    """The start of the column to which a rollup belongs."""
    first = bindparam("start", type_=TIMESTAMP(timezone=True))
    return func.greatest(func.date_trunc("week", bucket, zone), first) if step == "week" else bucket


def _rollups(rows: Any, grain: Step, start: str, end: str) -> ColumnElement[bool]:
    """Selects rollups of one grain from the parameter `start` to the parameter `end`."""
    return and_(rows.grain == grain, rows.bucket >= bindparam(start), rows.bucket < bindparam(end))
