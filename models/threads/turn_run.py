"""The run of a thread's turn: it begins with the first round, has a step for each, and ends with the turn."""

from contextlib import suppress
from decimal import Decimal

from sqlalchemy import select, update

from models.accounts.sessions import Session
from models.accounts.write_limits import WriteLimitExceeded
from models.core.db import db, now
from models.core.settings import Settings
from models.ledger import run_budgets
from models.ledger.payers import PayerHint
from models.runs import AgentRun, recording
from models.runs.recording import Ending, StepReport
from models.threads.thread import ThreadMessage
from models.turns import Turn

_STATUS: dict[str, Ending] = {"completed": "completed", "cancelled": "cancelled"}


def start_run(turn: Turn, agent_id: str, hint: PayerHint, settings: Settings) -> str:
    """Start the run of a turn, paid as `hint` says, with an envelope of what the turn has reserved. Returns its id. Raises as `recording.start` does."""
    session = db.session.get(Session, turn.key_id)
    return recording.start(
        turn.user_id,
        agent_id,
        [],
        settings,
        org_id=session.org_id if session else None,
        team_id=session.team_id if session else None,
        hint=hint,
        key_id=turn.key_id,
        budget=max(turn.reserved - (turn.credits or 0), 0) if turn.reserved else None,
    )


def finish_run(turn: Turn, state: str, message: str | None, settings: Settings) -> None:
    """Finish the run of a turn that ends, if it has one. One whose account has recorded too much, or whose key has gone, ends without its
    steps."""
    if turn.run_id is None:
        return
    session = db.session.get(Session, turn.key_id)
    status, found = _STATUS.get(state, "failed"), False
    with suppress(WriteLimitExceeded), db.session.begin_nested():
        found = recording.finish(
            turn.user_id,
            turn.run_id,
            status=status,
            total_steps=turn.rounds,
            direct_credits=Decimal(turn.credits or 0),
            total_credits=Decimal(turn.credits or 0),
            settings=settings,
            org_id=session.org_id if session else None,
            error_message=message,
            steps=_steps(turn),
        )
    if not found:
        ended = update(AgentRun).where(AgentRun.id == turn.run_id)
        db.session.execute(ended.values(status=status, completed_at=now()))
        run_budgets.close_run_budget(turn.run_id)


def _steps(turn: Turn) -> list[StepReport]:
    """The rounds of the turn as steps of its run."""
    query = (
        select(ThreadMessage.message_id, ThreadMessage.credits)
        .where(
            ThreadMessage.turn_id == turn.id,
            ThreadMessage.role == "assistant",
            ThreadMessage.item.is_(None),  # of a response each item is a message
        )
        .order_by(ThreadMessage.seq)
    )
    return [
        StepReport(number, Decimal(credits or 0), message_id=message_id)
        for number, (message_id, credits) in enumerate(db.session.execute(query), 1)
    ]
