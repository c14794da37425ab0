"""The tool calls between the model calls of a run, read from their kept messages: what the model called, and what it was given.

An answer names the tools; their results are in the request of the run's next call. Clients and models wrote both, so any shape
is accepted.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, and_, any_, case, cast, func, null, select, true, tuple_
from sqlalchemy.dialects.postgresql import JSONPATH
from sqlalchemy.orm import aliased

from models.core.db import db
from models.core.errors import NotFound
from models.gateway import GatewayCall
from models.runs.run_totals import text_array
from models.usage import Message

MAX_PER_CALL = 50
MAX_TAIL = MAX_PER_CALL + 10
MAX_BYTES = 300_000
"""Stored bytes of an answer, or of a request whose last messages are read; of a larger request only the last one is."""
MAX_TOTAL_BYTES = 4_000_000
"""Stored bytes of the requests read for one page."""
PREVIEW_CHARS = 200


@dataclass(frozen=True)
class ToolCall:
    """A tool call of the model call `request_id`, its `number` there from 0. `starts` is the end of that call and `ends` the start of
    the next, with the results; None without a next call. `result` is None if there is none, or it was not kept."""

    request_id: str
    number: int
    name: str
    arguments: str
    result: str | None
    starts: datetime
    ends: datetime | None

    @property
    def preview(self) -> str:
        """The beginning of the arguments, in one line."""
        return " ".join(self.arguments[:PREVIEW_CHARS].split())


def tool_calls_of(account_id: str, request_ids: Iterable[str]) -> dict[str, list[ToolCall]]:
    """Return the tool calls of these model calls of the account, by request id, in one query."""
    ids = list(request_ids)
    if not ids:
        return {}
    rows = db.session.execute(_with_next_call(account_id, ids)).mappings()
    return {row["request_id"]: calls for row in rows if (calls := _tools(row))}


def tool_call_of(account_id: str, request_id: str, number: int) -> ToolCall:
    """Return one tool call of a model call of the account. Raises NotFound."""
    calls = {} if "\x00" in request_id else tool_calls_of(account_id, [request_id])
    for each in calls.get(request_id, ()):
        if each.number == number:
            return each
    raise NotFound("There is no such tool call here")


def _with_next_call(account_id: str, ids: Sequence[str]) -> Any:
    call, later = aliased(GatewayCall), aliased(GatewayCall)
    answered, asked = aliased(Message), aliased(Message)
    following = (
        select(later.started_at, later.message_id)
        .where(later.account_id == account_id, later.run_id == call.run_id, later.message_id.is_not(None))
        .where(tuple_(later.started_at, later.request_id) > tuple_(call.started_at, call.request_id))
        .order_by(later.started_at, later.request_id)
        .limit(1)
        .lateral("following")
    )
    tools = case(
        (func.pg_column_size(answered.response) > MAX_BYTES, null()), else_=answered.response["tool_calls"]
    )
    size = func.coalesce(func.pg_column_size(asked.request), 0)
    total = func.sum(size).over(order_by=(call.started_at, call.request_id))
    rows = (
        select(
            call.request_id,
            call.started_at,
            call.latency_ms,
            call.finished_at,
            tools.label("tools"),
            following.c.started_at.label("next_at"),
            asked.id.label("asked_id"),
            and_(size <= MAX_BYTES, total <= MAX_TOTAL_BYTES).label("small"),
        )
        .select_from(call)
        .join(answered, answered.id == call.message_id)
        .outerjoin(following, true())
        .outerjoin(asked, asked.id == following.c.message_id)
        .where(call.account_id == account_id, call.request_id == any_(text_array(ids)))
        .where(func.jsonb_typeof(tools) == "array")
        .cte("rows")
        .prefix_with("MATERIALIZED")
    )
    tail = func.jsonb_path_query_array(Message.request, cast(f"$[last - {MAX_TAIL - 1} to last]", JSONPATH))
    results: ColumnElement[Any] = case(
        (rows.c.small, tail), else_=func.jsonb_build_array(Message.last_message)
    )
    return (
        select(rows, results.label("results"))
        .select_from(rows)
        .outerjoin(Message, Message.id == rows.c.asked_id)
    )


def _tools(row: RowMapping) -> list[ToolCall]:
    ends = row["next_at"]
    starts = row["finished_at"] if ends is None else min(row["finished_at"], ends)
    results = _results(row["results"])
    found = []
    for number, call in enumerate(row["tools"][:MAX_PER_CALL]):
        function = call.get("function") if isinstance(call, dict) else None
        function = function if isinstance(function, dict) else {}
        tool_id = call.get("id") if isinstance(call, dict) else None
        result = results.get(tool_id) if isinstance(tool_id, str) else None
        name = function.get("name")
        found.append(
            ToolCall(
                row["request_id"],
                number,
                (name if isinstance(name, str) and name.strip() else "tool")[:200],
                _readable(function.get("arguments")),
                result,
                starts,
                ends,
            )
        )
    return found


def _results(messages: Any) -> dict[str, str]:
    """Return the results by the id of their tool call."""
    found = {}
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and isinstance(message.get("tool_call_id"), str):
            found[message["tool_call_id"]] = _content(message.get("content"))
    return found


def _content(content: Any) -> str:
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        strings = [text for text in texts if isinstance(text, str)]
        if strings and len(strings) == len(content):
            return "\n".join(strings)
    return _readable(content)


def _readable(value: Any) -> str:
    """Text as it is, JSON indented."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        value = parsed if isinstance(parsed, dict | list) else value
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, indent=2)
    except RecursionError:
        return type(value).__name__
