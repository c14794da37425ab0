"""Connections for the few statements of every model call: prepared statements straight over libpq.

psycopg's cursor takes ten times what libpq itself does for a statement of one row, since each execution turns the query
and its parameters over again, and SQLAlchemy's pool as much as libpq. Here a query is written in PostgreSQL's own terms
(`$1`) and named once per connection, and the connection used last is used next, so that a quiet server keeps one warm.
"""

import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg import dialect

Parameter = str | int | bool | datetime | list[str] | None

MOST_NAMED = 100
"""Statements that a connection keeps prepared: each takes memory of the server's."""

_OF_THE_CONNECTION = (
    psycopg.errors.ReadOnlySqlTransaction,  # another server writes by now
    psycopg.errors.FeatureNotSupported,  # a plan of before a migration or a restore
    psycopg.errors.InternalError_,  # the same for functions
)
"""What a new connection may not hear: this one is not used again, nor are its siblings."""

_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class PoolTimeout(psycopg.OperationalError):
    """The wait for a connection was longer than the patience."""


class FairSemaphore:
    """`count` may be inside at once. A turn that ends is handed to whoever has waited longest, so that nobody is
    overtaken."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._guard = threading.Lock()

    @property
    def inside(self) -> int:
        """How many are inside."""
        return self._count - self._free

    @contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Wait for a turn, at most so long. Raises PoolTimeout."""
        self.enter(seconds)
        try:
            yield
        finally:
            self.leave()

    def enter(self, seconds: float) -> None:
        """Wait for a turn, at most so long; `leave` ends it. Raises PoolTimeout."""
        with self._guard:
            if self._free:
                self._free -= 1
                return
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        came = False
        try:
            came = called.acquire(timeout=max(seconds, 0))
        finally:
            if not came:
                self._give_up(called)
        if not came:
            raise PoolTimeout

    def _give_up(self, called: threading.Lock) -> None:
        with self._guard:
            if called in self._waiting:
                self._waiting.remove(called)
                return
        # the turn came in the same moment, and goes on to the next
        self.leave()

    def leave(self) -> None:
        """The turn is over: it goes to whoever has waited longest."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class Pool:
    """At most `size` connections of this process, opened when they are wanted; each statement is a transaction of its
    own. Safe for threads and greenlets. What died is dropped and not tried again: whoever may repeat a statement does."""

    def __init__(self, url: str, size: int) -> None:
        address: dict[str, Any] = dialect().create_connect_args(make_url(url))[1]  # type: ignore[no-untyped-call]
        self._options = address | {
            "options": "-c timezone=UTC -c lock_timeout=10000 -c statement_timeout=30000"
            " -c max_parallel_workers_per_gather=0",
            "connect_timeout": 5,
        }
        self._turns = FairSemaphore(size)
        self._free: list[_PooledConnection] = []

    @property
    def in_use(self) -> int:
        """How many connections have a statement under way."""
        return self._turns.inside

    def ask(
        self, query: str, params: Sequence[Parameter] = (), *, patience: float = 5.0
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement with parameters `$1`, `$2`, ... Waits at most `patience` seconds for a connection.
        Raises PoolTimeout and whatever psycopg raises."""
        self._turns.enter(patience)
        try:
            try:
                line = self._free.pop()
            except IndexError:
                line = _PooledConnection(psycopg.connect(**self._options, autocommit=True))
            try:
                return line.ask(query, params)
            except _OF_THE_CONNECTION:
                line.close()
                raise
            finally:
                if line.idle():
                    self._free.append(line)
                else:
                    line.close()
                    if line.lost:
                        self.close()  # its siblings were cut off, too
        finally:
            self._turns.leave()

    def close(self) -> None:
        """Close what is not in use. The pool may be used again."""
        while self._free:
            with suppress(IndexError):
                self._free.pop().close()


class _PooledConnection:
    """A connection, and the statements it knows."""

    __slots__ = ("_connection", "_made", "_names", "_pg", "_reader")

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._reader = Transformer(connection)
        self._names: dict[str, bytes] = {}
        self._made = 0

    @property
    def lost(self) -> bool:
        return self._pg.status != ConnStatus.OK

    def idle(self) -> bool:
        # not so when the caller was killed amid the statement
        return not self.lost and self._pg.transaction_status == TransactionStatus.IDLE

    def close(self) -> None:
        self._connection.close()

    def ask(self, query: str, params: Sequence[Parameter]) -> list[tuple[Any, ...]]:
        values = [_sent(value) for value in params]
        name = self._names.get(query)
        if name is None:
            if len(self._names) == MOST_NAMED:
                self._pg.send_query(b"DEALLOCATE " + self._names.pop(next(iter(self._names))))
                self._answer()
            name = b"stoa_%d" % self._made
            self._made += 1
            self._pg.send_prepare(name, query.encode())
            self._answer()
            self._names[query] = name
        self._pg.send_query_prepared(name, values)
        answer = self._answer()
        self._reader.set_pgresult(answer)
        try:
            return self._reader.load_rows(0, answer.ntuples, tuple)
        finally:
            self._reader.set_pgresult(None, set_loaders=False)

    def _answer(self) -> PGresult:
        pg, wait = self._pg, _waiting()
        while pg.flush():
            # what the server says meanwhile must be read, or both sides wait
            wait(pg.socket, True)
            pg.consume_input()
        answer = None
        while True:
            while pg.is_busy():
                wait(pg.socket, False)
                pg.consume_input()
            result = pg.get_result()
            if result is None:
                break
            answer = result
        if answer is None:
            raise psycopg.OperationalError("the server gave no answer")
        if answer.status not in _DONE:
            raise error_from_result(answer)
        return answer


def _sent(value: Parameter) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        text = value.encode()
        if b"\0" in text:
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return text
    if isinstance(value, datetime):
        return value.isoformat().encode()
    if isinstance(value, list):
        quoted = (item.replace("\\", "\\\\").replace('"', '\\"') for item in value)
        return _sent("{" + ",".join(f'"{item}"' for item in quoted) + "}")
    return b"%d" % value if not isinstance(value, bool) else b"t" if value else b"f"


def _waiting() -> Callable[[int, bool], None]:
    """How to wait until a socket can be read, or be read or written: as gevent does where it has patched the process."""
    if "gevent" in sys.modules:
        from gevent import monkey

        if monkey.is_module_patched("select"):
            return _give_way
    return _block


def _give_way(socket: int, writing: bool) -> None:
    from gevent.hub import get_hub

    hub = get_hub()
    watcher = hub.loop.io(socket, 3 if writing else 1)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()


def _block(socket: int, writing: bool) -> None:
    poll = select.poll()
    poll.register(socket, select.POLLIN | (select.POLLOUT if writing else 0))
    poll.poll()
