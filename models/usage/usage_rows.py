"""Rows that usage reports of an account add up, by the columns of a period: rollups, and calls where hours are split."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Integer,
    Numeric,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP, array

from models.core.db import BigInt
from models.ledger.latency import BUCKETS
from models.ledger.rollup import UsageRollup
from models.usage.period import Period, PeriodPart

CALL_DIMENSIONS = (
    "member",
    "key",
    "team",
    "repository",
    "model",
    "version",
    "agent",
    "run",
    "error",
    "provider",
    "type",
)
CALL_COUNTS = (
    *("calls", "failed", "input_tokens", "cache_write_tokens", "cache_read_tokens", "output_tokens"),
    *("reasoning_tokens", "credits", "latency_ms"),
)
"""Columns of the SQL function usage_calls."""


_PART = ("start", "end", "column")
ROLLUP_KEYS = ("model", "agent_id", "key_id", "error", "user_id", "provider", "type")
_SUMS = (
    *(
        "calls",
        "input_tokens",
        "cache_write_tokens",
        "cache_read_tokens",
        "output_tokens",
        "reasoning_tokens",
    ),
    *("credits", "cost", "failed", "latency_max", "latency_hist"),
)
_COLUMNS = {
    "model": "model",
    "agent": "agent_id",
    "key": "key_id",
    "error": "error",
    "member": "user_id",
    "provider": "provider",
    "type": "type",
}
"""The column of a rollup for each dimension; `package` is an agent with all its versions."""


def rollup_parameters(
    account_id: str, period: Period, filters: Mapping[str, str], counted: datetime | None = None
) -> tuple[dict[str, Any], bool]:
    """Parameters of `rollup_rows`, and whether the period splits hours: their calls are read one by one. The days of its zone before
    `counted` are in rollups of their own."""
    return part_parameters(account_id, period.parts(counted), filters)


def part_parameters(
    account_id: str, parts: Sequence[PeriodPart], filters: Mapping[str, str]
) -> tuple[dict[str, Any], bool]:
    """As `rollup_parameters`, of any parts."""
    rolled = [part for part in parts if part.grain != "call"]
    calls = [part for part in parts if part.grain == "call"]
    values = {
        "grains": [part.grain for part in rolled],
        **_part_values("part", rolled),
        **call_parts(calls),
    }
    return {"account": account_id, **values, **filter_values(filters)}, bool(calls)


def call_parts(parts: Sequence[PeriodPart]) -> dict[str, list[datetime]]:
    """Parameters of `calls_by_column`."""
    return _part_values("call", parts)


def _part_values(prefix: str, parts: Sequence[PeriodPart]) -> dict[str, list[datetime]]:
    return {f"{prefix}_{name}": [getattr(part, name) for part in parts] for name in _PART}


def rollup_rows(names: tuple[str, ...], splits: bool) -> CTE:
    """The account's rollups of the parts with the `start` of their column, narrowed by the filters `names`; with `splits` the calls
    of split hours too, summed to the same shape."""
    part = _parts("part", bindparam("grains", type_=ARRAY(Text)))
    within = and_(
        UsageRollup.account_id == bindparam("account"),
        UsageRollup.grain == part.c.grain,
        UsageRollup.bucket >= part.c.start,
        UsageRollup.bucket < part.c.end,
    )
    columns = {
        name: UsageRollup.error if name == "state" else rollup_key(UsageRollup, name)
        for name in (*names, "error")
    }
    # apart from the table of parts, each part is one range of the primary key; joined to it, a hash of all rollups of the account
    rollups = (
        select(*(getattr(UsageRollup, name) for name in (*ROLLUP_KEYS, *_SUMS)))
        .where(within, *(filter_condition(columns, name) for name in names))
        .offset(0)
        .lateral("rollups")
    )
    rolled = select(part.c.column.label("start"), *rollups.c).select_from(part.join(rollups, true()))
    return rolled.union_all(_split_calls(names)).cte("rows") if splits else rolled.cte("rows")


def _split_calls(names: tuple[str, ...]) -> Select[*tuple[Any, ...]]:
    """The calls of split hours, summed by what a rollup counts apart."""
    calls, split = calls_by_column()
    dimensions = {
        **{name: calls.c[name] for name in _COLUMNS},
        "agent": calls.c.version,
        "package": calls.c.agent,
    }
    keys = {column: dimensions[name] for name, column in _COLUMNS.items()}
    sums: dict[str, Any] = {
        "cost": func.sum(calls.c.cost),
        "latency_max": func.max(cast(calls.c.latency_ms, Integer)),
        "latency_hist": array(slot_counts(calls.c.slot)),
    }
    query: Select[*tuple[Any, ...]] = select(
        split.c.column,
        *(keys[name].label(name) for name in ROLLUP_KEYS),
        *(
            (sums[name] if name in sums else cast(func.sum(calls.c[name]), BigInt)).label(name)
            for name in _SUMS
        ),
    )
    return (
        query.select_from(split.join(calls, true()))
        .where(*(filter_condition(dimensions, name) for name in names))
        .group_by(split.c.column, *keys.values())
    )


def rollup_key(rows: Any, name: str) -> Any:
    """The column of a dimension of an account."""
    if name == "package":
        return func.regexp_replace(rows.agent_id, r"^([^/@]+/[^/@]+)@[^/@]+$", r"\1")
    return getattr(rows, _COLUMNS[name])


def calls_by_column() -> tuple[Any, Any]:
    """The calls of parts of a period, and the table of the parts to join them to, by `call_parts`."""
    part = _parts("call")
    return usage_calls(part.c.start, part.c.end).lateral("calls"), part


def _parts(prefix: str, *first: Any) -> Any:
    """A table of the parts of a period, by parameters with a prefix; with `first`, its grains."""
    moments = ARRAY(TIMESTAMP(timezone=True))
    arrays = [*first, *(bindparam(f"{prefix}_{name}", type_=moments) for name in _PART)]
    names = [*(["grain"] if first else []), *_PART]
    table = func.unnest(*(cast(each, each.type) for each in arrays)).table_valued(
        *names, name=f"{prefix}_parts"
    )
    return table.render_derived()


def total_columns(rows: Any, histogram: Any) -> list[ColumnElement[Any]]:
    """Columns of `UsageTotals` over rollups. Histograms are summed bucket by bucket into one array."""
    *counts, _, _ = (name for name in _SUMS if name != "cost")
    buckets = (cast(func.sum(histogram[number]), Integer) for number in range(1, BUCKETS + 1))
    return [
        *(cast(func.sum(getattr(rows, each)), BigInt).label(each) for each in counts),
        func.sum(rows.cost).label("cost"),
        func.max(rows.latency_max).label("latency_max"),
        array(buckets).label("histogram"),
    ]


def usage_calls(start: Any, end: Any) -> Any:
    """The SQL function usage_calls, for the parameter `account`."""
    moment = TIMESTAMP(timezone=True)
    types: dict[str, Any] = dict.fromkeys(CALL_DIMENSIONS, Text) | dict.fromkeys(CALL_COUNTS, BigInt)
    types |= {"finished_at": moment, "cost": Numeric, "slot": Integer}
    names = ("finished_at", *CALL_DIMENSIONS, *CALL_COUNTS[:-1], "cost", "latency_ms", "slot")
    function = func.usage_calls(bindparam("account", type_=Text), start, end)
    return function.table_valued(*(column(name, types[name]) for name in names))


def slot_counts(slot: Any) -> list[Any]:
    """The histogram of latencies from the slots of calls."""
    return [func.sum(case((slot == number, 1), else_=0)) for number in range(BUCKETS)]


def filter_values(filters: Mapping[str, str]) -> dict[str, str]:
    """Parameters of the conditions of filters."""
    return {f"only_{name}": value for name, value in filters.items()}


def filter_condition(columns: Mapping[str, Any], name: str) -> ColumnElement[bool]:
    """The condition of a filter, by a parameter of `filter_values`."""
    value = bindparam(f"only_{name}", type_=Text)
    matches: ColumnElement[bool] = (
        (columns["error"] != "") == (value == "failed") if name == "state" else columns[name] == value
    )
    return matches
