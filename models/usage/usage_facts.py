"""Usage reports straight from the calls of an account, for what no rollup holds: by run, and an organisation's by several filters."""

from collections.abc import Mapping
from datetime import datetime, tzinfo
from functools import cache
from typing import Any

from sqlalchemy import CTE, Integer, Numeric, Select, Text, bindparam, case, cast, column, func, select, text
from sqlalchemy.dialects.postgresql import TIMESTAMP, array

from models.core.db import BigInt, db
from models.ledger.latency import BUCKETS
from models.usage.period import Period, Step
from models.usage.usage_report import (
    By,
    UsageBefore,
    UsageReport,
    before_of,
    column_start,
    filter_condition,
    filter_values,
    period_times,
    report_of,
    slots_of,
    top_cells,
    total_columns,
    totals_from,
)

MOST_CALLS = 60_000
"""Calls that a report by run reads."""

_DIMENSIONS = ("member", "key", "team", "repository", "model", "version", "agent", "run", "error")
_COUNTS = (
    "calls",
    "failed",
    "input_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
    "credits",
    "latency_ms",
)


def too_many_calls(account_id: str, period: Period) -> bool:
    """Whether the account has more calls in the period than a report by run reads."""
    query = select(_calls().c.calls).limit(MOST_CALLS + 1).subquery()
    found = db.session.scalar(
        select(func.count()).select_from(query), _parameters(account_id, period, {}, period.end)
    )
    return (found or 0) > MOST_CALLS


def report_from_calls(
    account_id: str,
    period: Period,
    by: By,
    now: datetime,
    *,
    filters: Mapping[str, str],
    limit: int,
    ranks: Mapping[str, int] | None,
) -> UsageReport:
    """As `spending`, of any dimension and with filters by any dimension and state. Reads every call of the period. `ranks` give the
    keys their colours; None: by their order."""
    cells = db.session.execute(
        _cells(by, period.step, tuple(sorted(filters)), limit), _parameters(account_id, period, filters, now)
    ).all()
    places = {cell.key: cell.place for cell in cells if cell.key is not None}
    slots = slots_of(places if ranks is None else {key: ranks.get(key) for key in places})
    return report_of(period, by, [(cell.key, cell.start, totals_from(cell)) for cell in cells], slots)


def before_from_calls(
    account_id: str, report: UsageReport, now: datetime, *, filters: Mapping[str, str]
) -> UsageBefore:
    """As `spending_before`. Reads every call of the period before."""
    period, names = report.period.before(), tuple(sorted(filters))
    keys = [each.key for each in report.series if each.key is not None]
    parameters = _parameters(account_id, period, filters, now) | {"keys": keys}
    columns = db.session.execute(_columns(period.step, names), parameters).all()
    by_key = db.session.execute(_keys(report.by, names), parameters).all()
    kept = [row for row in by_key if row.key in set(keys)]
    return before_of(period, [(row.start, totals_from(row)) for row in columns], kept)


def _parameters(account_id: str, period: Period, filters: Mapping[str, str], now: datetime) -> dict[str, Any]:
    return {
        "account": account_id,
        "zone": _name(period.zone),
        **filter_values(filters),
        **period_times(period, now),
    }


def _name(zone: tzinfo) -> str:
    return str(zone)


@cache
def _calls() -> Any:
    moment = TIMESTAMP(timezone=True)
    types: dict[str, Any] = dict.fromkeys(_DIMENSIONS, Text) | dict.fromkeys(_COUNTS, BigInt)
    types |= {"finished_at": moment, "cost": Numeric, "slot": Integer}
    order = (
        "finished_at",
        *_DIMENSIONS,
        *_COUNTS[:-1],
        "cost",
        "latency_ms",
        "slot",
    )
    return func.usage_calls(
        bindparam("account", type_=Text), bindparam("start", type_=moment), bindparam("end", type_=moment)
    ).table_valued(*(column(name, types[name]) for name in order))


def _rows(step: Step, names: tuple[str, ...], by: By | None) -> CTE:
    """Cells by key and hour or day, in the shape of rollups."""
    calls = _calls().c
    grain = "hour" if step == "hour" else "day"
    bucket = func.date_trunc(grain, calls.finished_at, bindparam("zone", type_=Text))
    key = [] if by is None else [calls[by].label("key")]
    columns = {name: calls[name] for name in _DIMENSIONS}
    return (
        select(
            *key,
            bucket.label("bucket"),
            *(cast(func.sum(calls[name]), BigInt).label(name) for name in _COUNTS),
            func.sum(calls.cost).label("cost"),
            func.max(cast(calls.latency_ms, Integer)).label("latency_max"),
            array(func.sum(case((calls.slot == slot, 1), else_=0)) for slot in range(BUCKETS)).label(
                "histogram"
            ),
        )
        .where(*(filter_condition(columns, name) for name in names))
        .group_by(*([] if by is None else [calls[by]]), text("bucket"))
        .cte("rows")
    )


@cache
def _cells(by: By, step: Step, names: tuple[str, ...], limit: int) -> Select[*tuple[Any, ...]]:
    rows = _rows(step, names, by).c
    start = column_start(rows.bucket, step, bindparam("zone", type_=Text))
    cells = top_cells(rows, rows.key, (), start, limit, rows.histogram)
    return select(cells).order_by(cells.c.place)


@cache
def _columns(step: Step, names: tuple[str, ...]) -> Select[*tuple[Any, ...]]:
    rows = _rows(step, names, None).c
    start = column_start(rows.bucket, step, bindparam("zone", type_=Text)).label("start")
    query: Select[*tuple[Any, ...]] = select(start, *total_columns(rows, rows.histogram))
    return query.group_by("start")


@cache
def _keys(by: By, names: tuple[str, ...]) -> Select[*tuple[Any, ...]]:
    rows = _rows("day", names, by).c
    query: Select[*tuple[Any, ...]] = select(rows.key, cast(func.sum(rows.credits), BigInt).label("credits"))
    return query.group_by(rows.key)
