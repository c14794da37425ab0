"""The spool: calls that ended while the ledger could not write it down, kept on disk and told again until it does.

While one of them waits, no worker of this machine admits a call: what cannot be settled must not be spent. A file holds
what `holds.settle_facts` takes, the call's texts included. Telling it twice does no harm, so any process may do it.
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

LOOK_SECONDS = 0.25
"""How old a worker's knowledge of the folder may be."""
WAIT_SECONDS = 5.0
"""How long after the first trouble a call waits for its end before it is refused: PostgreSQL restarts in less."""
FIRST_PAUSE, LONGEST_PAUSE, ASIDE_PAUSE = 0.25, 5.0, 15.0
"""Seconds between two rounds: at first, at the most, and where only calls that were set aside are left."""
ALONE_SECONDS = 120.0
"""How long a call that the ledger refuses, but perhaps this call alone, keeps the others out. Less where others settle."""
RESERVE_BYTES = 4 << 20
"""Disk that is given back when there is no more: room for the figures of some thousand calls."""
_LEDGERS_OWN = ("08", "25", "40", "42", "53", "57", "58")
"""Classes of SQLSTATE that no call is to blame for: connection, read-only, collision, schema, resources, operator, system."""
_CANCELLED = "57014"


@dataclass(frozen=True, slots=True)
class UnsettledCall:
    """A call in the spool. `facts` is what the ledger will be told; None when the file is damaged."""

    request_id: str
    kind: Kind | None
    since: datetime
    aside: bool
    facts: dict[str, Any] | None

    @property
    def cost(self) -> Decimal:
        """Provider dollars that the call came to."""
        return Decimal((self.facts or {}).get("cost") or 0)


class Spool:
    """The spool of one machine, in `folder`, as one process sees it. Safe for threads and greenlets."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.folder = folder
        self._pool = pool
        self._aside = folder / "aside"
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._kept: set[str] = set()
        self._unwritten: dict[str, bytes] = {}
        self._barred: dict[str, str] = {}
        self._waiting = False
        self._looked = float("-inf")
        self._closed_since = 0.0
        self._settled_at = 0.0
        self._woken = threading.Event()
        self._pid = 0

    # -- may a call begin? ---------------------------------------------------------------------------------------

    def check(self, account_id: str | None = None) -> None:
        """Let a call begin. Raises LedgerUnavailable while one waits to be settled, or one of this account's is set
        aside; in the first seconds it waits whether that passes."""
        while self.closed(account_id):
            if account_id in self._barred.values() or time.monotonic() - self._closed_since > WAIT_SECONDS:
                raise LedgerUnavailable(
                    "The credit ledger cannot settle calls at the moment, so none is begun. Try again in a few seconds."
                )
            time.sleep(0.05)

    def closed(self, account_id: str | None = None) -> bool:
        """Whether no call may begin. Looks at the folder four times a second at most."""
        moment = time.monotonic()
        if moment - self._looked > LOOK_SECONDS:
            self._look(moment)
        return (
            self._waiting
            or bool(self._unwritten)
            or (account_id is not None and account_id in self._barred.values())
        )

    def _look(self, moment: float) -> None:
        first, self._looked = self._looked < 0, moment
        if first:
            self._prepare()
        try:
            with self._looking:  # else an old look could deny a call that was written down since
                was = self._waiting
                waiting, aside = _names(self.folder), _names(self._aside)
                self._waiting = bool(waiting)
        except OSError as error:
            # as after the last look: a worker out of file descriptors knows nothing new
            log.error("%s cannot be read: %s", self.folder, error)
            return
        if aside != self._barred.keys():
            self._barred = {
                name: self._barred.get(name) or self._account(self._aside / name) for name in aside
            }
        if self._waiting and not was:
            self._closed_since = moment
        if self._waiting or self._barred:
            self._work()
        if self._waiting and not was:
            self._woken.set()

    def _prepare(self) -> None:
        try:
            self._make_folders()
            reserve = self.folder / "reserve"
            if not reserve.exists():
                with open(reserve, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            log.error(
                "%s: there is no room set aside for calls that cannot be settled: %s", self.folder, error
            )

    def _make_folders(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._aside.mkdir(mode=0o700, exist_ok=True)

    def _account(self, path: Path) -> str:
        facts = self._read(path).facts or {}
        return str(facts.get("org_id") or facts.get("user_id") or "")

    # -- what could not be settled -------------------------------------------------------------------------------

    def keep(self, kind: Kind, facts: str) -> None:
        """Keep a call that the ledger did not take, and let no other begin until it does. Durable on return where the
        disk allows; else the process keeps it, and tries again. Never raises."""
        told = orjson.loads(facts)
        request_id = told["request_id"]
        if request_id in self._kept:
            return
        with self._lock:
            if not self.closed():
                self._closed_since = time.monotonic()
            self._kept.add(request_id)
            self._unwritten[request_id] = _record(kind, facts)
        try:
            self._write_down(request_id, kind, facts)
        except OSError as error:
            log.error("%s: call %s cannot be kept on disk: %s", self.folder, request_id, error)
        shown = ("user_id", "provider", "model", *TOKENS, "cost", "error")
        log.warning(
            "call %s waits for the ledger (%s): %s",
            request_id,
            kind,
            ", ".join(f"{name} {told[name]}" for name in shown if told.get(name) is not None),
        )
        self._work()
        self._woken.set()

    def settled(self, request_id: str) -> None:
        """Note that the ledger has just settled a call: what it refuses now, it refuses for its own sake."""
        self._settled_at = time.time()
        if request_id in self._kept:
            self.discard(request_id)

    def discard(self, request_id: str) -> None:
        """The ledger has taken the call after all."""
        with self._lock:
            self._kept.discard(request_id)
            self._unwritten.pop(request_id, None)
        for folder in (self.folder, self._aside):
            with suppress(OSError):
                (folder / f"{request_id}.json").unlink(missing_ok=True)
        self._looked = min(self._looked, 0.0)

    def _write_down(self, request_id: str, kind: Kind, facts: str) -> None:
        path = self.folder / f"{request_id}.json"
        try:
            self._make_folders()
            run_in_thread(lambda: _write(path, _record(kind, facts)))
        except OSError:
            (self.folder / "reserve").unlink(missing_ok=True)
            run_in_thread(lambda: _write(path, _record(kind, holds.without_text(facts))))
        with self._looking:
            self._waiting = True
        with self._lock:
            self._unwritten.pop(request_id, None)

    # -- until the ledger takes them -----------------------------------------------------------------------------

    def calls(self) -> list[UnsettledCall]:
        """The calls of this machine that wait, oldest first; those set aside last."""
        return [self._read(path) for path in (*self._paths(self.folder), *self._paths(self._aside))]

    def count(self) -> dict[str, int]:
        """How many calls wait, are set aside, and are known to this process alone."""
        waiting, aside = _names(self.folder), _names(self._aside)
        return {"waiting": len(waiting), "aside": len(aside), "unwritten": len(self._unwritten)}

    def settle_all(self) -> int | None:
        """Tell the ledger what waits, and what was set aside. Returns how many it took; None when another process is
        about it. Never raises for what the ledger says."""
        with self._turn() as mine:
            if not mine:
                return None
            taken = self._tell_unwritten()
            refused: dict[str, list[Path]] = {}
            for path in self._paths(self.folder):
                try:
                    if (account := self._account(path)) in refused:
                        refused[account].append(path)
                    else:
                        taken += self._tell(path)
                except LedgerUnavailable as error:
                    if _whole(error) or len(refused) == 2:
                        break
                    refused[account] = [path]
            else:
                taken += self._tell_aside()
            for paths in refused.values():
                self._set_aside(paths, taken)
        self._looked = min(self._looked, 0.0)
        return taken

    def dismiss(self, request_id: str) -> UnsettledCall | None:
        """Forget a call that was set aside: nothing is charged for it. None when there is none."""
        path = self._aside / f"{request_id}.json"
        if not path.exists():
            return None
        found = self._read(path)
        path.unlink(missing_ok=True)
        return found

    def _tell_unwritten(self) -> int:
        taken = 0
        for request_id, record in list(self._unwritten.items()):
            kept = orjson.loads(record)
            kind, facts = kept["kind"], orjson.dumps(kept["facts"]).decode()
            try:
                self._tell_facts(kind, facts)
            except LedgerUnavailable:
                with suppress(OSError):
                    self._write_down(request_id, kind, facts)
                continue
            taken += 1
            self.discard(request_id)
        return taken

    def _tell(self, path: Path, *, whole: bool = True) -> int:
        call = self._read(path)
        if call.facts is None:
            with suppress(FileNotFoundError):
                self._set_damaged_aside(path)
            return 0
        facts = orjson.dumps(call.facts).decode()
        self._tell_facts(call.kind, facts if whole else holds.without_text(facts))
        self.discard(call.request_id)
        log.warning("call %s is written down at last", call.request_id)
        return 1

    def _set_damaged_aside(self, path: Path) -> None:
        """Let a file without a call keep nobody out. One that cannot be read may be whole, and has its time to become
        readable: a process may be out of file descriptors. Raises FileNotFoundError."""
        try:
            if _call(path.stem, path.read_bytes()) is not None:
                return
        except FileNotFoundError:
            raise
        except OSError as error:
            log.error("%s cannot be read: %s", path, error)
            if _age(path) <= ALONE_SECONDS:
                return
        log.error("%s is damaged, and set aside", path)
        path.replace(self._aside / path.name)

    def _tell_facts(self, kind: Kind | None, facts: str) -> None:
        if kind == "fail":
            holds.fail_facts(self._pool, facts)
            return
        settled = holds.settle_facts(self._pool, facts)
        self._settled_at = time.time()
        if settled.duplicate:
            return
        told = orjson.loads(facts)
        for name in TOKENS:
            metrics.of(metrics.TOKENS, told["provider"], name.removesuffix("_tokens")).inc(told[name])
        metrics.of(metrics.CREDITS, told["provider"]).inc(0 if told["byok"] else settled.credits)

    def _tell_aside(self) -> int:
        """Tell what was set aside again, until a call comes that keeps everybody out: that one goes first."""
        taken = 0
        for path in self._paths(self._aside):
            if _names(self.folder):
                break
            with suppress(LedgerUnavailable):
                taken += self._tell(path) if self._read(path).facts is not None else 0
        return taken

    def _set_aside(self, refused: list[Path], taken: int) -> None:
        """Let an account of whose calls the ledger refuses the first keep nobody else out, where it takes others, or has
        refused for long. Before that the first is told without its texts; the others of the account go with it, since
        each alone would keep everybody out as long."""
        first = refused[0]
        with suppress(FileNotFoundError):
            others = taken > 0 or self._settled_at > first.stat().st_mtime
            if _age(first) > (FIRST_PAUSE if others else ALONE_SECONDS):
                try:
                    self._tell(first, whole=False)
                except LedgerUnavailable:
                    for path in refused:
                        path.replace(self._aside / path.name)
                        log.error("call %s is refused, and set aside: flask billing unsettled", path.stem)

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
    def _turn(self) -> Iterator[bool]:
        """One process at a time tells; the lock goes with its holder, however that ends."""
        self._make_folders()
        with open(self.folder / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _work(self) -> None:
        """See to it that this process tries again in the background."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            threading.Thread(target=self._run, name="stoa-spool", daemon=True).start()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            time.sleep(FIRST_PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            if pause > FIRST_PAUSE:
                self._woken.wait(pause)
            self._woken.clear()  # before the round: what is kept from here on wakes the next one
            taken: int | None = 0
            try:
                taken = self.settle_all()
            except Exception:
                log.exception("the calls in %s could not be told to the ledger", self.folder)
            if self.closed():
                pause = FIRST_PAUSE if taken else min(pause * 2, LONGEST_PAUSE)
            elif self._barred:
                pause = ASIDE_PAUSE
            else:
                self._kept.clear()
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
    """What a file holds; None where that is no call."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        kept = orjson.loads(record)
        kind, facts = kept["kind"], kept["facts"]
        if facts["request_id"] == request_id and kind in ("settle", "fail"):
            Decimal(facts["cost"] if facts.get("cost") is not None else 0)
            return kind, facts
    return None


def _age(path: Path) -> float:
    """Seconds since a file was written; of one from the future, since the clock was put back, how far off it is. Raises
    FileNotFoundError."""
    return abs(time.time() - path.stat().st_mtime)


def _whole(error: LedgerUnavailable) -> bool:
    """Whether the ledger as a whole is unwell, and not with one call only."""
    state = error.sqlstate
    return state is None or (state[:2] in _LEDGERS_OWN and state != _CANCELLED)


def _record(kind: Kind, facts: str) -> bytes:
    return b'{"kind":"%s","facts":%s}' % (kind.encode(), facts.encode())


def _write(path: Path, record: bytes) -> None:
    """Write a file whole and durably, or not at all. Raises OSError."""
    # a name of its own: another may write the same call at the same moment
    handle, name = tempfile.mkstemp(suffix=".new", dir=path.parent)
    made = Path(name)
    try:
        with open(handle, "wb") as file:
            file.write(record)
            file.flush()
            os.fsync(handle)
        made.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        with suppress(OSError):
            made.unlink(missing_ok=True)
        raise
