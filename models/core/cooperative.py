"""Cooperative scheduling of CPU-bound work in a gevent worker.

A worker serves all its requests in one thread, so CPU-bound work blocks every other request. `sleep(0)` is not enough: the
hub resumes the caller before it polls the sockets.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

T = TypeVar("T")

SLICE = 0.005
"""Seconds of work before a pause."""
PAUSE = 0.001
HEAVY = 1 << 20
"""Bytes or characters above which a single step takes tens of milliseconds."""

_heavy_lock = threading.Lock()
_LIGHT = nullcontext()


def heavy(size: int, threshold: int = HEAVY) -> AbstractContextManager[None]:
    """Context for work that cannot pause: yields to other requests, then runs one at a time from `threshold` up.

    Do not nest it, and do no network I/O inside."""
    return _LIGHT if size < threshold else _exclusive()


@contextmanager
def _exclusive() -> Iterator[None]:
    with _heavy_lock:
        time.sleep(PAUSE)
        yield


class TimeSlices:
    """Time slices for work in many small steps. Call `pause` between steps."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    def pause(self) -> None:
        """Yield to other requests if the current slice is over."""
        if time.monotonic() > self._until:
            time.sleep(PAUSE)
            self._until = time.monotonic() + SLICE


def in_slices(items: Iterable[T]) -> Iterator[T]:
    """Iterate over `items`, yielding to other requests between slices."""
    slices = TimeSlices()
    for each in items:
        yield each
        slices.pause()
