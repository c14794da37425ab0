"""Chooses what of a thread's history is sent with a call: the newest messages that fit the model's context."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from models.core.db import db
from models.gateway import tokens
from models.threads import tree
from models.threads.thread import Thread, ThreadMessage

DEFAULT_CONTEXT = 128_000
"""Tokens of a model's context if it is not known."""
USUAL_ANSWER = 4_096
"""Tokens that are kept free for an answer without a limit of its own."""
MAX_MESSAGES = 2_000
"""Messages that are sent at most, however short they are."""
FIRST_PAGE, PAGE = 40, 400
OVERHEAD = 6
"""Tokens of a message besides its texts."""
UNANSWERED = "There is no result: the turn ended before this tool did."


@dataclass(frozen=True)
class HistoryWindow:
    """The messages that are sent, oldest first, as chat completions take them, and how many older ones are not."""

    messages: list[dict[str, Any]]
    dropped: int = 0


@dataclass(frozen=True)
class _Unit:
    """What is kept or dropped together: a message, or one with tool calls and their results."""

    first: ThreadMessage
    messages: list[dict[str, Any]]


def room_for_history(
    context: int | None, max_output: int | None, asked: int | None, rest: Sequence[Any]
) -> int:
    """The tokens that a history may have: the model's context, less the answer's limit `asked` or else a usual answer, less the system text
    and the tools in `rest`."""
    whole = context or DEFAULT_CONTEXT
    answer = asked or min(USUAL_ANSWER, max_output or USUAL_ANSWER, whole // 4)
    return whole - min(answer, whole) - _tokens(rest, exact=whole < 200_000) - 16


def history_window(thread: Thread, leaf_id: str, room: int, *, model: str) -> HistoryWindow:
    """The messages up to `leaf_id`, as many of the newest as have at most `room` tokens; what came after the last answer is always there.
    Tool calls are kept or dropped with their results. Reads a page of messages at a time, and no more than are sent."""
    factor = 1.0 if tokens.has_vocabulary(model) else 1.3
    kept: list[_Unit] = []
    used, count = 0.0, 0
    exact = False
    units = _units(_newest_first(thread, leaf_id))
    for unit in units:
        size = _size(unit.messages, exact) * factor
        if not exact and used + size > room:
            # by bytes it is too much: count
            exact = True
            used = sum(_size(each.messages, exact) for each in kept) * factor
            size = _size(unit.messages, exact) * factor
        if kept and (used + size > room or count >= MAX_MESSAGES) and any(map(_asks, kept)):
            kept = _from_question(kept)
            return HistoryWindow(_flat(kept), _above(thread, kept[-1].first))
        kept.append(unit)
        used, count = used + size, count + len(unit.messages)
    return HistoryWindow(_flat(kept))


def chat_message(message: ThreadMessage) -> dict[str, Any]:
    """A message as chat completions take it."""
    parts = [known for part in message.content if (known := _part(part)) is not None]
    only_text = all(part["type"] == "text" for part in parts)
    content: Any = "\n".join(part["text"] for part in parts) if only_text else parts
    found: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        found |= {"tool_calls": message.tool_calls, "content": content or None}
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def _part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    match part["type"]:
        case "text" | "image_url":
            return dict(part)
        case "file":
            return {"type": "text", "text": f"[Attached file: {part['name'] or part['document_id']}]"}
    return None


def _newest_first(thread: Thread, leaf_id: str) -> Iterator[ThreadMessage]:
    page = tree.path(thread, leaf_id, limit=FIRST_PAGE)
    size = FIRST_PAGE
    while page:
        yield from page
        if len(page) < size or page[-1].parent_id is None:
            return
        size = PAGE
        page = tree.path(thread, before=page[-1].id, limit=size)


def _units(newest_first: Iterator[ThreadMessage]) -> Iterator[_Unit]:
    results: dict[str, dict[str, Any]] = {}
    for message in newest_first:
        if message.role == "tool":
            results.setdefault(message.tool_call_id or "", chat_message(message))
            continue
        found = chat_message(message)
        if message.tool_calls:
            answers = [results.get(call["id"]) or _unanswered(call["id"]) for call in message.tool_calls]
            yield _Unit(message, [found, *answers])
        elif found["content"]:
            yield _Unit(message, [found])
        # results whose call is elsewhere say nothing
        results = {}


def _unanswered(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": UNANSWERED}


def _asks(unit: _Unit) -> bool:
    return unit.first.role == "user"


def _from_question(kept: list[_Unit]) -> list[_Unit]:
    """Without the oldest messages before the first question: providers want a conversation to begin with one."""
    last = max(place for place, unit in enumerate(kept) if _asks(unit))
    return kept[: last + 1]


def _flat(newest_first: list[_Unit]) -> list[dict[str, Any]]:
    return [message for unit in reversed(newest_first) for message in unit.messages]


def _size(messages: list[dict[str, Any]], exact: bool) -> int:
    return sum(OVERHEAD + _tokens([message], exact=exact) for message in messages)


def _tokens(value: Sequence[Any], *, exact: bool) -> int:
    """Tokens of the texts; unless `exact`, their bytes, which are never fewer. A picture has a fixed number."""
    texts = list(tokens.texts(list(value)))
    if exact:
        return tokens.count("\n".join(texts))
    return sum(len(text.encode("utf-8", "surrogatepass")) + 1 for text in texts)


def _above(thread: Thread, message: ThreadMessage) -> int:
    """How many messages lead to this one, counted by the stretches of branches that they are on."""
    start = select(ThreadMessage.branch_id, ThreadMessage.seq).where(
        ThreadMessage.thread_id == thread.id, ThreadMessage.id == message.parent_id
    )
    stretch = start.cte("stretch", recursive=True)
    first, parent = aliased(ThreadMessage), aliased(ThreadMessage)
    stretch = stretch.union_all(
        select(parent.branch_id, parent.seq)
        .join_from(stretch, first, first.id == stretch.c.branch_id)
        .join(parent, parent.id == first.parent_id)
    )
    counted = (
        select(func.count())
        .select_from(ThreadMessage)
        .join(
            stretch,
            (ThreadMessage.branch_id == stretch.c.branch_id) & (ThreadMessage.seq <= stretch.c.seq),
        )
    )
    return db.session.scalar(counted) or 0
