"""Usage reports straight from the calls of an account, for what no rollup holds: by run, and an organisation's by several filters."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import CTE, Integer, Select, bindparam, cast, func, select, true
from sqlalchemy.dialects.postgresql import TIMESTAMP, array

from models.core.db import BigInt, db
from models.usage.period import Period
from models.usage.usage_report import (
    By,
    UsageBefore,
    UsageReport,
    before_from_cells,
    cells_before,
    period_times,
    report_of,
    slots_of,
    top_cells,
    totals_from,
)
from models.usage.usage_rows import (
    CALL_COUNTS,
    CALL_DIMENSIONS,
    call_parts,
    calls_by_column,
    filter_condition,
    filter_values,
    slot_counts,
    usage_calls,
)

MOST_CALLS = 60_000
"""Calls that a report by run reads."""


def too_many_calls(account_id: str, period: Period) -> bool:
    """Whether the account has more calls in the period than a report by run reads."""
    moment = TIMESTAMP(timezone=True)
    calls = usage_calls(bindparam("start", type_=moment), bindparam("end", type_=moment))
    query = select(calls.c.calls).limit(MOST_CALLS + 1).subquery()
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
        _cells(by, tuple(sorted(filters)), limit), _parameters(account_id, period, filters, now)
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
    return before_from_cells(period, db.session.execute(_cells_before(report.by, names), parameters).all())


def _parameters(account_id: str, period: Period, filters: Mapping[str, str], now: datetime) -> dict[str, Any]:
    return {
        "account": account_id,
        **call_parts(period.columns_as_parts()),
        **filter_values(filters),
        **period_times(period, now),
    }


def _rows(names: tuple[str, ...], by: By) -> CTE:
    """Cells by key and column, in the shape of rollups."""
    table, columns_of = calls_by_column()
    calls, start = table.c, columns_of.c.column
    columns = {name: calls[name] for name in CALL_DIMENSIONS}
    return (
        select(
            calls[by].label("key"),
            start.label("start"),
            *(cast(func.sum(calls[name]), BigInt).label(name) for name in CALL_COUNTS),
            func.sum(calls.cost).label("cost"),
            func.max(cast(calls.latency_ms, Integer)).label("latency_max"),
            array(slot_counts(calls.slot)).label("histogram"),
        )
        .select_from(columns_of.join(table, true()))
        .where(*(filter_condition(columns, name) for name in names))
        .group_by(calls[by], start)
        .cte("rows")
    )


@cache
def _cells(by: By, names: tuple[str, ...], limit: int) -> Select[*tuple[Any, ...]]:
    rows = _rows(names, by).c
    cells = top_cells(rows, rows.key, (), rows.start, limit, rows.histogram)
    return select(cells).order_by(cells.c.place)


@cache
def _cells_before(by: By, names: tuple[str, ...]) -> Select[*tuple[Any, ...]]:
    rows = _rows(names, by).c
    return cells_before(rows, rows.key, rows.histogram)
