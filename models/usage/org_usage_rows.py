"""The usage of an organisation as rows to select from: its counted cells, and the calls that are not counted yet."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Numeric,
    Subquery,
    Text,
    bindparam,
    column,
    func,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

from models.core.db import BigInt
from models.usage.org_usage import OrgUsage

_SHARED = (
    "dimension",
    "grain",
    "bucket",
    "key",
    "calls",
    "failed",
    "input_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
)
COLUMNS = (
    *_SHARED,
    "output_tokens",
    "reasoning_tokens",
    "credits",
    "cost",
    "latency_ms",
    "latency_max",
    "histogram",
)
_TYPES: dict[str, Any] = {
    "user_id": Text,
    "dimension": Text,
    "grain": Text,
    "bucket": TIMESTAMP(timezone=True),
    "key": Text,
    "cost": Numeric,
    "histogram": ARRAY(Integer),
}


@cache
def org_usage_rows() -> Subquery:
    """Rows of `org_usage` as they would be if every call were counted; built once, because building the statement is slow.

    Parameters of the statement: `org`, `user` (empty: all members), `dimension`, `zone`, `since` (until when calls are
    counted), `until`, and `counted_org`: `org`, or empty if its cells do not apply."""
    return org_usage_ranges(lambda rows: [true()])


def org_usage_ranges(ranges: Callable[[Any], Sequence[ColumnElement[bool]]]) -> Subquery:
    """As `org_usage_rows`, of some ranges of buckets that are disjoint. Each is a scan of its own: of one scan with all ranges as
    alternatives, and a condition on the key, the plan reads the buckets of every grain."""
    user, dimension = bindparam("user", type_=Text), bindparam("dimension", type_=Text)
    stored = select(*(getattr(OrgUsage, name) for name in COLUMNS)).where(
        OrgUsage.org_id == bindparam("counted_org", type_=Text),
        OrgUsage.user_id == user,
        OrgUsage.dimension == dimension,
    )
    moment = TIMESTAMP(timezone=True)
    cells = func.org_usage_cells(
        bindparam("org", type_=Text),
        bindparam("zone", type_=Text),
        bindparam("since", type_=moment),
        bindparam("until", type_=moment),
    ).table_valued(*(column(name, _TYPES.get(name, BigInt)) for name in ("user_id", *COLUMNS)))
    recent = select(*(cells.c[name] for name in COLUMNS)).where(
        cells.c.user_id == user, cells.c.dimension == dimension, or_(*ranges(cells.c))
    )
    counted = (stored.where(each) for each in ranges(OrgUsage))
    return union_all(*counted, select(recent.cte("recent"))).subquery("rows")
