"""The tree of a thread's messages: adding to it, reading a branch of it, and choosing the branch that is shown."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import EllipsisType
from typing import Any, NamedTuple, TypedDict, Unpack

from sqlalchemy import ColumnElement, func, literal, or_, select, true
from sqlalchemy.orm import aliased

from models.core.csv_text import csv_cell
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.threads.message_content import check_storable, checked_metadata, content_parts, text_of
from models.threads.message_store import MESSAGES
from models.threads.thread import MESSAGE_STATES, PROJECT_KIND, ROLES, Thread, ThreadMessage
from models.threads.thread_limits import count_written
from models.turns.turn import ACTIVE, Turn

MAX_MESSAGES = 100_000
"""Messages of a thread, in all its branches."""

MESSAGE_KEYS = (
    "id",
    "thread_id",
    "seq",
    "parent_id",
    "branch_id",
    "role",
    "state",
    "content",
    "tool_calls",
    "tool_call_id",
    "name",
    "model",
    "finish_reason",
    "citations",
    "turn_id",
    "message_id",
    "credits",
    "usage",
    "metadata",
    "created_at",
    "completed_at",
)
"""What others see of a message; `metadata` is the attribute `metadata_`."""


class MessageFields(TypedDict, total=False):
    """What a message may have besides its role, content and tool calls; see `ThreadMessage`. `metadata` is at most 16 pairs."""

    name: str | None
    tool_call_id: str | None
    model: str | None
    finish_reason: str | None
    citations: list[Any] | None
    message_id: str | None
    credits: int | None
    usage: dict[str, Any] | None
    metadata: Mapping[str, Any]
    item: dict[str, Any] | None


class Siblings(NamedTuple):
    """A message among the answers to the same message: its place from 1, how many there are, and its neighbours."""

    place: int
    count: int  # type: ignore[assignment]  # nobody counts in it
    previous_id: str | None
    next_id: str | None


def own_thread(user_id: str, account_id: str, id: str, *, deleted: bool = False) -> Thread:
    """The person's thread that this account pays for. Raises NotFound, also for one of a project, and for a deleted one unless `deleted`."""
    query = select(Thread).where(Thread.id == id, Thread.user_id == user_id, Thread.account_id == account_id)
    query = query.where(Thread.kind != PROJECT_KIND)
    if not deleted:
        query = query.where(Thread.deleted_at.is_(None))
    query = query.execution_options(populate_existing=True)
    thread = None if "\x00" in id else db.session.scalar(query)
    if thread is None:
        raise NotFound("There is no such thread.")
    return thread


def lock(thread: Thread) -> Thread:
    """Lock the thread's row until the transaction ends, and read it anew: two that write to one thread do so one after the other.
    Free if this transaction has locked it already. Raises NotFound if it was purged."""
    session = db.session()
    # a savepoint that is undone gives its locks back
    transaction = None if session.in_nested_transaction() else session.get_transaction()
    held: tuple[Any, Thread] | None = session.info.get(("locked thread", thread.id))
    if held is not None and held[0] is transaction is not None:
        return held[1]
    query = select(Thread).where(Thread.id == thread.id).with_for_update(key_share=True)
    locked = session.scalar(query.execution_options(populate_existing=True))
    if locked is None:
        raise NotFound("There is no such thread.")
    if not session.in_nested_transaction():
        session.info["locked thread", thread.id] = session.get_transaction(), locked
    return locked


def append(
    thread: Thread,
    *,
    role: str,
    content: str | Sequence[Mapping[str, Any]],
    parent_id: str | EllipsisType | None = ...,
    tool_calls: list[Any] | None = None,
    state: str = "completed",
    turn_id: str | None = None,
    id: str | None = None,
    first_child: bool | None = None,
    **fields: Unpack[MessageFields],
) -> ThreadMessage:
    """Add a message below `parent_id`: by default below the newest message shown; None begins the thread anew, beside its first message.

    It continues its parent's branch if it is the parent's first child, else it begins one. The thread shows it if it continues what is
    shown or begins a branch; a message that continues another branch leaves what is shown. Locks the thread; flushes. A deleted thread is
    written to as well: a turn that runs keeps its answer. `first_child`: whether it is its parent's first one, if the caller has looked
    under the thread's lock.

    Raises NotFound for a parent that is not of this thread, Conflict (`thread_full`) from 100,000 messages on, unless a turn writes it, whose
    answer was paid for, and Invalid for content that is malformed, larger than 1 MB, or has NUL.
    """
    message = ThreadMessage(
        id=id or f"msg_{uuid.uuid4()}", role=_known_role(role), turn_id=turn_id, created_at=now()
    )
    fill(message, content=content, tool_calls=tool_calls, state=state, **fields)
    thread = lock(thread)
    if turn_id is None:
        check_room(thread)
    message.thread_id, message.user_id = thread.id, thread.user_id
    message.parent_id = thread.head_id if isinstance(parent_id, EllipsisType) else parent_id
    continued = _continued_branch(thread, message.parent_id, first_child)
    message.branch_id = continued or message.id
    thread.last_seq = message.seq = thread.last_seq + 1
    if continued is None or message.parent_id == thread.head_id:
        thread.head_id = message.id
    thread.active_at = message.created_at
    MESSAGES.append(message)
    return message


def check_room(thread: Thread) -> None:
    """Raise Conflict (`thread_full`) if the thread has all the messages that it may have."""
    if thread.last_seq >= MAX_MESSAGES:
        raise Conflict(
            f"A thread has at most {MAX_MESSAGES:,} messages. Begin a new one.", code="thread_full"
        )


def add_message(
    thread: Thread,
    *,
    role: str,
    content: str | Sequence[Mapping[str, Any]],
    parent_id: str | EllipsisType | None = ...,
    tool_calls: list[Any] | None = None,
    **fields: Unpack[MessageFields],
) -> ThreadMessage:
    """`append` a message that no turn wrote. Raises Conflict (`turn_in_progress`) too, while a turn is active at this end of the thread: its
    answer comes next; and WriteLimitExceeded."""
    size = check_storable(content, "content") + check_storable(tool_calls, "tool_calls")
    count_written(thread.user_id, messages=1, size=size)
    thread = lock(thread)
    below = thread.head_id if isinstance(parent_id, EllipsisType) else parent_id
    branch_id = _continued_branch(thread, below)
    busy = select(Turn.id).where(Turn.branch_id == branch_id, Turn.state.in_(ACTIVE))
    if branch_id is not None and db.session.scalar(busy) is not None:
        raise Conflict(
            "A turn is in progress here. Wait for its answer, or stop it.", code="turn_in_progress"
        )
    return append(thread, role=role, content=content, parent_id=below, tool_calls=tool_calls, **fields)


def fill(
    message: ThreadMessage,
    *,
    content: str | Sequence[Mapping[str, Any]],
    tool_calls: list[Any] | None = None,
    state: str = "completed",
    **fields: Unpack[MessageFields],
) -> ThreadMessage:
    """Set what a message holds: when it is added, and by the turn that writes it until it is complete. Raises Invalid."""
    assert state in MESSAGE_STATES
    parts = content_parts(content)
    check_storable([parts, tool_calls, fields.get("citations")], "message")
    if "metadata" in fields:
        message.metadata_ = checked_metadata(fields.pop("metadata"))
    for field, value in fields.items():
        check_storable(value, field)
        setattr(message, field, value)
    message.content, message.text, message.tool_calls = parts, text_of(parts), tool_calls
    message.state, message.completed_at = state, None if state == "in_progress" else now()
    return message


def remove(thread: Thread, message: ThreadMessage) -> None:
    """Take a message out of its branch, with what it holds; what follows it stays. Locks the thread; flushes; again, it changes nothing."""
    lock(thread)
    if message.removed_at is None:
        message.content, message.text, message.metadata_ = [], "", {}
        message.tool_calls = message.citations = message.item = None
        message.removed_at = now()
        db.session.flush()


def message_of(thread: Thread, id: str) -> ThreadMessage:
    """The message of the thread. Raises NotFound."""
    message = None if "\x00" in id else db.session.get(ThreadMessage, id)
    if message is None or message.thread_id != thread.id:
        raise NotFound("There is no such message in this thread.")
    return message


def path(
    thread: Thread,
    head_id: str | None = None,
    *,
    before: str | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> Sequence[ThreadMessage]:
    """The messages from `head_id` (default: the newest shown) up to the first, newest first: those above the message `before`, or,
    oldest first, those newer than the message `after`; at most `limit`. Raises NotFound for a message that is not of this thread."""
    newer_than = message_of(thread, after).seq if after is not None else None
    leaf_id = message_of(thread, before).parent_id if before is not None else head_id or thread.head_id
    if leaf_id is None:
        return []
    return MESSAGES.read_page(thread, leaf_id, after=newer_than, limit=limit)


def walk(thread: Thread, head_id: str | None = None, size: int = 500) -> Iterator[ThreadMessage]:
    """The messages from the first to `head_id` (default: the newest shown), read `size` at a time."""
    leaf_id, last = head_id or thread.head_id, 0
    while leaf_id is not None:
        page = MESSAGES.read_page(thread, leaf_id, after=last, limit=size)
        yield from page
        if len(page) < size:
            return
        last = page[-1].seq


def siblings(thread: Thread, messages: Iterable[ThreadMessage]) -> dict[str, Siblings]:
    """Where each message is among the children of its parent, by id."""
    shown = list(messages)
    parents = {message.parent_id for message in shown}
    known = [parent for parent in parents if parent is not None]
    below: ColumnElement[bool] = ThreadMessage.parent_id.in_(known)
    if None in parents:
        below = or_(below, ThreadMessage.parent_id.is_(None))
    window: dict[str, Any] = {"partition_by": ThreadMessage.parent_id, "order_by": ThreadMessage.seq}
    ranked = (
        select(
            ThreadMessage.id,
            func.row_number().over(**window).label("place"),
            func.count().over(partition_by=ThreadMessage.parent_id).label("count"),
            func.lag(ThreadMessage.id).over(**window).label("previous"),
            func.lead(ThreadMessage.id).over(**window).label("next"),
        )
        .where(ThreadMessage.thread_id == thread.id, below)
        .subquery()
    )
    query = select(ranked).where(ranked.c.id.in_([message.id for message in shown]))
    return {row[0]: Siblings(*row[1:]) for row in db.session.execute(query)}


def newest_below(thread: Thread, message_id: str) -> str:
    """The id of the newest message below this one, or its own: the end of the branch that is shown when it is chosen. Raises NotFound."""
    chosen = message_of(thread, message_id)
    first = select(literal(chosen.branch_id).label("branch_id"), literal(chosen.seq).label("seq"))
    branch = first.cte("branch", recursive=True)
    parent, child = aliased(ThreadMessage), aliased(ThreadMessage)
    branch = branch.union_all(
        select(child.branch_id, child.seq)
        .join_from(branch, parent, (parent.branch_id == branch.c.branch_id) & (parent.seq >= branch.c.seq))
        .join(
            child,
            (child.thread_id == thread.id) & (child.parent_id == parent.id) & (child.branch_id == child.id),
        )
    )
    last = (
        select(ThreadMessage.id, ThreadMessage.seq)
        .where(ThreadMessage.branch_id == branch.c.branch_id)
        .order_by(ThreadMessage.seq.desc())
        .limit(1)
        .lateral()
    )
    query = select(last.c.id).select_from(branch.join(last, true())).order_by(last.c.seq.desc()).limit(1)
    return str(db.session.scalars(query).one())


def select_branch(thread: Thread, message_id: str) -> str:
    """Show the branch of this message, down to the newest message below it, whose id is returned. Locks the thread; flushes. Raises NotFound."""
    lock(thread)
    thread.head_id = newest_below(thread, message_id)
    db.session.flush()
    return thread.head_id


def message_json(message: ThreadMessage) -> dict[str, Any]:
    """The message as the API and the events give it. `credits` is its charge; times are UTC."""
    values = {key: getattr(message, "metadata_" if key == "metadata" else key) for key in MESSAGE_KEYS}
    return {key: csv_cell(value) if isinstance(value, datetime) else value for key, value in values.items()}


def _known_role(role: str) -> str:
    if role not in ROLES:
        problem = f"The role of a message is one of {', '.join(ROLES)}."
        raise Invalid(problem, fields={"role": problem})
    return role


def _continued_branch(thread: Thread, parent_id: str | None, first_child: bool | None = None) -> str | None:
    """The branch that a new child of the message continues; None if it begins one. Raises NotFound."""
    if parent_id is None:
        return None
    branch_id = message_of(thread, parent_id).branch_id
    if first_child is None:
        first_child = not has_children(thread, parent_id)
    return branch_id if first_child else None


def has_children(thread: Thread, message_id: str) -> bool:
    """Whether a message of the thread follows this one."""
    children = select(ThreadMessage.id).where(
        ThreadMessage.thread_id == thread.id, ThreadMessage.parent_id == message_id
    )
    return bool(db.session.scalar(select(children.exists())))
