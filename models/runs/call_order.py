"""Orders of a list of calls, and cursors: the position of the last call of a page."""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, literal, tuple_

NEWEST, DEAREST = "newest", "dearest"
SORTS = (NEWEST, DEAREST)
"""Newest first; or those with the highest cost at provider prices, the newest of equals first, without those that cost nothing."""

Cursor = tuple[datetime, str] | tuple[Decimal, datetime, str]
"""Time and request id; of the dearest, cost before them."""
Columns = Any
Query = Select[*tuple[Any, ...]]
Execute = Callable[[Query], Sequence[Any]]


def position(c: Columns, sort: str) -> tuple[Any, ...]:
    """The columns by which calls are in order, each from its highest value."""
    return (c.cost, c.finished_at, c.request_id) if sort == DEAREST else (c.finished_at, c.request_id)


def descending(c: Columns, sort: str) -> list[ColumnElement[Any]]:
    """What to order by."""
    return [column.desc() for column in position(c, sort)]


def follows(c: Columns, sort: str, after: Cursor) -> ColumnElement[bool]:
    """Whether a call comes after the cursor."""
    columns = position(c, sort)
    values = (literal(value, column.type) for value, column in zip(after, columns, strict=True))
    following: ColumnElement[bool] = tuple_(*columns) < tuple_(*values)
    return following
