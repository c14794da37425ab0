"""Giving back what a turn has cost that failed on our side: entries of the ledger with the reason, also for calls that are settled after its end."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select

from models.core.db import db, now
from models.gateway import GatewayCall
from models.ledger import Account, CreditEntry, CreditHold
from models.ledger.credit_operations import grant
from models.runs import AgentRun
from models.turns import Turn
from models.turns.engine import TurnHandle

REASON = "Returned: a turn of a conversation failed on our side"
LATER = (60, 300, 1_800, 7_200, 43_200)
"""Seconds after which it is looked again whether calls of the turn were settled: a hold lives for half a minute, an unreachable ledger for longer."""

MOST = 50
"""Operations that give back something of one turn."""


def operation_of_turn(turn_id: str, number: int = 0) -> str:
    """The id of the ledger's operation that gives back the cost of a turn; those of calls that are settled later are numbered from 1."""
    return f"returned-{turn_id}-{number}" if number else f"returned-{turn_id}"


def runs_of(turn: Turn) -> Sequence[str]:
    """The run of a turn, and those of the agents that it spawned."""
    if turn.run_id is None:
        return []
    return db.session.scalars(select(AgentRun.id).where(AgentRun.root_run_id == turn.run_id)).all()


def settled_credits(turn: Turn) -> int:
    """What the calls of a turn have cost, as the ledger has it: those in its runs that began before it ended."""
    query = select(func.coalesce(func.sum(GatewayCall.credits), 0)).where(
        GatewayCall.run_id.in_(runs_of(turn)),
        GatewayCall.account_id == turn.account_id,
        GatewayCall.state == "settled",
    )
    if turn.ended_at is not None:
        query = query.where(GatewayCall.started_at <= turn.ended_at)
    return int(db.session.scalar(query) or 0)


def open_calls(turn: Turn) -> Sequence[str]:
    """The calls of a turn that are held: their worker lives, or nobody has noticed yet that it died."""
    query = select(CreditHold.request_id).where(
        CreditHold.run_id.in_(runs_of(turn)), CreditHold.state == "live"
    )
    return db.session.scalars(query).all()


def return_charges(handle: TurnHandle) -> int:
    """`return_credits` of a turn that has ended, in a transaction of its own."""
    with handle.transaction():
        return return_credits(handle.id)


def return_credits(turn_id: str) -> int:
    """Give back what the calls of a turn have cost and was not given back yet, if it failed on our side (`return_later` was called for it); returns the credits.
    However often and at whatever time it is called, all of it is given back once. Locks the account, before all other locks; flushes."""
    turn = db.session.get(Turn, turn_id, populate_existing=True)
    if turn is None or turn.state != "failed":
        return 0
    own = turn.account_id == turn.user_id
    db.session.execute(
        select(func.credit_account_lock(turn.user_id if own else None, None if own else turn.account_id))
    )
    number, returned = _returned(turn)
    credits = settled_credits(turn) - returned
    if credits <= 0 or number >= MOST:
        return 0
    grant(
        Account(user_id=turn.user_id) if own else Account(org_id=turn.account_id),
        credits,
        "admin" if own else "organization",
        operation_id=operation_of_turn(turn.id, number),
        description=f"{REASON} ({turn.id}). {turn.error_message or ''}"[:400].rstrip(),
    )
    return credits


def return_later(turn_id: str, tries: int = 0) -> None:
    """Let what is settled from now on be given back too. Enqueues in the current transaction, that of the end."""
    from models.core import jobs

    if tries < len(LATER):
        at = now() + timedelta(seconds=LATER[tries])
        jobs.enqueue(jobs.return_late_charges, at=at, turn_id=turn_id, tries=tries)


def return_late(turn_id: str, tries: int) -> None:
    """Give back what was settled since, and look again later."""
    return_credits(turn_id)
    return_later(turn_id, tries + 1)


def _returned(turn: Turn) -> tuple[int, int]:
    """How many operations have given back something of a turn, and how many credits: also what an operator has revoked since."""
    known = [operation_of_turn(turn.id, number) for number in range(MOST)]
    query = select(func.count(), func.coalesce(func.sum(CreditEntry.amount), 0)).where(
        CreditEntry.operation_id.in_(known),
        CreditEntry.account_id == turn.account_id,
        CreditEntry.kind == "grant",
    )
    count, credits = db.session.execute(query).one()
    return int(count), int(credits)
