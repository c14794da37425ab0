"""The spool: ended calls that the ledger could not settle, stored on disk and retried until it can.

While a call waits here, no worker of this machine admits a new one: what cannot be settled must not be spent. A file holds
the input of `holds.settle_facts`, the call's texts included. Settling is idempotent, so any process may retry.
"""

import fcntl
import logging
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson

from models.core.files import run_in_thread
from models.core.pool import Pool
from models.gateway import metrics
from models.ledger import holds
from models.ledger.holds import LedgerUnavailable

log = logging.getLogger("stoa.gateway")

Kind = Literal["settle", "fail"]

REFRESH_SECONDS = 0.25
"""Minimum interval between two listings of the folder by a worker."""
WAIT_SECONDS = 5.0
"""How long new calls wait, from the first failed settlement, before they are refused. PostgreSQL restarts in less."""
FIRST_PAUSE, LONGEST_PAUSE, ASIDE_PAUSE = 0.25, 5.0, 15.0
"""Seconds between retries: the first, the longest, and when only calls set aside are left."""
MAX_BLOCK_SECONDS = 120.0
"""How long a call that the ledger refuses may block all others. Shorter once the ledger settles another call."""
RESERVE_BYTES = 4 << 20
"""Disk space reserved for a full disk: enough for some thousand calls without their texts."""
_OUTAGE_CLASSES = ("08", "25", "40", "42", "53", "57", "58")
"""SQLSTATE classes that no single call causes: connection, read-only, conflict, schema, resources, operator, system."""
_CANCELLED = "57014"


@dataclass(frozen=True, slots=True)
class UnsettledCall:
    """A call in the spool. `facts` is the settlement to submit; None when the file is damaged."""

    request_id: str
    kind: Kind | None
    since: datetime
    aside: bool
    facts: dict[str, Any] | None

    @property
    def cost(self) -> Decimal:
        """The provider's cost of the call in dollars."""
        return Decimal((self.facts or {}).get("cost") or 0)


class Spool:
    """One process's view of this machine's spool in `folder`. Safe for threads and greenlets."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.folder = folder
        self._pool = pool
        self._aside = folder / "aside"
        self._lock = threading.Lock()
        self._refresh_lock = threading.Lock()
        self._spooled: set[str] = set()
        self._unwritten: dict[str, bytes] = {}
        self._blocked: dict[str, str] = {}
        self._waiting = False
        self._refreshed_at = float("-inf")
        self._closed_since = 0.0
        self._settled_at = 0.0
        self._wake = threading.Event()
        self._pid = 0

    # -- admission -----------------------------------------------------------------------------------------------

    def check(self, account_id: str | None = None) -> None:
        """Return when a new call may be admitted. Raises LedgerUnavailable while a call waits to be settled, after waiting
        up to WAIT_SECONDS, and at once when a call of this account is set aside."""
        while self.closed(account_id):
            if account_id in self._blocked.values() or time.monotonic() - self._closed_since > WAIT_SECONDS:
                raise LedgerUnavailable(
                    "The credit ledger cannot settle calls right now, so new calls are refused. Try again in a few seconds."
                )
            time.sleep(0.05)

    def closed(self, account_id: str | None = None) -> bool:
        """Whether new calls must wait. Lists the folder at most once per REFRESH_SECONDS."""
        current = time.monotonic()
        if current - self._refreshed_at > REFRESH_SECONDS:
            self._refresh(current)
        return (
            self._waiting
            or bool(self._unwritten)
            or (account_id is not None and account_id in self._blocked.values())
        )

    def _refresh(self, current: float) -> None:
        first, self._refreshed_at = self._refreshed_at < 0, current
        if first:
            self._prepare()
        try:
            with self._refresh_lock:  # else a stale listing could hide a call stored since
                was_waiting = self._waiting
                waiting, aside = _names(self.folder), _names(self._aside)
                self._waiting = bool(waiting)
        except OSError as error:
            # keep the last state: the worker may be out of file descriptors
            log.error("%s cannot be read: %s", self.folder, error)
            return
        if aside != self._blocked.keys():
            self._blocked = {
                name: self._blocked.get(name) or self._account_of(self._aside / name) for name in aside
            }
        if self._waiting and not was_waiting:
            self._closed_since = current
        if self._waiting or self._blocked:
            self._start_thread()
        if self._waiting and not was_waiting:
            self._wake.set()

    def _prepare(self) -> None:
        try:
            self._make_folders()
            reserve = self.folder / "reserve"
            if not reserve.exists():
                with open(reserve, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            log.error("%s: could not reserve disk space for unsettled calls: %s", self.folder, error)

    def _make_folders(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._aside.mkdir(mode=0o700, exist_ok=True)

    def _account_of(self, path: Path) -> str:
        facts = self._read(path).facts or {}
        return str(facts.get("org_id") or facts.get("user_id") or "")

    # -- storing -------------------------------------------------------------------------------------------------

    def add(self, kind: Kind, facts: str) -> None:
        """Store an unsettled call and block new calls until it is settled. Durable on return unless the disk fails; then
        kept in memory and retried. Never raises."""
        fields = orjson.loads(facts)
        request_id = fields["request_id"]
        if request_id in self._spooled:
            return
        with self._lock:
            if not self.closed():
                self._closed_since = time.monotonic()
            self._spooled.add(request_id)
            self._unwritten[request_id] = _record(kind, facts)
        try:
            self._store(request_id, kind, facts)
        except OSError as error:
            log.error("%s: could not store call %s on disk: %s", self.folder, request_id, error)
        logged = ("user_id", "provider", "model", *TOKENS, "cost", "error")
        log.warning(
            "call %s waits for the ledger (%s): %s",
            request_id,
            kind,
            ", ".join(f"{name} {fields[name]}" for name in logged if fields.get(name) is not None),
        )
        self._start_thread()
        self._wake.set()

    def mark_settled(self, request_id: str) -> None:
        """Record that the ledger settled a call, so that refusals of other calls no longer count as an outage."""
        self._settled_at = time.time()
        if request_id in self._spooled:
            self.discard(request_id)

    def discard(self, request_id: str) -> None:
        """Remove a call that has been settled."""
        with self._lock:
            self._spooled.discard(request_id)
            self._unwritten.pop(request_id, None)
        for folder in (self.folder, self._aside):
            with suppress(OSError):
                (folder / f"{request_id}.json").unlink(missing_ok=True)
        self._refreshed_at = min(self._refreshed_at, 0.0)

    def _store(self, request_id: str, kind: Kind, facts: str) -> None:
        path = self.folder / f"{request_id}.json"
        try:
            self._make_folders()
            run_in_thread(lambda: _write(path, _record(kind, facts)))
        except OSError:
            (self.folder / "reserve").unlink(missing_ok=True)
            run_in_thread(lambda: _write(path, _record(kind, holds.without_text(facts))))
        with self._refresh_lock:
            self._waiting = True
        with self._lock:
            self._unwritten.pop(request_id, None)

    # -- settling ------------------------------------------------------------------------------------------------

    def calls(self) -> list[UnsettledCall]:
        """Unsettled calls of this machine, oldest first; those set aside last."""
        return [self._read(path) for path in (*self._paths(self.folder), *self._paths(self._aside))]

    def count(self) -> dict[str, int]:
        """Number of calls waiting, set aside, and only in this process's memory."""
        waiting, aside = _names(self.folder), _names(self._aside)
        return {"waiting": len(waiting), "aside": len(aside), "unwritten": len(self._unwritten)}

    def settle_all(self) -> int | None:
        """Settle all calls, those set aside last. Returns how many the ledger accepted; None when another process is
        doing it. Does not raise ledger errors."""
        with self._exclusive() as acquired:
            if not acquired:
                return None
            settled_count = self._settle_unwritten()
            refused: dict[str, list[Path]] = {}
            for path in self._paths(self.folder):
                try:
                    if (account := self._account_of(path)) in refused:
                        refused[account].append(path)
                    else:
                        settled_count += self._settle_file(path)
                except LedgerUnavailable as error:
                    if _is_outage(error) or len(refused) == 2:
                        break
                    refused[account] = [path]
            else:
                settled_count += self._retry_aside()
            for paths in refused.values():
                self._set_aside(paths, settled_count)
        self._refreshed_at = min(self._refreshed_at, 0.0)
        return settled_count

    def dismiss(self, request_id: str) -> UnsettledCall | None:
        """Delete a call that was set aside, without charging it. Returns None when it does not exist."""
        path = self._aside / f"{request_id}.json"
        if not path.exists():
            return None
        found = self._read(path)
        path.unlink(missing_ok=True)
        return found

    def _settle_unwritten(self) -> int:
        settled_count = 0
        for request_id, record in list(self._unwritten.items()):
            entry = orjson.loads(record)
            kind, facts = entry["kind"], orjson.dumps(entry["facts"]).decode()
            try:
                self._submit(kind, facts)
            except LedgerUnavailable:
                with suppress(OSError):
                    self._store(request_id, kind, facts)
                continue
            settled_count += 1
            self.discard(request_id)
        return settled_count

    def _settle_file(self, path: Path, *, with_text: bool = True) -> int:
        call = self._read(path)
        if call.facts is None:
            with suppress(FileNotFoundError):
                self._set_damaged_aside(path)
            return 0
        facts = orjson.dumps(call.facts).decode()
        self._submit(call.kind, facts if with_text else holds.without_text(facts))
        self.discard(call.request_id)
        log.warning("call %s is settled from the spool", call.request_id)
        return 1

    def _set_damaged_aside(self, path: Path) -> None:
        """Set a damaged file aside, so that it does not block new calls. An unreadable file may be intact (the process may
        be out of file descriptors) and is set aside only after MAX_BLOCK_SECONDS. Raises FileNotFoundError."""
        try:
            if _call(path.stem, path.read_bytes()) is not None:
                return
        except FileNotFoundError:
            raise
        except OSError as error:
            log.error("%s cannot be read: %s", path, error)
            if _age(path) <= MAX_BLOCK_SECONDS:
                return
        log.error("%s is damaged and was set aside", path)
        path.replace(self._aside / path.name)

    def _submit(self, kind: Kind | None, facts: str) -> None:
        if kind == "fail":
            holds.fail_facts(self._pool, facts)
            return
        settled = holds.settle_facts(self._pool, facts)
        self._settled_at = time.time()
        if settled.duplicate:
            return
        fields = orjson.loads(facts)
        for name in TOKENS:
            metrics.of(metrics.TOKENS, fields["provider"], name.removesuffix("_tokens")).inc(fields[name])
        metrics.of(metrics.CREDITS, fields["provider"]).inc(0 if fields["byok"] else settled.credits)

    def _retry_aside(self) -> int:
        """Retry the calls set aside, until a new call waits: that one goes first."""
        settled_count = 0
        for path in self._paths(self._aside):
            if _names(self.folder):
                break
            with suppress(LedgerUnavailable):
                settled_count += self._settle_file(path) if self._read(path).facts is not None else 0
        return settled_count

    def _set_aside(self, refused: list[Path], settled_count: int) -> None:
        """Set an account's refused calls aside, so that they block only this account: once the ledger settles other calls,
        or after MAX_BLOCK_SECONDS. Tries the first without its texts before; the rest follows it, since each would block
        as long."""
        first = refused[0]
        with suppress(FileNotFoundError):
            others = settled_count > 0 or self._settled_at > first.stat().st_mtime
            if _age(first) > (FIRST_PAUSE if others else MAX_BLOCK_SECONDS):
                try:
                    self._settle_file(first, with_text=False)
                except LedgerUnavailable:
                    for path in refused:
                        path.replace(self._aside / path.name)
                        log.error("call %s is refused and set aside: flask billing unsettled", path.stem)

    def _paths(self, folder: Path) -> list[Path]:
        found = []
        for path in folder.glob("*.json"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path))
        return [path for _, path in sorted(found)]

    def _read(self, path: Path) -> UnsettledCall:
        since, found = datetime.fromtimestamp(0, UTC), None
        with suppress(OSError):
            since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            found = _call(path.stem, path.read_bytes())
        kind, facts = found or (None, None)
        return UnsettledCall(path.stem, kind, since, path.parent == self._aside, facts)

    @contextmanager
    def _exclusive(self) -> Iterator[bool]:
        """Lock the spool across processes; yields False when another holds it. The lock ends with its process."""
        self._make_folders()
        with open(self.folder / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _start_thread(self) -> None:
        """Start this process's retry thread unless it runs."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            threading.Thread(target=self._run, name="stoa-spool", daemon=True).start()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            time.sleep(FIRST_PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            if pause > FIRST_PAUSE:
                self._wake.wait(pause)
            self._wake.clear()  # before the round, so that a call stored during it wakes the next one
            settled_count: int | None = 0
            try:
                settled_count = self.settle_all()
            except Exception:
                log.exception("could not settle the calls in %s", self.folder)
            if self.closed():
                pause = FIRST_PAUSE if settled_count else min(pause * 2, LONGEST_PAUSE)
            elif self._blocked:
                pause = ASIDE_PAUSE
            else:
                self._spooled.clear()
                self._pid = 0
                if not self.closed():
                    return
                self._pid = os.getpid()


TOKENS = (
    "uncached_input_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def _names(folder: Path) -> set[str]:
    return {name for name in os.listdir(folder) if name.endswith(".json")} if folder.exists() else set()


def _call(request_id: str, record: bytes) -> tuple[Kind, dict[str, Any]] | None:
    """Parse a file's kind and facts; None if it is damaged."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        entry = orjson.loads(record)
        kind, facts = entry["kind"], entry["facts"]
        if facts["request_id"] == request_id and kind in ("settle", "fail"):
            Decimal(facts["cost"] if facts.get("cost") is not None else 0)
            return kind, facts
    return None


def _age(path: Path) -> float:
    """Seconds since a file was written, absolute in case the clock was set back. Raises FileNotFoundError."""
    return abs(time.time() - path.stat().st_mtime)


def _is_outage(error: LedgerUnavailable) -> bool:
    """Whether the ledger as a whole is unavailable, rather than refusing one call."""
    state = error.sqlstate
    return state is None or (state[:2] in _OUTAGE_CLASSES and state != _CANCELLED)


def _record(kind: Kind, facts: str) -> bytes:
    return b'{"kind":"%s","facts":%s}' % (kind.encode(), facts.encode())


def _write(path: Path, record: bytes) -> None:
    """Write a file atomically and durably. Raises OSError."""
    # a unique name: another thread may write the same call
    handle, name = tempfile.mkstemp(suffix=".new", dir=path.parent)
    temporary = Path(name)
    try:
        with open(handle, "wb") as file:
            file.write(record)
            file.flush()
            os.fsync(handle)
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
