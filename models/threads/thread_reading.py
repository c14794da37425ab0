"""What a page shows of a thread beside its messages: the turns that are not over, what they have written so far, and what was charged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select

from models.assistants.assistant import Assistant
from models.core.db import db
from models.gateway.gateway_call import GatewayCall
from models.threads.thread import Thread, ThreadMessage
from models.threads.tree import newest_below, path
from models.turns import ACTIVE, Turn, TurnEvent

EXACT = 2_000
"""Messages of a thread of which the page sums the exact charges."""
MOST_ASSISTANTS = 200
MOST_TURNS = 100
"""Active and queued turns of a thread that a page looks at."""


@dataclass(frozen=True)
class ShownBranch:
    """A stretch of a branch, oldest message first. `turn` is the active turn that goes on where it ends, `queued` those that wait for it, `elsewhere` an
    active turn of another branch; `last_turn` is the one that was asked for last, if it belongs here. `earlier`: there are messages above. `tip_id` is the last
    message of the branch."""

    messages: Sequence[ThreadMessage]
    tip_id: str | None
    earlier: bool
    turn: Turn | None
    queued: Sequence[Turn]
    elsewhere: Turn | None
    last_turn: Turn | None


def shown_branch(
    thread: Thread, branch: str | None = None, *, before: str | None = None, limit: int
) -> ShownBranch:
    """The branch that ends with the message `branch`; by default the one in which a turn is active, else the one that was chosen last. `before` gives
    those above this message. Raises NotFound for a message of another thread."""
    open_turns = open_turns_of(thread)
    active = [turn for turn in open_turns if turn.state in ACTIVE]
    tips = {turn.id: tip_of(thread, turn) for turn in active}
    tip_id = newest_below(thread, branch) if branch else None
    turn = next((each for each in reversed(active) if tip_id in (None, tips[each.id])), None)
    if turn is not None:
        tip_id = tips[turn.id]
    tip_id = tip_id or thread.head_id
    found = path(thread, tip_id, before=before, limit=limit + 1)
    page = list(found[:limit])[::-1]
    return ShownBranch(
        page,
        tip_id,
        len(found) > limit,
        turn,
        [each for each in open_turns if turn and each.state == "queued" and each.branch_id == turn.branch_id],
        next((each for each in active if each is not turn), None),
        _newest_turn(thread, page) if turn is None else None,
    )


def _newest_turn(thread: Thread, page: Sequence[ThreadMessage]) -> Turn | None:
    """The turn that was asked for last, if it wrote or was to write what follows one of these messages."""
    query = select(Turn).where(Turn.subject_id == thread.id, Turn.state != "queued")
    turn = db.session.scalar(query.order_by(Turn.created_at.desc(), Turn.id.desc()).limit(1))
    if turn is None:
        return None
    ended_here = bool(page) and page[-1].turn_id == turn.id
    wrote = select(ThreadMessage.id).where(
        ThreadMessage.turn_id == turn.id, ThreadMessage.role == "assistant"
    )
    if ended_here:
        return turn
    answers = turn.request.get("parent_id") in [message.id for message in page]
    return turn if answers and db.session.scalar(wrote.limit(1)) is None else None


def last_variables(thread: Thread, assistant_id: str) -> Mapping[str, Any]:
    """The values of variables that the thread's newest turn had, if this assistant answered it."""
    query = select(Turn.request).where(Turn.subject_id == thread.id)
    request = db.session.scalar(query.order_by(Turn.created_at.desc(), Turn.id.desc()).limit(1)) or {}
    found = request.get("variables") if request.get("assistant_id") == assistant_id else None
    return found if isinstance(found, Mapping) else {}


def open_turns_of(thread: Thread) -> Sequence[Turn]:
    """The turns that are active or wait, oldest first."""
    query = select(Turn).where(Turn.subject_id == thread.id, Turn.state.in_((*ACTIVE, "queued")))
    return db.session.scalars(query.order_by(Turn.created_at, Turn.id).limit(MOST_TURNS)).all()


def turn_after(turn: Turn) -> Turn | None:
    """The turn that goes on in the branch of one that ended: the active one, else the one that has waited longest."""
    query = select(Turn).where(
        Turn.branch_id == turn.branch_id, Turn.id != turn.id, Turn.state.in_((*ACTIVE, "queued"))
    )
    return db.session.scalar(query.order_by(Turn.state == "queued", Turn.created_at, Turn.id).limit(1))


def tip_of(thread: Thread, turn: Turn) -> str | None:
    """The last message of the branch of a turn so far: what it wrote, or what it answers."""
    query = (
        select(ThreadMessage.id)
        .where(ThreadMessage.turn_id == turn.id, ThreadMessage.thread_id == thread.id)
        .order_by(ThreadMessage.seq.desc())
    )
    parent: str | None = turn.request.get("parent_id")
    return db.session.scalar(query.limit(1)) or parent


def writing_of(turn: Turn) -> tuple[str | None, str]:
    """The message that an active turn is writing, and its text so far, as far as other processes know it; None between two messages."""
    of_turn = TurnEvent.turn_id == turn.id
    begun = (
        select(TurnEvent.seq, TurnEvent.data["message_id"].astext)
        .where(of_turn, TurnEvent.type == "message.started")
        .order_by(TurnEvent.seq.desc())
    )
    row = db.session.execute(begun.limit(1)).one_or_none()
    if row is None:
        return None, ""
    seq, message_id = row
    completed = select(TurnEvent.seq).where(
        of_turn, TurnEvent.type == "message.completed", TurnEvent.seq > seq
    )
    if db.session.scalar(completed.limit(1)):
        return None, ""
    pieces = select(TurnEvent.data["text"].astext).where(
        of_turn, TurnEvent.type == "text.delta", TurnEvent.seq > seq
    )
    return message_id, "".join(db.session.scalars(pieces.order_by(TurnEvent.seq)))


def calls_of(messages: Iterable[ThreadMessage]) -> dict[str, GatewayCall]:
    """The calls that wrote messages, by the messages' ids."""
    billed = {each.message_id: each.id for each in messages if each.message_id}
    if not billed:
        return {}
    query = select(GatewayCall).where(GatewayCall.message_id.in_(billed))
    return {billed[str(call.message_id)]: call for call in db.session.scalars(query)}


def charged(thread: Thread) -> Decimal:
    """The credits that the messages of all branches cost: exactly, in long threads rounded for each message."""
    total: Any = select(func.coalesce(func.sum(ThreadMessage.credits), 0))
    if exact := thread.last_seq <= EXACT:
        total = select(func.coalesce(func.sum(GatewayCall.micro_credits), 0)).join(
            ThreadMessage, ThreadMessage.message_id == GatewayCall.message_id
        )
    found = Decimal(db.session.scalar(total.where(ThreadMessage.thread_id == thread.id)) or 0)
    return found / 1_000_000 if exact else found


def usable_assistants(account_id: str) -> list[tuple[str, str]]:
    """The assistants of an account that are not deleted, as id and name, by name."""
    query = select(Assistant.id, Assistant.name).where(
        Assistant.account_id == account_id, Assistant.deleted_at.is_(None)
    )
    return [
        (row[0], row[1]) for row in db.session.execute(query.order_by(Assistant.name).limit(MOST_ASSISTANTS))
    ]
