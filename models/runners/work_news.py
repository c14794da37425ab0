"""Wakes those who wait for a work or for its runner, in whatever process: NOTIFY of the transaction that changes something."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select

from models.core.db import db
from models.turns.engine import TurnEngine
from models.turns.event_log import CHANNEL

NEWS = "runner "


class WorkNews:
    """The waiters of one process. Made once, for its engine of turns, whose channel it shares."""

    def __init__(self, engine: TurnEngine) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = {}
        engine.log.on_notice.append(self._hear)
        self._listen = engine.log.listen

    @contextmanager
    def watch(self, subject: str) -> Iterator[threading.Event]:
        """An event that is set when there is news of a work or an account: clear it, look, and wait for it, a few seconds at most, as news may be lost."""
        self._listen()
        event = threading.Event()
        with self._lock:
            self._waiting.setdefault(subject, set()).add(event)
        try:
            yield event
        finally:
            with self._lock:
                left = self._waiting[subject]
                left.discard(event)
                if not left:
                    del self._waiting[subject]

    def _hear(self, payload: str) -> None:
        if payload.startswith(NEWS):
            with self._lock:
                for event in self._waiting.get(payload.removeprefix(NEWS), ()):
                    event.set()


def tell_news(subject: str) -> None:
    """Wake the waiters of a work, or of an account's works, at the commit."""
    db.session.execute(select(func.pg_notify(CHANNEL, NEWS + subject)))
