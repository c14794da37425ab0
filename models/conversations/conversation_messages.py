"""Reading what was said in a conversation: one message for each prompt and one for each answer, however many rounds it took."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select

from models.conversations.conversation import ConversationQuestion, TimelineItem
from models.conversations.conversation_access import QUEUED, FoundConversation
from models.conversations.conversation_wire import (
    PREFIXES,
    answer_json,
    parts_json,
    user_message_json,
    wire_time,
)
from models.core.db import db
from models.core.errors import NotFound
from models.projects.project_ids import fits
from models.threads import Thread, ThreadMessage, path
from models.turns import Turn

PAGE = 100
MAX_ROWS = 4_000
"""Rows of the thread that one request reads."""
MAX_TURNS = 200
MAX_ITEMS = 500

Wire = dict[str, Any]


def messages_page(found: FoundConversation, limit: int, before: str | None = None) -> list[Wire]:
    """The last `limit` messages before the message `before`, oldest first; those that wait are last. Raises NotFound for the anchor."""
    thread = found.thread
    if before is None:
        waiting = [each for turn in _waiting(thread) for each in _queued(turn)]
        rows = _take(_newest_first(thread, None), limit)
        return [*rows[::-1], *waiting][-limit:]
    start, skip = _anchor(thread, before)
    return _take(_newest_first(thread, start, skip_answer=skip), limit)[::-1] if start else []


def answer_of(turn: Turn) -> list[ThreadMessage]:
    """The messages that a turn wrote, oldest first."""
    query = (
        select(ThreadMessage)
        .where(ThreadMessage.turn_id == turn.id, ThreadMessage.role.in_(("assistant", "tool")))
        .where(ThreadMessage.removed_at.is_(None))
        .order_by(ThreadMessage.seq)
    )
    return list(db.session.scalars(query.limit(MAX_ROWS)))


def answers_with_parts(found: FoundConversation) -> dict[str, Wire]:
    """The newest answers by id, with their parts: texts, reasoning and tools."""
    query = (
        select(Turn)
        .where(Turn.subject_id == found.thread.id, Turn.request["cleared"].is_(None))
        .order_by(Turn.created_at.desc(), Turn.id.desc())
        .limit(MAX_TURNS)
    )
    turns = db.session.scalars(query).all()
    rows: dict[str, list[ThreadMessage]] = {turn.id: [] for turn in turns}
    written = (
        select(ThreadMessage)
        .where(ThreadMessage.thread_id == found.thread.id, ThreadMessage.turn_id.in_(rows))
        .order_by(ThreadMessage.seq.desc())
        .limit(MAX_ROWS)
    )
    for row in db.session.scalars(written).all()[::-1]:
        rows[row.turn_id or ""].append(row)
    found_parts = {}
    for turn in turns[::-1]:
        info = {"id": turn.id, "role": "assistant", "state": turn.state, "cost": turn.credits or 0}
        info["time"] = {"created": wire_time(turn.created_at), "completed": wire_time(turn.ended_at)}
        found_parts[turn.id.removeprefix(PREFIXES["assistant"])] = {
            "info": info,
            "parts": parts_json(rows[turn.id]),
        }
    return found_parts


def timeline_of(found: FoundConversation, limit: int = MAX_ITEMS) -> list[TimelineItem]:
    """The newest items, oldest first."""
    query = (
        select(TimelineItem)
        .where(TimelineItem.conversation_id == found.conversation.id)
        .order_by(TimelineItem.created_at.desc(), TimelineItem.id.desc())
        .limit(limit)
    )
    return list(db.session.scalars(query))[::-1]


def item_of(found: FoundConversation, id: str) -> TimelineItem:
    """An item of the conversation. Raises NotFound."""
    item = db.session.get(TimelineItem, id) if fits(id) else None
    if item is None or item.conversation_id != found.conversation.id:
        raise NotFound("The conversation has no such timeline item.")
    return item


def item_of_turn(turn_id: str) -> TimelineItem | None:
    """What a turn changed; None if nothing, or if it goes on."""
    return db.session.scalars(select(TimelineItem).where(TimelineItem.turn_id == turn_id)).one_or_none()


def open_questions(found: FoundConversation) -> Sequence[ConversationQuestion]:
    """The questions that wait for an answer, oldest first."""
    query = select(ConversationQuestion).where(
        ConversationQuestion.conversation_id == found.conversation.id, ConversationQuestion.state == "open"
    )
    return db.session.scalars(query.order_by(ConversationQuestion.created_at).limit(50)).all()


def _take(messages: Iterator[Wire], limit: int) -> list[Wire]:
    taken: list[Wire] = []
    for each in messages:
        if len(taken) >= limit:
            break
        taken.append(each)
    return taken


def _waiting(thread: Thread) -> Sequence[Turn]:
    query = select(Turn).where(Turn.subject_id == thread.id, Turn.state == "queued")
    return db.session.scalars(query.order_by(Turn.created_at, Turn.id)).all()


def _queued(turn: Turn) -> Iterator[Wire]:
    """What was asked by a turn that waits, which is not in the thread yet."""
    for each in turn.request.get("input") or ():
        yield {
            "id": str(each.get("id", "")).removeprefix(PREFIXES["user"]),
            "role": "user",
            "content": each.get("content", ""),
            "status": "pending",
            "createdAt": wire_time(turn.created_at),
        }
    yield answer_json(turn)


def _anchor(thread: Thread, before: str) -> tuple[str | None, bool]:
    """Where to begin so that the page ends before this message: the row, and whether its answer is left out. Raises NotFound."""
    missing = NotFound("The conversation has no such message.")
    if not fits(before):
        raise missing
    message = db.session.get(ThreadMessage, PREFIXES["user"] + before)
    if message is not None and message.thread_id == thread.id:
        return message.parent_id, False
    turn = db.session.get(Turn, PREFIXES["assistant"] + before)
    if turn is None or turn.subject_id != thread.id:
        raise missing
    return turn.request.get("parent_id"), True


def _newest_first(thread: Thread, start: str | None, *, skip_answer: bool = False) -> Iterator[Wire]:
    """The messages of the branch that ends with the row `start`, by default of the one that is shown."""
    answers: dict[str, list[ThreadMessage]] = {}
    for row in _rows(thread, start):
        if row.role != "user":
            answers.setdefault(row.turn_id or "", []).append(row)
            continue
        for turn in [] if skip_answer else _turns_of(thread, row, answers):
            rows = answers.get(turn.id, [])[::-1]
            item = item_of_turn(turn.id)
            yield answer_json(turn, rows, item.files if item else None)
        skip_answer = False
        yield user_message_json(row)


def _turns_of(thread: Thread, row: ThreadMessage, answers: dict[str, list[ThreadMessage]]) -> list[Turn]:
    """The turns that answer this message on the branch: those that wrote below it, or the one that was begun with it and has written nothing."""
    asked = [turn for id in answers if id and (turn := db.session.get(Turn, id)) and _answers(turn, row)]
    if asked:
        return asked
    begun = db.session.get(Turn, row.turn_id) if row.turn_id else None
    if begun is not None and _answers(begun, row):
        return [begun]
    query = select(Turn).where(Turn.subject_id == thread.id, Turn.state.in_(QUEUED))
    return [turn for turn in db.session.scalars(query) if _answers(turn, row)][:1]


def _answers(turn: Turn, row: ThreadMessage) -> bool:
    return bool(turn.request.get("parent_id") == row.id)


def _rows(thread: Thread, start: str | None) -> Iterator[ThreadMessage]:
    page = path(thread, start, limit=PAGE)
    read = len(page)
    while page:
        yield from page
        if len(page) < PAGE or read >= MAX_ROWS or page[-1].parent_id is None:
            return
        page = path(thread, before=page[-1].id, limit=PAGE)
        read += len(page)
