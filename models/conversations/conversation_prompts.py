"""Saying something in a conversation: a turn begins, or waits behind the one in progress."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from blinker import Signal
from sqlalchemy import func, select

from models.accounts.key_format import PresentedKey
from models.conversations.conversation import ProjectConversation
from models.conversations.conversation_access import FoundConversation
from models.conversations.conversation_editing import title_of
from models.conversations.conversation_engine import check_engine
from models.core.db import db, extension, now
from models.core.errors import Invalid
from models.projects import ProjectCaller
from models.projects.project_access import own_project
from models.threads import TurnRequest, ask, lock
from models.threads.thread_turn_start import register_thread_kind
from models.turns import Turn
from models.turns.event_log import CHANNEL
from models.turns.turn_verbs import OnBusy

KIND = "conversation"
"""The kind of the turns of conversations."""
NEWS = "conversation "
"""How a notification begins that a turn of a conversation has begun: the id of its thread follows."""
MAX_PROMPT = 200_000
"""Characters of a prompt."""

conversation_turn_ended = Signal()
"""Sent in the transaction that ends a turn of a conversation: the Turn, with `conversation` and `result` (TurnResult)."""

register_thread_kind(KIND)


class Scratch(NamedTuple):
    """Work on a copy of these files (None: of none) that moves no head and makes no timeline item: the turn keeps its result as a manifest."""

    manifest_hash: str | None


class TurnResult(NamedTuple):
    """What a turn made of the files: the manifests after it and before it, and the changed paths, each `path` and `change`, at most 500 of
    `count`. `snapshot_id` and `item_id` are None for a scratch, and without changes."""

    manifest_hash: str | None
    previous_manifest_hash: str | None
    files: Sequence[Mapping[str, Any]] = ()
    count: int = 0  # type: ignore[assignment]  # nobody counts in it
    snapshot_id: str | None = None
    item_id: str | None = None


def say(
    caller: ProjectCaller,
    found: FoundConversation,
    prompt: str,
    *,
    key: PresentedKey,
    owner: str,
    on_busy: OnBusy = "queue",
    budget: int | None = None,
    model: str | None = None,
    max_rounds: int | None = None,
    scratch: Scratch | None = None,
    parent_id: str | None = None,
    idempotency_key: str | None = None,
) -> Turn:
    """Begin a turn that answers the prompt, made and paid with the caller's `key` (`models.accounts.key_format.present`), of at most `budget`
    credits. While another one is in progress, `on_busy` decides. With an `idempotency_key` that a turn of the conversation has, that turn is
    returned. Locks the thread; flushes; the caller commits, then `TurnEngine.run`s the turn if its state is `running`, as
    `TurnEngine.owner` is `owner`. How it ended: `turn_result` and `conversation_turn_ended`.

    Raises NotFound, Forbidden, Invalid for a blank or too long prompt, TurnInProgress, what `ConversationEngine.check` raises, and as
    `threads.ask`.
    """
    conversation = found.conversation
    project = own_project(caller, conversation.project_id, "edit_projects")
    _check_prompt(prompt)
    engine = check_engine(conversation, project.account_id)
    thread = lock(found.thread)
    if idempotency_key and (known := _same(thread.id, idempotency_key)) is not None:
        return known
    plan = engine.plan(conversation, caller.user_id)
    settings = extension("settings")
    wanted = TurnRequest(
        model=model or plan.model or conversation.model or settings.stoa_conversation_model,
        params=plan.params,
        max_rounds=max_rounds,
        org_id=project.account_id if project.account_id != caller.user_id else None,
    )
    facts: dict[str, Any] = {"conversation_id": conversation.id}
    if scratch is not None:
        facts["scratch"] = {"manifest_hash": scratch.manifest_hash}
    if idempotency_key:
        facts["idempotency_key"] = idempotency_key[:200]
    turn = ask(
        thread,
        wanted,
        messages=[{"role": "user", "content": prompt, "id": f"msg_{uuid.uuid4()}"}],
        parent_id=parent_id,
        key=key,
        owner=owner,
        on_busy=on_busy,
        budget=budget,
        kind=KIND,
        user_id=caller.user_id,
        facts=facts,
    )
    if conversation.title is None:
        conversation.title = thread.name = title_of(prompt)
    conversation.updated_at = now()
    tell_news(thread.id)
    db.session.flush()
    return turn


def tell_news(thread_id: str) -> None:
    """Let the watchers of a conversation know, at the commit, that it has a new turn."""
    db.session.execute(select(func.pg_notify(CHANNEL, NEWS + thread_id)))


def turn_result(turn: Turn) -> TurnResult | None:
    """What a turn that has ended made of the files; None if it has not ended, or did not begin."""
    stored = turn.request.get("result")
    return TurnResult(**stored) if isinstance(stored, dict) else None


def conversation_of(turn: Turn) -> ProjectConversation | None:
    """The conversation of a turn; None if it is gone."""
    query = select(ProjectConversation).where(ProjectConversation.thread_id == turn.subject_id)
    return db.session.scalars(query).one_or_none()


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise Invalid("Write a prompt: it must not be blank.", fields={"prompt": "Write a prompt."})
    if len(prompt) > MAX_PROMPT:
        raise Invalid(f"A prompt has at most {MAX_PROMPT:,} characters.", fields={"prompt": "Too long."})
    if "\0" in prompt:
        raise Invalid("The prompt has a NUL character. Remove it.", fields={"prompt": "It has NUL."})


def _same(thread_id: str, key: str) -> Turn | None:
    query = select(Turn).where(
        Turn.subject_id == thread_id, Turn.request["idempotency_key"].astext == key[:200]
    )
    return db.session.scalars(query.limit(1)).one_or_none()
