"""Prepared statements straight over libpq, for the few questions that every model call and kept page asks.

psycopg's cursor takes ten times what libpq itself does for a statement of one row: each execution turns the query and
its parameters over again. Here a query is written in PostgreSQL's own terms (`$1`) and named once per connection.
"""

import select
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from sqlalchemy.engine import Engine

Parameter = str | int | bool | datetime | None

_READY = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


def ask(engine: Engine, query: str, params: Sequence[Parameter] = ()) -> list[tuple[Any, ...]]:
    """The rows of one statement with parameters `$1`, `$2`, ... on a connection of an AUTOCOMMIT engine. Nothing is tried
    again: raises psycopg's errors, and leaves no dead connection in the pool."""
    pooled = engine.raw_connection()
    connection: psycopg.Connection[Any] = pooled.driver_connection  # type: ignore[assignment]
    try:
        line: _Line | None = pooled.info.get("line")
        if line is None:
            line = pooled.info["line"] = _Line(connection)
        return line.ask(query, params)
    finally:
        if connection.closed:
            pooled.invalidate()
            engine.dispose()  # its siblings were cut off, too
        elif connection.pgconn.transaction_status != TransactionStatus.IDLE:
            pooled.invalidate()  # the caller was killed amid the statement
        else:
            pooled.close()


class _Line:
    """A connection, and the statements it knows."""

    __slots__ = ("_names", "_pg", "_reader")

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._pg: PGconn = connection.pgconn
        self._reader = Transformer(connection)
        self._names: dict[str, bytes] = {}

    def ask(self, query: str, params: Sequence[Parameter]) -> list[tuple[Any, ...]]:
        values = [_sent(value) for value in params]
        name = self._names.get(query)
        if name is None:
            name = b"stoa_%d" % len(self._names)
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
        if answer.status not in _READY:
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
