"""Begins turns in threads: a new message of the person, or another answer to an old one."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy import select

from models.accounts.key_format import PresentedKey
from models.assistants import render_instructions
from models.core.db import db, now
from models.core.errors import Invalid
from models.threads import tree
from models.threads.message_content import check_storable, content_parts
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_limits import count_written
from models.threads.turn_setup import chosen_assistant, chosen_model
from models.turns import ACTIVE, Turn
from models.turns.turn_verbs import NewTurn, OnBusy, TurnInProgress, active_turn, begin_turn, take_to_end

KIND = "thread"
KINDS = [KIND]
"""The kinds of turns whose rounds are those of threads; later rooms add theirs by `register_thread_kind`."""


def register_thread_kind(kind: str) -> None:
    """Let turns of this kind be found and resumed as those of threads."""
    KINDS.append(kind)


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
    max_rounds: int | None = None
    """Model calls after which the server runs no more tools; by default that of the settings."""
    org_id: str | None = None
    """The organisation that pays, if it is not the key's own."""
    replaces: Sequence[str] = ()
    """Which of `instructions` and `tools` stand in the place of the assistant's, instead of beside them."""
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
    behind_waiting: bool = True,
    kind: str = KIND,
    user_id: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Turn:
    """Begin a turn. `messages` (`role`, `content` and other fields of `tree.append`) are added below `parent_id`, by default below the
    newest message shown, or (`first`) beside the thread's first message; without any, `parent_id` is answered once more, beside its other
    answers. While a turn of that branch is active,
    `on_busy` decides: a queued turn keeps its messages until it starts; without `behind_waiting`, none is queued behind a turn that
    waits for somebody itself. The assistant's version is the one of now. `kind` names the code that runs it, `user_id` who asks, by default the
    thread's person, and `facts` are kept in its request for that code. Locks the thread; flushes; the caller commits, then runs the
    turn if it is running. Raises TurnInProgress, NotFound, Invalid, Conflict, AgentDeleted, WriteLimitExceeded, and DomainError without a model."""
    wanted = _checked(wanted, thread)
    if messages:
        size = sum(check_storable(message, "messages") for message in messages)
        count_written(thread.user_id, messages=len(messages), size=size)
    if on_busy == "interrupt":
        _lock_active(thread)
    thread = tree.lock(thread)
    begin = partial(_begin, owner=owner, on_busy=on_busy, behind_waiting=behind_waiting)
    parent = tree.message_of(thread, parent_id) if parent_id else None if first else _head(thread)
    answer_id = f"msg_{uuid.uuid4()}"
    asker = user_id or thread.user_id
    new = NewTurn(kind, thread.id, answer_id, thread.account_id, asker, key, dict(facts or {}), budget)
    if not messages:
        return _answer_again(thread, wanted, parent, new, begin)
    continues = parent is not None and not tree.has_children(thread, parent.id)
    busy = active_turn(parent.branch_id) if continues and parent is not None else None
    if busy is not None:
        for message in messages:
            content_parts(message["content"])
        queued = {**new.request, **asdict(wanted), "input": list(messages), "answer_id": answer_id}
        return begin(_with(new, busy.branch_id, queued), busy)
    last = add_messages(thread, messages, parent.id if parent else None, first_child=continues)
    request = {**new.request, **asdict(wanted), "parent_id": last.id, "answer_id": answer_id}
    turn = begin(_with(new, last.branch_id, request), None)
    last.turn_id = turn.id
    return turn


def add_messages(
    thread: Thread,
    messages: Sequence[Mapping[str, Any]],
    parent_id: str | None,
    *,
    first_child: bool | None = None,
) -> ThreadMessage:
    """Add messages one below the other. Returns the last one. `first_child`: as in `tree.append`, of the first of them. Raises Invalid,
    Conflict."""
    last: ThreadMessage | None = None
    for message in messages:
        below, alone = (last.id, True) if last else (parent_id, first_child)
        last = tree.append(thread, parent_id=below, first_child=alone, **message)
    assert last is not None
    return last


def _answer_again(
    thread: Thread,
    wanted: TurnRequest,
    parent: ThreadMessage | None,
    new: NewTurn,
    begin: Callable[[NewTurn, Turn | None], Turn],
) -> Turn:
    if parent is None:
        raise Invalid("The thread has no message yet. Send one.", fields={"messages": "Send a message."})
    tree.check_room(thread)
    branch = new.branch_id if tree.has_children(thread, parent.id) else parent.branch_id
    request = {**new.request, **asdict(wanted), "parent_id": parent.id, "answer_id": new.branch_id}
    return begin(_with(new, branch, request), active_turn(branch))


def _checked(wanted: TurnRequest, thread: Thread) -> TurnRequest:
    """The request with the version of its assistant, or the thread's, fixed."""
    saved = chosen_assistant(wanted, thread.user_id, thread.account_id, thread)
    chosen_model(wanted, thread, saved)
    if saved is None:
        return wanted
    render_instructions(saved.version, wanted.variables)
    return replace(wanted, assistant_id=saved.assistant.id, assistant_version=saved.version.version)


def _lock_active(thread: Thread) -> None:
    """Lock the active turns before the thread, as those do that run them."""
    active = select(Turn.id).where(Turn.subject_id == thread.id, Turn.state.in_(ACTIVE)).order_by(Turn.id)
    db.session.execute(active.with_for_update())


def _begin(new: NewTurn, busy: Turn | None, *, owner: str, on_busy: OnBusy, behind_waiting: bool) -> Turn:
    """Begin the turn while `busy` is the active one. If that waits and is interrupted, the next worker that looks ends it."""
    if busy is not None and on_busy == "queue" and not behind_waiting and busy.state != "running":
        waits_for = "results of tool calls" if busy.state == "requires_action" else "somebody to resume it"
        raise TurnInProgress(
            f"A turn of this branch waits for {waits_for} ({busy.id}). Answer it, stop it, or send 'on_busy' with 'interrupt'."
        )
    turn = begin_turn(new, owner=owner, on_busy=on_busy, busy=busy)
    if busy is not None and on_busy == "interrupt" and take_to_end(busy, owner):
        busy.lease_until = now()
        db.session.flush()
    return turn


def _with(new: NewTurn, branch_id: str, request: Mapping[str, Any]) -> NewTurn:
    return NewTurn(
        new.kind, new.subject_id, branch_id, new.account_id, new.user_id, new.key, request, new.budget
    )


def _head(thread: Thread) -> ThreadMessage | None:
    return tree.message_of(thread, thread.head_id) if thread.head_id else None
