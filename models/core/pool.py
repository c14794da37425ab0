"""Connection pool for the gateway's statements: prepared statements directly over libpq.

For a one-row statement psycopg's cursor takes ten times as long as libpq, because it converts query and parameters on
every execution; SQLAlchemy's pool takes as long as libpq itself. Queries use PostgreSQL's placeholders (`$1`) and are
prepared once per connection. The most recently used connection is used next, so an idle server keeps one warm.
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

MAX_PREPARED = 100
"""Prepared statements per connection; each takes memory in PostgreSQL."""

_STALE_CONNECTION = (
    psycopg.errors.ReadOnlySqlTransaction,  # failover: this server is now a replica
    psycopg.errors.FeatureNotSupported,  # a cached plan from before a migration or restore
    psycopg.errors.InternalError_,  # the same for functions
)
"""Errors that a new connection may not raise; the connection is closed."""

_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class PoolTimeout(psycopg.OperationalError):
    """No connection became free within the timeout."""


class FairSemaphore:
    """A semaphore with `count` slots that serves waiters in order of arrival (FIFO)."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._mutex = threading.Lock()

    @property
    def in_use(self) -> int:
        """Number of acquired slots."""
        return self._count - self._free

    @contextmanager
    def slot(self, timeout: float) -> Iterator[None]:
        """Hold a slot; waits at most `timeout` seconds. Raises PoolTimeout."""
        self.acquire(timeout)
        try:
            yield
        finally:
            self.release()

    def acquire(self, timeout: float) -> None:
        """Acquire a slot; waits at most `timeout` seconds. Raises PoolTimeout."""
        with self._mutex:
            if self._free:
                self._free -= 1
                return
            waiter = threading.Lock()
            waiter.acquire()
            self._waiting.append(waiter)
        acquired = False
        try:
            acquired = waiter.acquire(timeout=max(timeout, 0))
        finally:
            if not acquired:
                self._cancel(waiter)
        if not acquired:
            raise PoolTimeout

    def _cancel(self, waiter: threading.Lock) -> None:
        with self._mutex:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                return
        # the slot was granted at the same moment: pass it on
        self.release()

    def release(self) -> None:
        """Release a slot; the longest waiter gets it."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


class Pool:
    """At most `size` connections per process, opened on demand; each statement is its own transaction.

    Safe for threads and greenlets. Dead connections are dropped. Statements are not retried; callers retry idempotent ones."""

    def __init__(self, url: str, size: int) -> None:
        address: dict[str, Any] = dialect().create_connect_args(make_url(url))[1]  # type: ignore[no-untyped-call]
        self._options = address | {
            "options": "-c timezone=UTC -c lock_timeout=10000 -c statement_timeout=30000"
            " -c max_parallel_workers_per_gather=0",
            "connect_timeout": 5,
        }
        self._slots = FairSemaphore(size)
        self._free: list[_PooledConnection] = []

    @property
    def in_use(self) -> int:
        """Number of connections running a statement."""
        return self._slots.in_use

    def execute(
        self, query: str, params: Sequence[Parameter] = (), *, timeout: float = 5.0
    ) -> list[tuple[Any, ...]]:
        """Execute one statement with parameters `$1`, `$2`, ... and return its rows. Waits at most `timeout` seconds for a
        connection. Raises PoolTimeout and psycopg errors."""
        self._slots.acquire(timeout)
        try:
            try:
                connection = self._free.pop()
            except IndexError:
                connection = _PooledConnection(psycopg.connect(**self._options, autocommit=True))
            try:
                return connection.execute(query, params)
            except _STALE_CONNECTION:
                connection.close()
                raise
            finally:
                if connection.idle():
                    self._free.append(connection)
                else:
                    connection.close()
                    if connection.lost:
                        self.close()  # the others are probably dead too
        finally:
            self._slots.release()

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection outside the pool, in autocommit mode, to listen on. The caller closes it."""
        return psycopg.connect(**self._options, autocommit=True)

    def close(self) -> None:
        """Close idle connections. The pool remains usable."""
        while self._free:
            with suppress(IndexError):
                self._free.pop().close()


class _PooledConnection:
    """A connection with its prepared statements."""

    __slots__ = ("_connection", "_names", "_pg", "_prepared", "_reader")

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._reader = Transformer(connection)
        self._names: dict[str, bytes] = {}
        self._prepared = 0

    @property
    def lost(self) -> bool:
        return self._pg.status != ConnStatus.OK

    def idle(self) -> bool:
        # false if the caller was killed during the statement
        return not self.lost and self._pg.transaction_status == TransactionStatus.IDLE

    def close(self) -> None:
        self._connection.close()

    def execute(self, query: str, params: Sequence[Parameter]) -> list[tuple[Any, ...]]:
        values = [_encode(value) for value in params]
        name = self._names.get(query)
        if name is None:
            if len(self._names) == MAX_PREPARED:
                self._pg.send_query(b"DEALLOCATE " + self._names.pop(next(iter(self._names))))
                self._result()
            name = b"stoa_%d" % self._prepared
            self._prepared += 1
            self._pg.send_prepare(name, query.encode())
            self._result()
            self._names[query] = name
        self._pg.send_query_prepared(name, values)
        result = self._result()
        self._reader.set_pgresult(result)
        try:
            return self._reader.load_rows(0, result.ntuples, tuple)
        finally:
            self._reader.set_pgresult(None, set_loaders=False)

    def _result(self) -> PGresult:
        pg, wait = self._pg, _wait_function()
        while pg.flush():
            # read while writing, or both sides may block
            wait(pg.socket, True)
            pg.consume_input()
        result = None
        while True:
            while pg.is_busy():
                wait(pg.socket, False)
                pg.consume_input()
            following = pg.get_result()
            if following is None:
                break
            result = following
        if result is None:
            raise psycopg.OperationalError("the server returned no result")
        if result.status not in _DONE:
            raise error_from_result(result)
        return result


def _encode(value: Parameter) -> bytes | None:
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
        return _encode("{" + ",".join(f'"{item}"' for item in quoted) + "}")
    return b"%d" % value if not isinstance(value, bool) else b"t" if value else b"f"


def _wait_function() -> Callable[[int, bool], None]:
    """The function that waits for a socket to be readable (or writable): gevent's hub if the process is patched."""
    if "gevent" in sys.modules:
        from gevent import monkey

        if monkey.is_module_patched("select"):
            return _wait_gevent
    return _wait_poll


def _wait_gevent(socket: int, writing: bool) -> None:
    from gevent.hub import get_hub

    hub = get_hub()
    watcher = hub.loop.io(socket, 3 if writing else 1)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()


def _wait_poll(socket: int, writing: bool) -> None:
    poll = select.poll()
    poll.register(socket, select.POLLIN | (select.POLLOUT if writing else 0))
    poll.poll()
