"""Deletion of threads for good: some time after they were deleted, and with the account of their owner."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import db, extension
from models.index import delete_scope
from models.threads import turn_budgets
from models.threads.message_store import MESSAGES
from models.threads.thread import Thread
from models.threads.turn_run import finish_run
from models.turns.turn import ENDED, Turn
from models.turns.turn_stops import stop_turns

BATCH = 20
"""Threads that one transaction purges."""


def purge_deleted(before: datetime) -> int:
    """Delete threads that were deleted before this time, with their messages, documents, turns and links; returns how many, 0 when there are no more.
    Those whose turns have not ended are left to a later time: the turns are stopped. Commit after each batch. Skips threads locked by another run; flushes."""
    due = Thread.deleted_at < before
    stop_turns(Turn.subject_id.in_(select(Thread.id).where(due)))
    open = select(Turn.id).where(Turn.subject_id == Thread.id, Turn.state.not_in(ENDED))
    query = select(Thread).where(due, ~open.exists()).order_by(Thread.deleted_at).limit(BATCH)
    return purge_threads(db.session.scalars(query.with_for_update(skip_locked=True)).all())


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    """Nobody but the person reads their threads, those that an organisation pays for included."""
    _end_turns(user)
    while purge_threads(
        db.session.scalars(select(Thread).where(Thread.user_id == user.id).limit(BATCH)).all()
    ):
        pass
    db.session.execute(
        delete(Turn).where(Turn.user_id == user.id), execution_options={"synchronize_session": False}
    )


def _end_turns(user: User) -> None:
    """End the turns that were not stopped when the account was deleted, for the budgets of the organisations that pay for them: at once, because
    they are deleted with this transaction. Their workers then end their calls, which are charged."""
    query = select(Turn).where(Turn.user_id == user.id, Turn.state.not_in(ENDED))
    for turn in db.session.scalars(query.order_by(Turn.id).with_for_update()).all():
        thread_id = turn.request.get("thread_id") or turn.subject_id
        turn_budgets.settle(turn, db.session.get(Thread, thread_id), turn.request.get("assistant_id"))
        finish_run(turn, "cancelled", None, extension("settings"))


def purge_threads(threads: Sequence[Thread]) -> int:
    """Delete these threads for good, with their messages, documents and turns; returns how many. Flushes."""
    for thread in threads:
        MESSAGES.delete_all(thread)
        delete_scope("thread", thread.id)
    ids = [thread.id for thread in threads]
    for table, column in ((Turn, Turn.subject_id), (Thread, Thread.id)):
        db.session.execute(
            delete(table).where(column.in_(ids)), execution_options={"synchronize_session": False}
        )
    return len(ids)
