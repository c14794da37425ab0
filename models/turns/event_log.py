"""The events of turns as one process knows them: written in batches by the process that runs a turn, watched by any.

Events reach watchers in this process at once, and the table within `FLUSH_SECONDS`; NOTIFY on `CHANNEL` then tells the other processes, each of
which reads new events once for all of its watchers.
"""

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import select, text

from models.core.db import db
from models.core.job_queue import Context
from models.core.pool import Pool
from models.turns.turn import ENDED, Turn, TurnEvent

log = logging.getLogger("stoa.turns")

CHANNEL = "stoa_turns"
FLUSH_SECONDS = 0.15
HEARTBEAT_SECONDS = 15.0
"""How often a watcher gets None while nothing happens."""
REFRESH_SECONDS = 5.0
"""How often watched turns are read without a notification, should one be lost."""
DELTAS = ("text.delta", "thinking.delta")
"""Events that are deleted once the whole message is there."""
LAST = tuple(f"turn.{state}" for state in ENDED)
"""Types of the last event of a turn."""

# the lease is checked in the statement that writes: whoever lost it writes nothing more
_WRITE = text("""
WITH event AS (
    SELECT * FROM json_to_recordset(CAST(:events AS json)) AS e (turn_id text, seq integer, type text, data jsonb)
), owned AS (
    UPDATE turn t SET last_seq = e.seq
    FROM (SELECT turn_id, max(seq) AS seq FROM event GROUP BY turn_id) e
    WHERE t.id = e.turn_id AND (t.lease_owner = :owner OR :locked)
    RETURNING t.id
), whole AS (
    SELECT e.turn_id, e.seq, e.data #>> '{message,id}' AS message_id FROM event e WHERE e.type = 'message.completed'
), gone AS (
    DELETE FROM turn_event d USING whole w
    WHERE d.turn_id = w.turn_id AND d.seq < w.seq AND d.type = ANY (:deltas) AND d.data ->> 'message_id' = w.message_id
    AND w.turn_id IN (SELECT id FROM owned)
), written AS (
    INSERT INTO turn_event (turn_id, seq, type, data)
    SELECT e.turn_id, e.seq, e.type, e.data FROM event e JOIN owned o ON o.id = e.turn_id ORDER BY e.turn_id, e.seq
    ON CONFLICT DO NOTHING
)
SELECT pg_notify(:channel, id) FROM owned
""")


class LoggedEvent(NamedTuple):
    """An event of a turn: its number, type and data."""

    seq: int
    type: str
    data: Mapping[str, Any]


class TurnLog:
    """The events of one turn in this process. Safe for threads and greenlets."""

    def __init__(self, turn_id: str) -> None:
        self.turn_id = turn_id
        self.last_seq = 0
        self.written = 0
        """The number of the newest event that the table has."""
        self.watchers = 0
        self.live = False
        """Whether this process runs the turn, so that all events are here."""
        self.read_at = -REFRESH_SECONDS
        """When the table was read (monotonic seconds)."""
        self.over = False
        self.nudges = 0
        """How often its watchers were woken for something that is no event of it."""
        self.changed = threading.Condition()
        self._events: list[LoggedEvent] = []

    def add(self, type: str, data: Mapping[str, Any]) -> LoggedEvent:
        """Number an event, and show it to the watchers."""
        with self.changed:
            event = LoggedEvent(self.last_seq + 1, type, data)
            self._append(event)
            return event

    def receive(self, events: Iterable[LoggedEvent]) -> None:
        """Add events that were read from the table."""
        with self.changed:
            for event in events:
                if event.seq > self.last_seq:
                    self._append(event)
            self.written = self.last_seq

    def cut(self) -> None:
        """The turn was deleted: its watchers end."""
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def _append(self, event: LoggedEvent) -> None:
        if event.type == "message.completed":
            # what a watcher would still need of it is in this event
            whole = event.data["message"]["id"]
            self._events = [
                each
                for each in self._events
                if not (each.type in DELTAS and each.data["message_id"] == whole and each.seq <= self.written)
            ]
        self._events.append(event)
        self.last_seq = event.seq
        self.over = self.over or event.type in LAST
        self.changed.notify_all()

    def since(self, seq: int) -> list[LoggedEvent]:
        """The events after number `seq`."""
        with self.changed:
            return self._events[bisect_right(self._events, seq, key=attrgetter("seq")) :]

    def unwritten(self, more: Sequence[LoggedEvent] = ()) -> list[LoggedEvent]:
        """The events that the table does not have yet, and `more`, without pieces of messages that are whole by now."""
        found = [*self.since(self.written), *more]
        whole = {event.data["message"]["id"] for event in found if event.type == "message.completed"}
        return [event for event in found if not (event.type in DELTAS and event.data["message_id"] in whole)]


class EventLog:
    """The logs of one process. `owner` is its name in the leases of the turns that it runs."""

    def __init__(self, context: Context, pool: Pool, owner: str) -> None:
        self.owner = owner
        self._context = context
        self._pool = pool
        self._lock = threading.Lock()
        self._running: dict[str, TurnLog] = {}
        self._watched: dict[str, TurnLog] = {}
        self._writing = threading.Event()
        self._started = False
        self.on_notice: list[Callable[[str], None]] = []
        """Called with each notification: the id of a turn that has new events, or a request to stop it."""

    # -- the process that runs a turn ------------------------------------------------------------------------

    def open(self, turn_id: str, last_seq: int) -> TurnLog:
        """The log of a turn that this process runs from now on."""
        self._start()
        with self._lock:
            own = self._watched.pop(turn_id, None) or TurnLog(turn_id)
            self._running[turn_id] = own
        if own.last_seq < last_seq:
            self._refresh(own)
            own.last_seq = own.written = max(own.last_seq, last_seq)
        own.live = True
        return own

    def close(self, own: TurnLog) -> None:
        """This process runs the turn no longer."""
        with self._lock:
            if self._running.pop(own.turn_id, None) and own.watchers:
                self._watched[own.turn_id] = own
        own.live = False

    def wake(self) -> None:
        """There are new events to write."""
        self._writing.set()

    def write(self, own: TurnLog, more: Sequence[LoggedEvent]) -> int:
        """Write what is not written yet, and `more`, in the current transaction, which holds the turn's lock and has checked its lease; the
        other processes are told at its commit. Returns the number of the newest event that is written then."""
        newest = own.last_seq
        if events := own.unwritten(more):
            self._write([(own, events)], locked=True)
            newest = max(newest, events[-1].seq)
        return newest

    def _write(self, batch: Sequence[tuple[TurnLog, list[LoggedEvent]]], *, locked: bool = False) -> None:
        rows = [
            {"turn_id": own.turn_id, "seq": each.seq, "type": each.type, "data": each.data}
            for own, events in batch
            for each in events
        ]
        values = {"events": orjson.dumps(rows).decode(), "owner": self.owner, "locked": locked}
        db.session.execute(_WRITE, {**values, "deltas": list(DELTAS), "channel": CHANNEL})

    def flush(self) -> None:
        """Write what is not written yet. Raises errors of the database, and tries the same again at the next call."""
        with self._lock:
            logs = list(self._running.values())
        found = [(own, events) for own in logs if (events := own.unwritten())]
        if not found:
            return
        with self._context():
            self._write(found)
            db.session.commit()
        for own, events in found:
            own.written = max(own.written, events[-1].seq)

    def _run_writer(self) -> None:
        failing = False
        while True:
            self._writing.wait()
            time.sleep(FLUSH_SECONDS)
            self._writing.clear()
            try:
                self.flush()
                failing = False
            except Exception as error:
                if not failing:
                    log.warning("events of turns could not be written: %s", type(error).__name__)
                failing = True
                self._writing.set()

    # -- watchers --------------------------------------------------------------------------------------------

    def watch(self, turn_id: str, after: int = 0) -> Iterator[LoggedEvent | None]:
        """The events of a turn after number `after`, as they come, until its last one; None every `HEARTBEAT_SECONDS` without one.
        The caller has checked who may see it. Holds no connection while it waits."""
        yield from self.watch_now(turn_id, after)

    def watch_now(
        self, turn_id: str, after: int = 0, *, begins: bool = False
    ) -> Iterator[LoggedEvent | None]:
        """As `watch`, from this moment on, also if the turn is deleted before the first event is asked for. The caller asks for one.
        `begins`: it has no events yet."""
        return _one_by_one(self.watch_batches(turn_id, after, begins=begins))

    def watch_batches(
        self, turn_id: str, after: int = 0, *, begins: bool = False
    ) -> Iterator[list[LoggedEvent]]:
        """As `watch_now`, with the events that are there together, none for a heartbeat: a reader that pauses between two batches gets what came
        meanwhile at once."""
        self._start()
        with self._lock:
            found = self._running.get(turn_id) or self._watched.get(turn_id)
            if found is None:
                found = self._watched[turn_id] = TurnLog(turn_id)
                if begins:
                    found.read_at = time.monotonic()
            found.watchers += 1
        return self._watch(found, after)

    def _watch(self, found: TurnLog, after: int) -> Iterator[list[LoggedEvent]]:
        try:
            yield from self._events(found, after)
        finally:
            with self._lock:
                found.watchers -= 1
                if not found.watchers and self._watched.get(found.turn_id) is found:
                    del self._watched[found.turn_id]

    def nudge(self, turn_id: str) -> None:
        """Let the watchers of a turn have a heartbeat at once."""
        with self._lock:
            found = self._running.get(turn_id) or self._watched.get(turn_id)
        if found is not None:
            with found.changed:
                found.nudges += 1
                found.changed.notify_all()

    def _events(self, found: TurnLog, after: int) -> Iterator[list[LoggedEvent]]:
        quiet = time.monotonic()
        nudges = found.nudges
        while True:
            if not (found.live or found.over) and time.monotonic() - found.read_at >= REFRESH_SECONDS:
                self._refresh(found)
            if events := found.since(after):
                yield events
                after = events[-1].seq
                quiet = time.monotonic()
                continue
            if found.over:
                return
            with found.changed:
                if found.last_seq <= after and not found.over and found.nudges == nudges:
                    found.changed.wait(timeout=min(HEARTBEAT_SECONDS, REFRESH_SECONDS))
            if time.monotonic() - quiet >= HEARTBEAT_SECONDS or found.nudges != nudges:
                quiet, nudges = time.monotonic(), found.nudges
                yield []

    def _refresh(self, found: TurnLog) -> None:
        """Read new events from the table, for all watchers of this process."""
        found.read_at = time.monotonic()
        with self._context():
            query = (
                select(TurnEvent.seq, TurnEvent.type, TurnEvent.data)
                .where(TurnEvent.turn_id == found.turn_id, TurnEvent.seq > found.last_seq)
                .order_by(TurnEvent.seq)
            )
            events = [LoggedEvent(*row) for row in db.session.execute(query)]
            exists = db.session.scalar(select(Turn.id).where(Turn.id == found.turn_id)) is not None
        found.receive(events)
        if not exists:
            found.cut()

    # -- notifications ---------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Hear notifications from now on. Idempotent."""
        self._start()

    def _start(self) -> None:
        with self._lock:
            started, self._started = self._started, True
        if started:
            return
        threading.Thread(target=self._run_writer, name="stoa-turn-events", daemon=True).start()
        threading.Thread(target=self._listen, name="stoa-turn-listener", daemon=True).start()

    def _listen(self) -> None:
        failing = False
        while True:
            try:
                with self._pool.connect() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    failing = False
                    for notice in connection.notifies():
                        self._notice(notice.payload)
            except Exception as error:
                if not failing:
                    log.warning("not listening for turns: %s", type(error).__name__)
                failing = True
                time.sleep(1.0)

    def _notice(self, payload: str) -> None:
        for listener in self.on_notice:
            listener(payload)
        with self._lock:
            found = self._watched.get(payload)
        if found is not None:
            try:
                self._refresh(found)
            except Exception as error:
                # its watchers read it themselves a little later
                log.warning("events of a turn could not be read: %s", type(error).__name__)


def _one_by_one(batches: Iterator[list[LoggedEvent]]) -> Iterator[LoggedEvent | None]:
    for batch in batches:
        if not batch:
            yield None
        yield from batch
