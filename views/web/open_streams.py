"""The event streams of turns that this process serves: each holds a connection and a thread until its turn ends, so their number is limited."""

import threading
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from flask import Flask, current_app

from models.accounts.key_format import present
from models.core.errors import DomainError
from views.web.guards import api_key

PERSONS = 2
"""How many times as many streams as a key a person has, so that one key does not close the pages to its owner."""


class TooManyStreams(DomainError):
    """The key, or the person, has as many streams open as this server allows."""

    status = 429
    code = "too_many_streams"
    retry_after = 10

    def __init__(self, count: int, whose: str) -> None:
        super().__init__(
            f"{count} event streams of this {whose} are open. Close one, or poll the turn instead of streaming its events."
        )


class StreamRoom:
    """Room for one stream, and the stream that takes it. The room is free when the stream ends or is closed, or nobody knows of it any more."""

    def __init__(self, left: "deque[tuple[str, ...]]", names: tuple[str, ...]) -> None:
        # whatever runs this, the collector of garbage too, waits for no lock
        self._leave = weakref.finalize(self, left.append, names)
        self._leave.atexit = False
        self._frames: Iterator[bytes] = iter(())

    def stream(self, frames: Iterator[bytes]) -> "StreamRoom":
        """The stream of these frames."""
        self._frames = frames
        return self

    def __iter__(self) -> "StreamRoom":
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def close(self) -> None:
        """End the stream."""
        try:
            with suppress(AttributeError):
                self._frames.close()  # type: ignore[attr-defined]
        finally:
            self._leave()


class OpenStreams:
    """The streams of a process. `limit` is that of a key (`STOA_EVENT_STREAMS`)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._left: deque[tuple[str, ...]] = deque()

    def room(self, user_id: str, key_id: str | None) -> StreamRoom:
        """Room for one stream. Raises TooManyStreams."""
        limits = {f"account {user_id}": PERSONS * self.limit}
        if key_id is not None:
            limits[f"key {key_id}"] = self.limit
        with self._lock:
            while self._left:
                self._open.subtract(self._left.popleft())
            self._open = +self._open
            for name, limit in limits.items():
                if self._open[name] >= limit:
                    raise TooManyStreams(limit, name.partition(" ")[0])
            self._open.update(limits.keys())
        return StreamRoom(self._left, tuple(limits))


def init_app(app: Flask) -> None:
    """Create the register of this process's streams."""
    app.extensions["open_streams"] = OpenStreams(app.extensions["settings"].stoa_event_streams)


def stream_room(user_id: str) -> StreamRoom:
    """Room for a stream of this person, by the key of the current request, if it has one. Ask for it before a turn begins whose events it is for. Raises
    TooManyStreams."""
    token = api_key()
    streams = cast(OpenStreams, current_app.extensions["open_streams"])
    return streams.room(user_id, present(token).id if token else None)
