"""Begins turns in threads: a new message of the person, or another answer to an old one."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import select

from models.accounts.key_format import PresentedKey
from models.core.db import db
from models.core.errors import Invalid
from models.threads import tree
from models.threads.thread import Thread, ThreadMessage
from models.turns import Turn
from models.turns.turn_verbs import NewTurn, OnBusy, active_turn, begin_turn

KIND = "thread"


@dataclass(frozen=True)
class TurnRequest:
    """What a turn of a thread is asked for. None means: what the thread, its assistant or the server says.

    `parent_id` is the message that is answered, `answer_id` the id of the first message of the answer; both are set when the turn begins.
    `input` are the messages of a turn that waits, added when it starts.
    """

    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the chat completion: temperature, max_tokens, reasoning_effort, response_format and others."""
    instructions: str | None = None
    """System text of this request only."""
    tools: Sequence[Any] = ()
    """Function definitions of the client."""
    tool_choice: Any = None
    assistant_id: str | None = None
    assistant_version: int | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    max_rounds: int = 5
    org_id: str | None = None
    """The organisation that pays, if it is not the key's own."""
    parent_id: str | None = None
    answer_id: str | None = None
    input: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> "TurnRequest":
        """As it was stored with the turn."""
        return cls(**{name: value for name, value in stored.items() if name in cls.__dataclass_fields__})


def ask(
    thread: Thread,
    wanted: TurnRequest,
    *,
    messages: Sequence[Mapping[str, Any]] = (),
    parent_id: str | None = None,
    first: bool = False,
    key: PresentedKey,
    owner: str,
    on_busy: OnBusy = "reject",
    budget: int | None = None,
) -> Turn:
    """Begin a turn. `messages` (`role`, `content` and other fields of `tree.append`) are added below `parent_id`, by default below the
    newest message shown, or (`first`) beside the thread's first message; without any, `parent_id` is answered once more, beside its other answers. While a turn of that branch is active,
    `on_busy` decides: a queued turn keeps its messages until it starts. Locks the thread; flushes; the caller commits, then runs the
    turn if it is running. Raises TurnInProgress, NotFound, Invalid, Conflict."""
    thread = tree.lock(thread)
    parent = tree.message_of(thread, parent_id) if parent_id else None if first else _head(thread)
    answer_id = f"msg_{uuid.uuid4()}"
    new = NewTurn(KIND, thread.id, answer_id, thread.account_id, thread.user_id, key, {}, budget)
    if not messages:
        return _answer_again(thread, wanted, parent, new, owner, on_busy)
    continues = parent is not None and not _has_children(thread, parent)
    if continues and parent is not None and active_turn(parent.branch_id) is not None:
        queued = {**asdict(wanted), "input": list(messages), "answer_id": answer_id}
        return begin_turn(_with(new, parent.branch_id, queued), owner=owner, on_busy=on_busy)
    last = add_messages(thread, messages, parent.id if parent else None)
    request = {**asdict(wanted), "parent_id": last.id, "answer_id": answer_id}
    turn = begin_turn(_with(new, last.branch_id, request), owner=owner, on_busy=on_busy)
    last.turn_id = turn.id
    return turn


def add_messages(
    thread: Thread, messages: Sequence[Mapping[str, Any]], parent_id: str | None
) -> ThreadMessage:
    """Add messages one below the other. Returns the last one. Raises Invalid, Conflict."""
    last: ThreadMessage | None = None
    for message in messages:
        last = tree.append(thread, parent_id=last.id if last else parent_id, **message)
    assert last is not None
    return last


def _answer_again(
    thread: Thread,
    wanted: TurnRequest,
    parent: ThreadMessage | None,
    new: NewTurn,
    owner: str,
    on_busy: OnBusy,
) -> Turn:
    if parent is None:
        raise Invalid("The thread has no message yet. Send one.", fields={"messages": "Send a message."})
    branch = new.branch_id if _has_children(thread, parent) else parent.branch_id
    request = {**asdict(wanted), "parent_id": parent.id, "answer_id": new.branch_id}
    return begin_turn(_with(new, branch, request), owner=owner, on_busy=on_busy)


def _with(new: NewTurn, branch_id: str, request: Mapping[str, Any]) -> NewTurn:
    return NewTurn(
        new.kind, new.subject_id, branch_id, new.account_id, new.user_id, new.key, request, new.budget
    )


def _head(thread: Thread) -> ThreadMessage | None:
    return tree.message_of(thread, thread.head_id) if thread.head_id else None


def _has_children(thread: Thread, message: ThreadMessage) -> bool:
    children = select(ThreadMessage.id).where(
        ThreadMessage.thread_id == thread.id, ThreadMessage.parent_id == message.id
    )
    return bool(db.session.scalar(select(children.exists())))
