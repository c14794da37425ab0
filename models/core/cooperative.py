"""Work that takes long, done so that the other requests of its process go on.

A worker serves all its requests in one thread: while it works for one, nobody else's socket is looked at. A pause of no
length is not enough, since whoever only gives way is called again before that.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

T = TypeVar("T")

SLICE = 0.005
"""Seconds of work between two pauses."""
PAUSE = 0.001
HEAVY = 1 << 20
"""Bytes or characters from which on a single step takes tens of milliseconds."""

_one_at_a_time = threading.Lock()


_LIGHT = nullcontext()


def heavy(size: int, least: int = HEAVY) -> AbstractContextManager[None]:
    """Around work on so much that cannot pause: of `least` and more one is done at a time, and others have their turn
    before it. Ask nothing of a network inside, and do not nest it."""
    return _LIGHT if size < least else _alone()


@contextmanager
def _alone() -> Iterator[None]:
    with _one_at_a_time:
        time.sleep(PAUSE)
        yield


class TimeSlices:
    """Work in many small steps: `pause` between them pauses when a slice of time is over."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    def pause(self) -> None:
        """Let others have their turn, if it is time."""
        if time.monotonic() > self._until:
            time.sleep(PAUSE)
            self._until = time.monotonic() + SLICE


def in_slices(items: Iterable[T]) -> Iterator[T]:
    """The items, with pauses between them."""
    slices = TimeSlices()
    for each in items:
        yield each
        slices.pause()
