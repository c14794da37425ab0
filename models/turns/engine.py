"""Runs turns in one process: a thread each, leases that are renewed every second, and those of workers that are gone taken over.

A turn's work is code of the room that its conversation belongs to, registered by `register_kind`. It runs outside of any transaction, makes its
model calls through the gateway, and changes rows in short transactions, `TurnHandle.step`, which check that the lease is still its own.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from sqlalchemy import select

from models.accounts.key_format import PresentedKey
from models.core.db import db, now
from models.core.job_queue import Context
from models.gateway.in_flight import worker_name
from models.gateway.relay import Gateway
from models.turns import turn_verbs
from models.turns.event_log import EventLog, LoggedEvent
from models.turns.turn import ENDED, Turn
from models.turns.turn_verbs import LEASE_SECONDS, STOP, NextTurn

log = logging.getLogger("stoa.turns")

TICK_SECONDS = 1.0
FAILED = "The turn failed on our side."


class LeaseLost(Exception):
    """Another worker runs the turn now, or it was deleted. Whatever this one does has no effect."""


class TurnWork(Protocol):
    """The work of one kind of turn."""

    def run(self, handle: "TurnHandle", *, taken_over: bool) -> None:
        """Run a leased turn until it ends or waits. `taken_over`: its worker died meanwhile, at any point."""


_KINDS: dict[str, TurnWork] = {}


def register_kind(kind: str, work: TurnWork) -> None:
    """Name the code that runs a kind of turn."""
    _KINDS[kind] = work


class TurnHandle:
    """A turn that this process runs. `request` is what was asked for, `key` what its calls are made with."""

    def __init__(self, engine: "TurnEngine", turn: Turn) -> None:
        self.id = turn.id
        self.kind = turn.kind
        self.subject_id = turn.subject_id
        self.branch_id = turn.branch_id
        self.account_id = turn.account_id
        self.user_id = turn.user_id
        self.key = PresentedKey(turn.key_id, turn.key_secret)
        self.request: Mapping[str, Any] = turn.request
        self.run_id = turn.run_id
        self.gateway = engine.gateway
        self.context = engine.context
        self.stopped: str | None = turn.stop
        """`stop` or `interrupt` when the turn is to end; `shutdown` when this server does."""
        self.owner = engine.owner
        """The process that runs it, as its lease names it."""
        self._engine = engine
        self._log = engine.log.open(turn.id, turn.last_seq)
        self._staged: list[tuple[str, Mapping[str, Any]]] = []
        self._on_stop: Callable[[], None] | None = None
        self._lost = False
        left = (turn.lease_until - now()).total_seconds() if turn.lease_until is not None else 0.0
        self.leased_until = time.monotonic() + left
        """Until when nobody takes the turn over (monotonic seconds)."""

    def has_lease(self) -> bool:
        """Whether no other worker has the turn. Asks the database only if one may have."""
        if self._lost or time.monotonic() < self.leased_until:
            return not self._lost
        with self.context():
            owner = db.session.scalar(select(Turn.lease_owner).where(Turn.id == self.id))
        return owner == self._engine.owner

    def emit(self, type: str, data: Mapping[str, Any]) -> None:
        """Tell the watchers something now; it is written soon. Raises LeaseLost."""
        if self._lost:
            raise LeaseLost
        self._log.add(type, data)
        self._engine.log.wake()

    @contextmanager
    def step(self) -> Iterator[Turn]:
        """A transaction with the turn's row locked, committed at the end; events of `record` are in it. Raises LeaseLost, and what the
        block raises."""
        log = self._engine.log
        with self.context():
            turn = db.session.scalars(
                select(Turn).where(Turn.id == self.id, Turn.lease_owner == log.owner).with_for_update()
            ).one_or_none()
            if turn is None or self._lost:
                self._lost = True
                raise LeaseLost
            self._staged = []
            yield turn
            first = self._log.last_seq + 1
            staged = [LoggedEvent(first + number, *each) for number, each in enumerate(self._staged)]
            if turn.state != "running":
                turn.lease_owner = turn.lease_until = None
            written = log.write(self._log, staged)
            db.session.commit()
        self._log.receive(staged)
        self._log.written = max(self._log.written, written)

    def events(self) -> list[LoggedEvent]:
        """The events so far, also those of a worker that had the turn before."""
        return self._log.since(0)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction without the turn's lock, committed at the end: for work that takes long, and whose rows nobody reads before the turn names
        them."""
        with self.context():
            yield
            db.session.commit()

    def record(self, type: str, data: Mapping[str, Any]) -> None:
        """Within `step`: an event of its transaction, told when it is committed."""
        self._staged.append((type, data))

    def end(
        self, turn: Turn, state: str, *, code: str | None = None, message: str | None = None, **data: Any
    ) -> None:
        """Within `step`: end the turn, with its last event."""
        turn_verbs.ended(turn, state, code=code, message=message)
        self.record(
            f"turn.{state}",
            {"state": state, "code": code, "message": message, "credits": turn.credits, **data},
        )

    @contextmanager
    def after_end(self) -> Iterator[Turn | None]:
        """A transaction with the turn's row locked, once it has ended, committed at the end. None: it waits, or was deleted."""
        with self.context():
            ended = select(Turn).where(Turn.id == self.id, Turn.ended_at.is_not(None))
            yield db.session.scalars(ended.with_for_update()).one_or_none()
            db.session.commit()

    def on_stop(self, stop: Callable[[], None] | None) -> None:
        """What to do at once when the turn is to end: a function that is safe to call from any thread."""
        self._on_stop = stop
        if stop is not None and self.stopped:
            stop()

    def stop(self, how: str) -> None:
        """The turn is to end."""
        self.stopped = self.stopped or how
        if self._on_stop is not None:
            self._on_stop()

    def lose(self) -> None:
        """Another worker has the lease."""
        self._lost = True
        self.stop("lost")

    def close(self) -> None:
        """This process is done with the turn."""
        self._engine.log.close(self._log)


class TurnEngine:
    """The turns of one process."""

    def __init__(self, context: Context, gateway: Gateway) -> None:
        self.context = context
        self.gateway = gateway
        self.owner = f"{worker_name()}:{uuid.uuid4().hex[:12]}"
        self.log = EventLog(context, gateway.pool, self.owner)
        self.log.on_notice.append(self._hear)
        self._lock = threading.Lock()
        self._handles: dict[str, TurnHandle] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closing = False
        self._ticking = self._serving = False

    def start(self) -> None:
        """Take over turns of workers that are gone, from now on until `close`. Idempotent. A process that does not call it renews
        the leases of its own turns while there are any."""
        self._serving = True
        self._keep_ticking()

    def run(self, turn_id: str, *, taken_over: bool = False, leased: Turn | None = None) -> None:
        """Run a turn that is leased to this process, in a thread of its own. Call it after the commit. `leased`: its row, as it was committed
        a moment ago, which is then not read again."""
        with self._lock:
            if self._closing:
                # its lease ends by itself, and another worker runs it
                return
            # a turn that waited goes on before the thread that it waited in has ended
            before = self._threads.get(turn_id)
            handle = TurnHandle(self, leased) if leased is not None and before is None else None
            if handle is not None:
                self._handles[turn_id] = handle
            thread = threading.Thread(
                target=self._run, args=(turn_id, taken_over, before, handle), name="stoa-turn", daemon=True
            )
            self._threads[turn_id] = thread
            thread.start()
        self._keep_ticking()

    def idle(self, timeout: float = 10.0) -> bool:
        """Wait until no turn runs here; False after `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._threads and time.monotonic() < end:
            time.sleep(0.01)
        return not self._threads

    def close(self, timeout: float = 4.0) -> None:
        """The server stops: turns end as interrupted, with what they have."""
        with self._lock:
            self._closing = True
            handles = list(self._handles.values())
        for handle in handles:
            handle.stop("shutdown")
        self.idle(timeout)

    # -- one turn --------------------------------------------------------------------------------------------

    def _run(
        self, turn_id: str, taken_over: bool, before: threading.Thread | None, handle: TurnHandle | None
    ) -> None:
        if before is not None:
            before.join()
        try:
            handle = handle or self._open(turn_id)
            if handle is not None:
                self._work(handle, taken_over)
        except Exception:
            log.exception("turn %s failed", turn_id)
        finally:
            with self._lock:
                self._handles.pop(turn_id, None)
            if handle is not None:
                handle.close()
            with self._lock:
                if self._threads.get(turn_id) is threading.current_thread():
                    del self._threads[turn_id]

    def _open(self, turn_id: str) -> TurnHandle | None:
        with self.context():
            turn = db.session.get(Turn, turn_id)
            if turn is None or turn.lease_owner != self.owner:
                return None
            handle = TurnHandle(self, turn)
        with self._lock:
            self._handles[turn_id] = handle
        return handle

    def _work(self, handle: TurnHandle, taken_over: bool) -> None:
        try:
            _KINDS[handle.kind].run(handle, taken_over=taken_over)
        except LeaseLost:
            log.warning("turn %s is left to another worker", handle.id)
            return
        except Exception:
            log.exception("turn %s failed", handle.id)
            with suppress(LeaseLost), handle.step() as turn:
                if turn.state == "running":
                    handle.end(turn, "failed", code="internal_error", message=FAILED)
        self._run_next(handle.branch_id)

    def _run_next(self, branch_id: str) -> None:
        """Run the turn that waits for the branch, unless this one is still active."""
        with self.context():
            found = turn_verbs.next_queued(branch_id, self.owner)
            db.session.commit()
        if found is not None:
            self.run(found.id)

    # -- leases ----------------------------------------------------------------------------------------------

    def _hear(self, payload: str) -> None:
        if payload.startswith(STOP):
            handle = self._handles.get(payload.removeprefix(STOP))
            if handle is not None:
                self._renew([handle.id])

    def _keep_ticking(self) -> None:
        with self._lock:
            ticking, self._ticking = self._ticking, True
        if not ticking:
            threading.Thread(target=self._tick_on, name="stoa-turn-leases", daemon=True).start()

    def _tick_on(self) -> None:
        failing = False
        while True:
            with self._lock:
                if not (self._threads or (self._serving and not self._closing)):
                    self._ticking = False
                    return
            try:
                self.tick()
                failing = False
            except Exception as error:
                if not failing:
                    log.warning("leases of turns could not be renewed: %s", type(error).__name__)
                failing = True
            time.sleep(TICK_SECONDS)

    def tick(self) -> None:
        """Renew the leases of this process, and take over what others left behind."""
        with self._lock:
            ids = list(self._threads)
        if ids:
            self._renew(ids)
        if self._closing:
            return
        found: list[tuple[NextTurn, bool]] = []
        with self.context():
            found += [(each, True) for each in turn_verbs.reclaim(self.owner)]
            found += [(each, True) for each in turn_verbs.take_expired(self.owner)]
            found += [(each, False) for each in turn_verbs.take_forgotten(self.owner)]
            db.session.commit()
        for each, taken_over in found:
            self.run(each.id, taken_over=taken_over)

    def _renew(self, ids: list[str]) -> None:
        until = time.monotonic() + LEASE_SECONDS
        with self.context():
            still = turn_verbs.renew(self.owner, ids)
            db.session.commit()
        for turn_id in ids:
            handle = self._handles.get(turn_id)
            if handle is None:
                continue
            if turn_id not in still:
                # it may have ended a moment ago
                self._check_lost(handle)
                continue
            handle.leased_until = until
            if how := still[turn_id]:
                handle.stop(how)

    def _check_lost(self, handle: TurnHandle) -> None:
        with self.context():
            found = db.session.execute(select(Turn.lease_owner).where(Turn.id == handle.id)).one_or_none()
        # without an owner it has ended, or waits
        if found is None or found[0] not in (None, self.owner):
            handle.lose()


def is_over(turn: Turn) -> bool:
    """Whether a turn has ended."""
    return turn.state in ENDED
