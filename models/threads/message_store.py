"""Where the messages of threads are held: the interface of a store, and the one of PostgreSQL."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Integer, Select, bindparam, delete, literal, select, true
from sqlalchemy.engine import Engine
from sqlalchemy.orm import aliased

from models.core.db import db
from models.threads.thread import Thread, ThreadMessage


class MessageStore(Protocol):
    """Holds the messages of threads. The thread's row, with its lock, its counter and its head, stays in PostgreSQL.

    Another store implements these three, keeps its own id of a thread in `Thread.storage_id`, and is chosen in
    `models.threads.tree`, the only caller, by what the thread says. It is called under the thread's row lock, and what it does
    must be undone, or be harmless, when the transaction rolls back.
    """

    def append(self, *messages: ThreadMessage) -> None:
        """Add messages whose `seq`, `parent_id` and `branch_id` are set, parents first."""

    def read_page(
        self, thread: Thread, leaf_id: str, *, after: int | None, limit: int | None
    ) -> Sequence[ThreadMessage]:
        """The message `leaf_id` and those above it up to the root, newest first, at most `limit`; or (`after`) those of them with
        a greater `seq` than it, oldest first. Without those that were removed."""

    def delete_all(self, thread: Thread) -> None:
        """Delete the messages of the thread; harmless if there are none."""


class PostgresMessages:
    """Messages in `thread_message`."""

    def append(self, *messages: ThreadMessage) -> None:
        """See `MessageStore`. Flushes."""
        db.session.add_all(messages)
        db.session.flush()

    def read_page(
        self, thread: Thread, leaf_id: str, *, after: int | None, limit: int | None
    ) -> Sequence[ThreadMessage]:
        """See `MessageStore`. Walks up from branch to branch, of which each is read by a range of `seq`, so that a page costs the same
        at any length of the thread."""
        query = _NEWEST_FIRST if after is None else _OLDEST_FIRST
        values = {"thread": thread.id, "leaf": leaf_id, "after": after or 0, "most": limit or _ALL}
        return db.session.scalars(query, values).all()

    def delete_all(self, thread: Thread) -> None:
        """See `MessageStore`."""
        db.session.execute(
            delete(ThreadMessage).where(ThreadMessage.thread_id == thread.id),
            execution_options={"synchronize_session": False},
        )


def stream_path(thread_id: str, leaf_id: str, size: int = 200) -> Iterator[Mapping[str, Any]]:
    """The columns of the messages from the first to `leaf_id`, in batches, each on its own connection that is returned before the batch is
    yielded. Needs the application context only when called."""
    return _batches(db.engine, {"thread": thread_id, "leaf": leaf_id, "most": size})


def _batches(engine: Engine, values: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    last = 0
    while True:
        with engine.connect() as connection:
            rows: Sequence[Any] = (
                connection.execute(_OLDEST_FIRST, {**values, "after": last}).mappings().all()
            )
        yield from rows
        if len(rows) < values["most"]:
            return
        last = rows[-1]["seq"]


def _page(*, newest_first: bool) -> Select[ThreadMessage]:
    """The statement of `read_page`. Its CTE has the branches that lead to the leaf, each with the `seq` of its last message on the way:
    those with messages newer than `after`, or as many as hold a page. Made once, because that takes longer than running it."""
    leaf, first, parent = (aliased(ThreadMessage) for _ in range(3))
    most, after = bindparam("most", type_=Integer), bindparam("after", type_=Integer)
    start = select(leaf.branch_id, leaf.seq.label("last_seq"), literal(1).label("depth")).where(
        leaf.thread_id == bindparam("thread"), leaf.id == bindparam("leaf")
    )
    stretch = start.cte("stretch", recursive=True)
    above = (
        select(parent.branch_id, parent.seq, stretch.c.depth + 1)
        .join_from(stretch, first, first.id == stretch.c.branch_id)
        .join(parent, parent.id == first.parent_id)
    )
    stretch = stretch.union_all(above.where(stretch.c.depth < most if newest_first else parent.seq > after))
    part = select(ThreadMessage).where(
        ThreadMessage.branch_id == stretch.c.branch_id,
        ThreadMessage.seq <= stretch.c.last_seq,
        ThreadMessage.removed_at.is_(None),
    )
    part = part if newest_first else part.where(ThreadMessage.seq > after)
    part = part.order_by(ThreadMessage.seq.desc() if newest_first else ThreadMessage.seq).limit(most)
    rows = part.lateral()
    message = aliased(ThreadMessage, rows)
    query = select(message).select_from(stretch.join(rows, true()))
    return query.order_by(message.seq.desc() if newest_first else message.seq).limit(most)


_ALL = 1_000_000
"""More messages than any thread has."""
_NEWEST_FIRST, _OLDEST_FIRST = _page(newest_first=True), _page(newest_first=False)
MESSAGES: MessageStore = PostgresMessages()
