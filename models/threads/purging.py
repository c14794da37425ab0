"""Deletion of threads for good: some time after they were deleted, and with the account of their owner."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import db
from models.index import delete_scope
from models.threads.message_store import MESSAGES
from models.threads.thread import Thread
from models.turns.turn import Turn

BATCH = 20
"""Threads that one transaction purges."""


def purge_deleted(before: datetime) -> int:
    """Delete threads that were deleted before this time, with their messages, documents, turns and links; returns how many, 0 when there are no more.
    Commit after each batch. Skips threads locked by another run; flushes."""
    query = select(Thread).where(Thread.deleted_at < before).order_by(Thread.deleted_at).limit(BATCH)
    return _purge(db.session.scalars(query.with_for_update(skip_locked=True)).all())


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    """Nobody but the person reads their threads, those that an organisation pays for included."""
    while _purge(db.session.scalars(select(Thread).where(Thread.user_id == user.id).limit(BATCH)).all()):
        pass


def _purge(threads: Sequence[Thread]) -> int:
    for thread in threads:
        MESSAGES.delete_all(thread)
        delete_scope("thread", thread.id)
    ids = [thread.id for thread in threads]
    for table, column in ((Turn, Turn.subject_id), (Thread, Thread.id)):
        db.session.execute(
            delete(table).where(column.in_(ids)), execution_options={"synchronize_session": False}
        )
    return len(ids)
