"""Where the messages of threads are held: the interface of a store, and the one of PostgreSQL."""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import delete, literal, select

from models.core.db import db
from models.threads.thread import Thread, ThreadMessage


class MessageStore(Protocol):
    """Holds the messages of threads. The thread's row, with its lock, its counter and its head, stays in PostgreSQL.

    Another store implements these three, keeps its own id of a thread in `Thread.storage_id`, and is chosen in
    `models.threads.tree`, the only caller, by what the thread says. It is called under the thread's row lock, and what it does
    must be undone, or be harmless, when the transaction rolls back.
    """

    def append(self, message: ThreadMessage) -> None:
        """Add a message whose `seq`, `parent_id` and `branch_id` are set."""

    def read_page(
        self, thread: Thread, leaf_id: str, *, after: int | None, limit: int | None
    ) -> Sequence[ThreadMessage]:
        """The message `leaf_id` and those above it up to the root, newest first, at most `limit`; or (`after`) those of them with
        a greater `seq` than it, oldest first."""

    def delete_all(self, thread: Thread) -> None:
        """Delete the messages of the thread; harmless if there are none."""


class PostgresMessages:
    """Messages in `thread_message`."""

    def append(self, message: ThreadMessage) -> None:
        """See `MessageStore`. Flushes."""
        db.session.add(message)
        db.session.flush()

    def read_page(
        self, thread: Thread, leaf_id: str, *, after: int | None, limit: int | None
    ) -> Sequence[ThreadMessage]:
        """See `MessageStore`. Walks up message by message, so that a page costs the same at any length of the thread."""
        first = select(ThreadMessage.id, ThreadMessage.parent_id, literal(1).label("depth"))
        walk = first.where(ThreadMessage.thread_id == thread.id, ThreadMessage.id == leaf_id).cte(
            "walk", recursive=True
        )
        above = select(ThreadMessage.id, ThreadMessage.parent_id, walk.c.depth + 1).where(
            ThreadMessage.thread_id == thread.id, ThreadMessage.id == walk.c.parent_id
        )
        query = select(ThreadMessage)
        if after is None:
            above = above if limit is None else above.where(walk.c.depth < limit)
            query = query.order_by(ThreadMessage.seq.desc())
        else:
            above = above.where(ThreadMessage.seq > after)
            query = query.where(ThreadMessage.seq > after).order_by(ThreadMessage.seq).limit(limit)
        walk = walk.union_all(above)
        return db.session.scalars(query.join(walk, walk.c.id == ThreadMessage.id)).all()

    def delete_all(self, thread: Thread) -> None:
        """See `MessageStore`."""
        db.session.execute(
            delete(ThreadMessage).where(ThreadMessage.thread_id == thread.id),
            execution_options={"synchronize_session": False},
        )


MESSAGES: MessageStore = PostgresMessages()
