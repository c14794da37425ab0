"""Budgets of conversations: a response reserves of its conversation's before its call, which runs in an envelope of that."""

from models.accounts.sessions import Session
from models.core.db import db
from models.core.errors import DomainError
from models.core.settings import Settings
from models.ledger.payers import payer_hint
from models.runs import recording
from models.threads import turn_budgets
from models.threads.thread import Thread
from models.turns import Turn

AGENT = "response"
"""What runs of responses are called."""
AT_ONCE = 10_000
"""What a response reserves, at most, unless its call needs more: it cannot be continued when it outgrows that."""


class ConversationSpent(DomainError):
    """The budget of the conversation leaves nothing, or too little."""

    status = 402
    code = turn_budgets.CODE

    def __init__(self, budget: int | None, *, little: bool = False) -> None:
        state = "leaves too little for this response" if little else "is used up"
        super().__init__(f"The budget of this conversation, {budget or 0:,} credits, {state}. Raise it.")


def reserve_response(
    turn: Turn, thread: Thread, org: str | None, repo: str | None, settings: Settings, wanted: int = AT_ONCE
) -> bool:
    """Let the response have `wanted` credits of its conversation's budget, or as many as that leaves, and a run with an envelope of them, paid as its
    headers `org` and `repo` say. Returns whether it has more than before: False without a budget. Called within `TurnHandle.step`; locks the conversation. Raises
    ConversationSpent, and as `recording.start` does."""
    had = turn.reserved
    if turn_budgets.reserve(turn, thread, None, wanted) is not None:
        raise ConversationSpent(thread.budget)
    if turn.reserved and turn.run_id is None:
        turn.run_id = _start_run(turn, org, repo, settings)
    return turn.reserved > had


def _start_run(turn: Turn, org: str | None, repo: str | None, settings: Settings) -> str:
    session = db.session.get(Session, turn.key_id)
    return recording.start(
        turn.user_id,
        AGENT,
        [],
        settings,
        org_id=session.org_id if session else None,
        team_id=session.team_id if session else None,
        hint=payer_hint(org, repo),
        key_id=turn.key_id,
        budget=turn.reserved,
    )
