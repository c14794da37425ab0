"""Cursors of keyset pages in URLs: the time and the id of the last row of a page."""

from datetime import datetime

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
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not id or "\0" in id:
        raise Invalid(f"Invalid page: '{parameter}' must be a time and an id.")
    return moment, id


def cursor_text(time: datetime, id: str) -> str:
    """The `before` of the page after a row."""
    return f"{time.isoformat()}~{id}"
