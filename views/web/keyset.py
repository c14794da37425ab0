"""Cursors of keyset pages in URLs: the time and the id of the last row of a page, after its cost in a list by cost."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from flask import request

from models.core.errors import Invalid

Cursor = tuple[datetime, str]


def cursor(parameter: str = "before") -> Cursor | None:
    """The query parameter `before`, or `after` in lists that begin with the oldest; None for the first page. Raises
    Invalid."""
    text = request.args.get(parameter)
    if not text:
        return None
    time, _, id = text.partition("~")
    moment = _moment(time)
    if moment is None or not id or "\0" in id:
        raise Invalid(f"Invalid page: '{parameter}' must be a time and an id.")
    return moment, id


def page_limit(default: int, most: int) -> int:
    """The query parameter `limit`: how many rows a page has at most, `most` being below a thousand. Raises Invalid."""
    text = request.args.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= most):
        raise Invalid(f"'limit' must be a number from 1 to {most}.")
    return int(text)


def cursor_text(time: datetime, id: str) -> str:
    """The `before` of the page after a row."""
    return f"{time.isoformat()}~{id}"


def cost_cursor(parameter: str = "after") -> tuple[Decimal, datetime, str] | None:
    """As `cursor`, of a list by cost. Raises Invalid."""
    text = request.args.get(parameter)
    if not text:
        return None
    cost, _, rest = text.partition("~")
    time, _, id = rest.partition("~")
    moment = _moment(time)
    known = re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,40})?", cost, re.ASCII)
    if known is None or moment is None or "\0" in id:
        raise Invalid(f"Invalid page: '{parameter}' must be a cost, a time and an id.")
    return Decimal(cost), moment, id


def _moment(text: str) -> datetime | None:
    """A time with an offset that can be taken off: at the ends of the calendar it cannot."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def position_text(position: tuple[Any, ...]) -> str:
    """The cursor of the page after this position, of either list."""
    *cost, time, id = position
    return "".join(f"{each:f}~" for each in cost) + cursor_text(time, id)
