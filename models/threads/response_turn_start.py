"""Begins turns of responses, and reads, cancels and deletes them."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select

from models.accounts.key_format import PresentedKey
from models.core.db import db
from models.core.errors import Conflict
from models.gateway.budget_errors import RUN_BUDGET
from models.gateway.chat_format import BadCall
from models.gateway.formats.responses_parsing import parse_responses
from models.gateway.lenient_json import write
from models.gateway.response_state.response_items import REFERENCE, kept_items
from models.ledger import Account, lock_account
from models.threads import conversation_items, tree
from models.threads.response_budget import ConversationSpent
from models.threads.response_request import ResponseRequest, stored_headers
from models.threads.response_turn import ENDS, KIND
from models.threads.saved_prompt import with_prompt
from models.threads.thread import Thread
from models.turns import Turn, TurnEvent, is_over
from models.turns.turn_verbs import NewTurn, TurnInProgress, active_turn, begin_turn

KEYS = ("background", "conversation", "prompt")
"""Keys of a request's body that make it a turn."""
BATCH = 500


class ConversationLocked(Conflict):
    """Another response of the conversation is being written."""

    code = "conversation_locked"
    retry_after = 2

    def __init__(self) -> None:
        super().__init__(
            "Another response is being written in this conversation. Try again when it has ended."
        )


@dataclass(frozen=True)
class ResponseCall:
    """A request for a response. `own` is the account of the key, whose conversations and assistants it uses; `payer` pays."""

    request_id: str
    user_id: str
    own: Account
    payer: Account
    key: PresentedKey = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    address: str | None
    keeps: bool
    """Whether this server keeps responses."""


def begin_response(call: ResponseCall, owner: str) -> Turn:
    """Begin the turn of a response, leased to the worker `owner`, which runs it after the commit. Locks the conversation; flushes.

    Raises BadCall, NotFound, Forbidden, ConversationSpent, Conflict (`thread_full`), and ConversationLocked while another response of the conversation is written."""
    body = dict(call.body)
    background, conversation, prompt = (body.pop(key, None) for key in KEYS)
    _check_background(background, body, keeps=call.keeps)
    conversation_items.check_storable_request(body)
    facts: dict[str, Any] = {"background": background is True, "created_at": int(time.time())}
    if prompt:
        body, facts["prompt"] = with_prompt(call.user_id, call.own, body, prompt)
    thread = _conversation(call, conversation, body) if conversation else None
    given: list[dict[str, Any]] = []
    if thread is not None:
        facts["conversation"] = {"id": conversation_items.conversation_id(thread)}
        given = _given(body)
    probe = {**body, "input": body.get("input") or "-"} if thread is not None and thread.head_id else body
    parse_responses(probe, len(write(body)))
    wanted = ResponseRequest(
        call.request_id,
        body,
        facts,
        stored_headers(call.headers, f"resp_{call.request_id}"),
        call.address,
        thread.id if thread is not None else None,
        given,
    )
    lock_account(call.payer)  # makes its row on first use
    branch_id = _free_branch(thread) if thread is not None else wanted.response_id
    new = NewTurn(KIND, wanted.response_id, branch_id, call.payer.id, call.user_id, call.key, asdict(wanted))
    try:
        return begin_turn(new, owner=owner)
    except TurnInProgress:
        raise ConversationLocked from None


def _check_background(background: Any, body: Mapping[str, Any], *, keeps: bool) -> None:
    if background is not None and not isinstance(background, bool):
        raise BadCall("'background' must be true or false.", param="background")
    if background and (body.get("store") is False or not keeps):
        raise BadCall("A response in the background is kept: 'store' must not be false.", param="background")


def _conversation(call: ResponseCall, given: Any, body: Mapping[str, Any]) -> Thread:
    """The conversation, its row locked."""
    id = given.get("id") if isinstance(given, dict) else given
    if not isinstance(id, str):
        raise BadCall(
            "'conversation' must be the id of a conversation, or an object with it.", param="conversation"
        )
    if body.get("previous_response_id"):
        raise BadCall(
            "'conversation' and 'previous_response_id' exclude each other. Send one of them.",
            param="previous_response_id",
        )
    thread = tree.lock(conversation_items.own_conversation(call.user_id, call.own.id, id))
    tree.check_room(thread)
    if thread.budget is not None:
        for name in ("x-stoa-run-id", RUN_BUDGET):
            if name in call.headers:
                problem = (
                    f"A response of a conversation with a budget has a run of its own. Leave out '{name}'."
                )
                raise BadCall(problem, param="conversation")
        if thread.spent + thread.reserved >= thread.budget:
            raise ConversationSpent(thread.budget)
    return thread


def _given(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items of the request that are added to the conversation: references are to items that are there."""
    given = body.get("input") or []
    if isinstance(given, list):
        given = [item for item in given if not (isinstance(item, dict) and item.get("type") == REFERENCE)]
    return conversation_items.checked_items(given, limit=None, name="input")


def _free_branch(thread: Thread) -> str:
    """The branch that the response continues. Raises ConversationLocked while a turn of it is active."""
    shown = tree.message_of(thread, thread.head_id).branch_id if thread.head_id else None
    if active_turn(thread.id) is not None or (shown and active_turn(shown) is not None):
        raise ConversationLocked
    return shown or thread.id


# -- reading -------------------------------------------------------------------------------------------------


def turn_of_response(user_id: str, account_id: str, id: str, *, lock: bool = False) -> Turn | None:
    """The turn of a response in the background that this account of the person paid for."""
    query = select(Turn).where(
        Turn.subject_id == id, Turn.kind == KIND, Turn.user_id == user_id, Turn.account_id == account_id
    )
    if lock:
        query = query.with_for_update()
    turn = None if "\x00" in id else db.session.scalars(query).one_or_none()
    return (
        turn if turn is not None and ResponseRequest.read({"body": {}, **turn.request}).background else None
    )


def response_of(turn: Turn) -> dict[str, Any]:
    """The response as it is now."""
    wanted = ResponseRequest.read(turn.request)
    if is_over(turn):
        query = select(TurnEvent.data).where(TurnEvent.turn_id == turn.id, TurnEvent.type.in_(ENDS))
        ended = db.session.scalars(query.order_by(TurnEvent.seq.desc()).limit(1)).one_or_none()
        if ended is not None:
            found: dict[str, Any] = ended["response"]
            return found
        told = {"code": "server_error", "message": turn.error_message or "The response failed."}
        return wanted.head().response("failed", [], error=told)
    return wanted.head().response("queued" if turn.state == "queued" else "in_progress", [])


def queued_response(turn: Turn) -> dict[str, Any]:
    """The response as it is when it is asked for."""
    return ResponseRequest.read(turn.request).head().response("queued", [])


def input_of(turn: Turn) -> list[dict[str, Any]]:
    """The items that the request of a response had."""
    return kept_items(turn.request["body"].get("input"), turn.subject_id)


def delete_response_turn(turn: Turn) -> None:
    """Delete the turn with its events. Flushes. Raises Conflict while it is not over."""
    if not is_over(turn):
        raise Conflict("The response is not complete. Cancel it first.", code="response_in_progress")
    db.session.delete(turn)
    db.session.flush()


def prune_response_turns(now: datetime, days: int) -> int:
    """Delete turns of responses that ended `days` days ago, at most 500. Returns how many."""
    old = (
        select(Turn.id)
        .where(Turn.kind == KIND, Turn.ended_at < now - timedelta(days=days))
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    return len(db.session.scalars(delete(Turn).where(Turn.id.in_(old)).returning(Turn.id)).all())
