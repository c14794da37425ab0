"""A gate that lets so many pass at once, in the order in which they came."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class NoTurn(Exception):
    """The wait was longer than the patience."""


class Turns:
    """`count` may be inside at once. A turn that ends is handed to whoever has waited longest, so that nobody is
    overtaken."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Lock] = deque()
        self._guard = threading.Lock()

    @contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Wait for a turn, at most so long. Raises NoTurn."""
        self._enter(seconds)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, seconds: float) -> None:
        with self._guard:
            if self._free:
                self._free -= 1
                return
            called = threading.Lock()
            called.acquire()
            self._waiting.append(called)
        came = False
        try:
            came = called.acquire(timeout=max(seconds, 0))
        finally:
            if not came:
                self._give_up(called)
        if not came:
            raise NoTurn

    def _give_up(self, called: threading.Lock) -> None:
        with self._guard:
            if called in self._waiting:
                self._waiting.remove(called)
                return
        # the turn came in the same moment, and goes on to the next
        self._leave()

    def _leave(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
