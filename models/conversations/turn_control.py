"""Stopping and resuming the turns of a conversation. Each flushes; the caller commits, then runs the turn that it returns."""

from typing import NamedTuple

from sqlalchemy import select

from models.accounts.key_format import PresentedKey
from models.conversations.conversation_access import QUEUED, FoundConversation
from models.conversations.loop_guard import CODE as LOOP_GUARD
from models.core.db import db
from models.core.errors import Conflict
from models.threads.turn_resuming import resume_turn
from models.turns import ACTIVE, Turn
from models.turns.turn_verbs import TurnNotActive, request_stop, take_to_end


class StoppedTurn(NamedTuple):
    """The turn that is to end, and whether it is leased to the caller's process, which runs it to its end."""

    turn: Turn
    leased: bool


def stop_conversation(found: FoundConversation, owner: str) -> StoppedTurn | None:
    """Stop the active turn, and drop the prompts that wait: what was done is kept, and charged. None without an active turn. Idempotent.
    Locks the turns."""
    query = select(Turn).where(Turn.subject_id == found.thread.id, Turn.state.in_(QUEUED))
    turns = db.session.scalars(
        query.order_by(Turn.id).with_for_update().execution_options(populate_existing=True)
    ).all()
    stopped = None
    for turn in turns:
        if turn.state == "queued":
            take_to_end(turn, owner)
        elif turn.state in ACTIVE:
            leased = not request_stop(turn) and take_to_end(turn, owner)
            stopped = StoppedTurn(turn, leased)
    return stopped


def resume_conversation(
    found: FoundConversation, owner: str, *, budget: int | None = None, key: PresentedKey | None = None
) -> Turn:
    """Let a turn go on that a budget has paused, with a new `budget` of its own if one is given. Locks the turn. Raises TurnNotActive (409)
    without one, Conflict (`question_open`) for one that waits for an answer, Invalid for a budget that it has spent."""
    query = select(Turn).where(Turn.subject_id == found.thread.id, Turn.state == "paused").limit(1)
    turn = db.session.scalars(query.with_for_update().execution_options(populate_existing=True)).one_or_none()
    if turn is None:
        raise TurnNotActive("No turn of this conversation is paused.")
    if turn.error_code == LOOP_GUARD:
        raise Conflict("The agent waits for an answer. Answer its question.", code="question_open")
    resume_turn(turn, owner, budget=budget, key=key)
    return turn
