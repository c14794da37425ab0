"""Wakes those in this process who wait for news of something, told on the channel of turns by whatever process changes it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from models.turns.engine import TurnEngine


class NewsWaiters:
    """The waiters of one process for news with one prefix. Made once, for its engine of turns, whose channel it shares."""

    def __init__(self, engine: TurnEngine, prefix: str) -> None:
        self._prefix = prefix
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = {}
        self._listen = engine.log.listen
        engine.log.on_notice.append(self._hear)

    @contextmanager
    def watch(self, subject: str) -> Iterator[threading.Event]:
        """An event that is set when there is news of the subject: clear it, look, and wait for it, a few seconds at most, as news may be lost."""
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
        if payload.startswith(self._prefix):
            with self._lock:
                for event in self._waiting.get(payload.removeprefix(self._prefix), ()):
                    event.set()
