"""Ends runs of action items that failed, those that nothing drives any more too, and gives back what the ones cost that failed on our side."""

from collections.abc import Sequence

from sqlalchemy import select

from models.core.db import db, now
from models.core.errors import Conflict, NotFound
from models.insights.action_item import ActionItem
from models.insights.item_run import ACTIVE_RUNS, ActionItemRun
from models.insights.item_run_reading import locked_run
from models.ledger import Account
from models.ledger.credit_operations import grant
from models.turns import ENDED, Turn
from models.turns.turn_stops import stop_turns

LEFT_BEHIND = "The server lost this run. Run it again."
REASON = "Returned: a run of an action item failed on our side"
MAX_OWED = 100


def end_failed(item: ActionItem, run: ActionItemRun, code: str, message: str, *, ours: bool = False) -> None:
    """Let a run, locked as its item is, end as failed; the item is pending again. `ours`: on our side, so that what it cost is to be given back.
    Flushes."""
    moment = now()
    run.status, run.error_code, run.error = "failed", code, message[:2_000] or "It failed."
    run.completed_at = run.updated_at = moment
    run.ours = ours
    if item.status == "running":
        item.status, item.updated_at = "pending", moment
    db.session.flush()


def fail_left_runs() -> int:
    """End the runs whose turn is gone or ended without them, and what their agents still do; how many. Idempotent, flushes."""
    left = (
        select(ActionItemRun.id)
        .outerjoin(Turn, Turn.id == ActionItemRun.turn_id)
        .where(ActionItemRun.status.in_(ACTIVE_RUNS), (Turn.id.is_(None)) | (Turn.state.in_(ENDED)))
    )
    ids = db.session.scalars(left.order_by(ActionItemRun.id).limit(MAX_OWED)).all()
    for id in ids:
        found = db.session.get(ActionItemRun, id, populate_existing=True)
        if found is not None:
            # before the rows that their own steps lock afterwards
            stop_turns(Turn.id.in_(_turn_ids(found)))
        locked = locked_run(id)
        if locked is not None and locked[1].active:
            end_failed(*locked, "internal_error", LEFT_BEHIND, ours=True)
    db.session.flush()
    return len(ids)


def owed_runs() -> Sequence[str]:
    """The ids of runs that failed on our side, and whose credits are not given back yet, the oldest first."""
    owed = select(ActionItemRun.id).where(ActionItemRun.ours, ActionItemRun.returned.is_(None))
    return db.session.scalars(owed.order_by(ActionItemRun.completed_at).limit(MAX_OWED)).all()


def return_charges(run_id: str) -> int | None:
    """Give back what a run has cost that failed on our side, without turns that failed on our side themselves, whose own entries do: one entry of the ledger, once however often
    it is called. Returns the credits; None while an agent of it still works, or if nothing is owed. Call it at the begin of a transaction:
    the account's lock comes before all others. Flushes."""
    run = db.session.get(ActionItemRun, run_id)
    if run is None or not run.ours or run.returned is not None:
        return None
    turns = db.session.scalars(select(Turn).where(Turn.id.in_(_turn_ids(run)))).all()
    if any(turn.state not in ENDED for turn in turns):
        return None
    credits = sum(turn.credits or 0 for turn in turns if not _returns_itself(turn))
    given = _give(turns[0], run, credits) if credits > 0 else 0
    locked = locked_run(run_id)
    if locked is not None and locked[1].returned is None:
        locked[1].credits = sum(turn.credits or 0 for turn in turns)
        locked[1].returned, locked[1].updated_at = given, now()
    db.session.flush()
    return given


def _give(turn: Turn, run: ActionItemRun, credits: int) -> int:
    """The credits that were given back; 0 if the account is gone."""
    own = turn.account_id == turn.user_id
    account = Account(user_id=turn.user_id) if own else Account(org_id=turn.account_id)
    try:
        with db.session.begin_nested():
            grant(
                account,
                credits,
                "admin" if own else "organization",
                operation_id=f"returned-run-{run.id}",
                description=f"{REASON} ({run.id}). {run.error or ''}"[:400],
            )
    except (NotFound, Conflict):
        return 0
    return credits


def _returns_itself(turn: Turn) -> bool:
    """Whether the conversation may give back what a turn has cost, at once or once its calls are settled (`turn_reversal`). Of a failed turn
    nothing is given back here, so nothing ever is twice."""
    return turn.state == "failed"


def _turn_ids(run: ActionItemRun) -> list[str]:
    return [each["turn_id"] for each in run.attempts if each.get("turn_id")]
