"""Giving back what a turn has cost that failed on our side: one entry of the ledger, with the reason."""

from models.core.db import db
from models.ledger import Account
from models.ledger.credit_operations import grant
from models.turns import Turn
from models.turns.engine import TurnHandle

REASON = "Returned: a turn of a conversation failed on our side"


def operation_of_turn(turn_id: str) -> str:
    """The id of the ledger's operation that gives back the cost of a turn."""
    return f"returned-{turn_id}"


def reverse_charges(handle: TurnHandle, why: str) -> int:
    """Give back what the turn has spent, once however often it is called; returns the credits. In a transaction of its own: the account's
    lock comes before all others. `why` is added to the reason."""
    with handle.transaction():
        turn = db.session.get(Turn, handle.id)
        credits = (turn.credits or 0) if turn is not None else 0
        if turn is None or credits <= 0:
            return 0
        own = turn.account_id == turn.user_id
        account = Account(user_id=turn.user_id) if own else Account(org_id=turn.account_id)
        given = grant(
            account,
            credits,
            "admin" if own else "organization",
            operation_id=operation_of_turn(turn.id),
            description=f"{REASON} ({turn.id}). {why}"[:400],
        )
        return credits if given.created else 0
