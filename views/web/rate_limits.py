"""Where the counts of rate limits are kept when there is no Redis: one SQLite file for all processes of a machine.

A count takes some 50 microseconds and no round trip, and outlives restarts. After a crash of the machine the file may be
damaged; it is then begun anew.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from limits.storage import MovingWindowSupport, Storage

BUSY_SECONDS = 1.0
CLEANED_EVERY = 60.0
"""Seconds between two removals of what no longer counts."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS hit (key TEXT NOT NULL, at REAL NOT NULL, until REAL NOT NULL);
CREATE INDEX IF NOT EXISTS hit_key ON hit (key, at);
CREATE INDEX IF NOT EXISTS hit_until ON hit (until);
"""


class MachineStorage(Storage, MovingWindowSupport):
    """Storage of the `limits` package for `machine://`, in the file `path`. Safe for threads and processes; each
    method is one transaction. Raises sqlite3.Error."""

    STORAGE_SCHEME = ["machine"]

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, *, path: str, **_: Any) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._cleaned = 0.0

    @property
    def base_exceptions(self) -> type[Exception]:
        """What goes wrong here."""
        return sqlite3.Error

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` for `key`, unless there would be more than `limit` in the last `expiry` seconds."""
        moment = time.time()
        with self._transaction() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM hit WHERE key = ? AND at > ?", (key, moment - expiry)
            ).fetchone()
            if count + amount > limit:
                return False
            self._count(connection, key, moment, expiry, amount)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest of the last `expiry` seconds was counted, and how many were."""
        moment = time.time()
        with self._transaction() as connection:
            oldest, count = connection.execute(
                "SELECT min(at), count(*) FROM hit WHERE key = ? AND at > ?", (key, moment - expiry)
            ).fetchone()
        return (oldest or moment), count

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count `amount` for `expiry` seconds; how many count then."""
        moment = time.time()
        with self._transaction() as connection:
            self._count(connection, key, moment, expiry, amount)
            (count,) = connection.execute(
                "SELECT count(*) FROM hit WHERE key = ? AND until > ?", (key, moment)
            ).fetchone()
        return int(count)

    def get(self, key: str) -> int:
        """How many count now."""
        with self._transaction() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM hit WHERE key = ? AND until > ?", (key, time.time())
            ).fetchone()
        return int(count)

    def get_expiry(self, key: str) -> float:
        """When the first of what counts no longer does."""
        with self._transaction() as connection:
            (until,) = connection.execute(
                "SELECT min(until) FROM hit WHERE key = ? AND until > ?", (key, time.time())
            ).fetchone()
        return until or time.time()

    def check(self) -> bool:
        """Whether the file can be used."""
        with suppress(sqlite3.Error, OSError):
            self.get("")
            return True
        return False

    def reset(self) -> int | None:
        """Forget everything."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM hit").rowcount

    def clear(self, key: str) -> None:
        """Forget what was counted for `key`."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM hit WHERE key = ?", (key,))

    def _count(
        self, connection: sqlite3.Connection, key: str, moment: float, expiry: float, amount: int
    ) -> None:
        connection.executemany(
            "INSERT INTO hit (key, at, until) VALUES (?, ?, ?)", [(key, moment, moment + expiry)] * amount
        )
        if moment - self._cleaned > CLEANED_EVERY:
            self._cleaned = moment
            connection.execute("DELETE FROM hit WHERE until <= ?", (moment,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._connection or self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            for ending in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
            connection = self._connect()
        self._connection = connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.executescript(_SCHEMA)
        return connection
