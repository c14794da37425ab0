"""Whether what the store shows has changed since it was last drawn, in one cheap question for every worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from models.asking import read_at_once
from models.pool import Pool

T = TypeVar("T")

FIGURES_EVERY = 5.0
"""Seconds: how old figures may be that runs have moved on."""
SHARE = 20
"""What takes a second to make is kept at least so many seconds, when only figures moved."""

STAMP = "coalesce((SELECT stamp FROM store_stamp), 0), (SELECT last_value FROM store_figures)"
"""Two columns of a statement, from which `seen` makes the state that it showed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state of the store: `published` differs whenever a publisher, an agent or a version does, `figures` after
    runs ended or left the week. `steady`: no figures moved for a while, so none are about to be committed."""

    published: int
    figures: int
    steady: bool


@dataclass(slots=True)
class _Seen:
    figures: int = -1
    since: float = 0.0


_seen = _Seen()


def stamp(pool: Pool) -> Stamp:
    """The state of the store now. One statement that reads two rows, and nothing besides."""
    return seen(*read_at_once(pool, f"SELECT {STAMP}")[0])


def seen(published: int, figures: int) -> Stamp:
    """The state of the store that a statement showed."""
    moment = time.monotonic()
    if figures != _seen.figures:
        _seen.figures, _seen.since = figures, moment
    # the count runs ahead of the commits it counts
    return Stamp(published, figures, moment - _seen.since >= FIGURES_EVERY)


class Kept(Generic[T]):
    """Something made from the store and kept in this process, with the state it shows.

    A change of what is published makes it old at once; moved figures make it old after some seconds.
    """

    __slots__ = ("_age", "_lock", "_made_at", "_stamp", "_took", "_value")

    def __init__(self, age: float = float("inf")) -> None:
        self._age = age
        self._lock = Lock()
        self._value: T | None = None
        self._stamp = Stamp(-1, -1, False)
        self._made_at = 0.0
        self._took = 0.0

    def get(self, now: Stamp, make: Callable[[], T]) -> T:
        """What is kept where it still shows `now`, else what `make` makes.

        One caller makes it at a time. Others wait for it when something was published, and else take what there is.
        """
        kept = self._value
        if kept is not None and self._shows(now):
            return kept
        if (
            kept is not None
            and self._stamp.published == now.published
            and not self._lock.acquire(blocking=False)
        ):
            return kept
        if kept is None or self._stamp.published != now.published:
            self._lock.acquire()
        try:
            if self._value is not None and self._shows(now):
                return self._value
            began = time.monotonic()
            made = make()
            self._value, self._stamp, self._made_at = made, now, time.monotonic()
            self._took = self._made_at - began
            return made
        finally:
            self._lock.release()

    def put(self, value: T, stamp: Stamp, took: float) -> None:
        """Keep what was made in so many seconds by a statement that told its own stamp."""
        with self._lock:
            self._value, self._stamp, self._made_at, self._took = value, stamp, time.monotonic(), took

    def _shows(self, now: Stamp) -> bool:
        age = time.monotonic() - self._made_at
        if self._stamp.published != now.published or age > self._age:
            return False
        return age <= max(FIGURES_EVERY, SHARE * self._took) or (
            self._stamp.figures == now.figures and self._stamp.steady
        )
