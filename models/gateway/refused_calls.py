"""Records refused calls: in the background and in batches, so that a refusal waits for nothing, and bounded, so that a client
that repeats a refused call fills neither the disk nor the memory.

Of each key and minute, a worker stores ROWS refused calls and counts the others on the last of them; it stores the input of
INPUTS calls that were refused or failed, up to INPUT_BYTES in all.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson

from models.core.pool import Pool
from models.ledger import holds
from models.ledger.holds import CallRefusal, LedgerUnavailable
from models.ledger.sanitizing import json_text

log = logging.getLogger("stoa.gateway")

WINDOW_SECONDS = 60.0
ROWS = 60
INPUTS = 20
INPUT_BYTES = 1 << 20
MAX_KEYS = 5_000
"""Keys with a window of their own in a minute. The others share one."""
MAX_QUEUED = 1_000
MAX_QUEUED_BYTES = 16 << 20
MAX_BATCH = 20
"""Refused calls in a statement, which locks their accounts until it ends."""
FLUSH_SECONDS = 0.25
MAX_CLEANED = 32 << 10
"""Largest input with text that PostgreSQL does not accept as it is, in bytes. Cleaning a larger one takes too long."""


@dataclass(slots=True)
class _Window:
    rows: int = 0
    inputs: int = 0
    input_bytes: int = 0
    last_id: str = ""


class KeyWindows:
    """What each key has stored in this minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()

    def take_row(self, key_id: str, request_id: str) -> str | None:
        """None if the call's row is to be stored; else the id of the key's last stored call, on which it is counted."""
        with self._lock:
            window = self._of(key_id)
            if window.rows >= ROWS:
                return window.last_id
            window.rows += 1
            if key_id in self._windows:  # else the window is that of many keys
                window.last_id = request_id
            return None

    def take_input(self, key_id: str, size: int) -> bool:
        """Whether an input of about `size` bytes may be stored; if so, it counts."""
        with self._lock:
            window = self._of(key_id)
            if window.inputs >= INPUTS or window.input_bytes + size > INPUT_BYTES:
                return False
            window.inputs += 1
            window.input_bytes += size
            return True

    def _of(self, key_id: str) -> _Window:
        current = self._clock()
        if current - self._since >= WINDOW_SECONDS:
            self._since = current
            self._windows.clear()
        if key_id not in self._windows and len(self._windows) >= MAX_KEYS:
            key_id = ""
        return self._windows.setdefault(key_id, _Window())


class RefusedCalls:
    """The queue of one process. Safe for threads and greenlets."""

    background = True
    """Whether a thread stores what is queued. Else only `flush` does."""

    def __init__(self, pool: Pool, windows: KeyWindows) -> None:
        self._pool = pool
        self._windows = windows
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._queue: list[CallRefusal] = []
        self._queued_bytes = 0
        self._more: dict[str, int] = {}
        self._wake = threading.Event()
        self._pid = 0

    def add(self, refusal: CallRefusal, stored_input: Callable[[], tuple[object, object]], size: int) -> None:
        """Queue a refused call; never waits, never raises. `stored_input` computes its messages and definitions, of about `size` bytes,
        which are kept as far as the key's window allows."""
        counted_on = self._windows.take_row(refusal.key_id, refusal.request_id)
        with self._lock:
            if counted_on is not None or len(self._queue) >= MAX_QUEUED:
                if counted_on:
                    self._more[counted_on] = self._more.get(counted_on, 0) + 1
                return
        room = size and self._queued_bytes < MAX_QUEUED_BYTES
        if room and self._windows.take_input(refusal.key_id, size):
            request, definitions = _input(stored_input)
            refusal = replace(refusal, request=request, definitions=definitions)
        with self._lock:
            self._queue.append(refusal)
            self._queued_bytes += _bytes_of(refusal)
        if self.background:
            self._start_thread()
            self._wake.set()

    def flush(self) -> None:
        """Store everything queued; what the ledger does not accept is dropped and logged."""
        with self._flushing:
            while True:
                with self._lock:
                    batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
                    self._queued_bytes -= sum(map(_bytes_of, batch))
                    more: dict[str, int] = {}
                    if not self._queue:
                        more, self._more = self._more, {}
                if not batch and not more:
                    return
                self._store(batch, more)

    def _store(self, batch: list[CallRefusal], more: dict[str, int]) -> None:
        try:
            holds.refuse_many(self._pool, batch, more)
            return
        except LedgerUnavailable as error:
            if not holds.is_data_error(error):
                log.warning("%d refused calls were not recorded: the ledger is not reachable", len(batch))
                return
        for each in batch:
            try:
                holds.refuse_many(self._pool, [replace(each, request=None, definitions=None)], {})
            except LedgerUnavailable:
                log.warning("refused call %s was not recorded", each.request_id)

    def _start_thread(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            threading.Thread(target=self._run, name="stoa-refusals", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(FLUSH_SECONDS)
            self._wake.clear()
            try:
                self.flush()
            except Exception:
                log.exception("could not record refused calls")


def _bytes_of(refusal: CallRefusal) -> int:
    return len(refusal.request or b"") + len(refusal.definitions or b"")


def _input(stored_input: Callable[[], tuple[object, object]]) -> tuple[bytes | None, bytes | None]:
    try:
        request, definitions = stored_input()
    except (TypeError, ValueError, RecursionError):
        return None, None
    return _json(request), _json(definitions)


def _json(value: object) -> bytes | None:
    """JSON for jsonb; None without a value, or if it cannot be made so in a few milliseconds."""
    try:
        if value is None:
            return None
        text = orjson.dumps(value)
        if b"\\u0000" not in text:
            return text
        return json_text(value) if len(text) <= MAX_CLEANED else None
    except (TypeError, ValueError, RecursionError):
        # lone surrogates, numbers beyond 64 bits, deep nesting
        return None
