"""Budgets of conversations: a response reserves of its conversation's before its call, which runs in an envelope of that."""

from models.core.errors import DomainError
from models.core.settings import Settings
from models.ledger.payers import payer_hint
from models.threads import turn_budgets
from models.threads.thread import Thread
from models.threads.turn_run import start_run
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
        turn.run_id = start_run(turn, AGENT, payer_hint(org, repo), settings)
    return turn.reserved > had
