"""Circuit breakers: an upstream (a model at a provider) that mostly fails is left alone for a while. One set per process."""

import time
from collections.abc import Iterator

from models.gateway import metrics

SLOT_SECONDS, SLOTS = 5.0, 6
"""The sliding window: half a minute."""
MIN_CALLS, MAX_SHARE = 10, 0.5
"""A breaker opens when at least so many calls of the window ended, and this share of them failed."""
OPEN_SECONDS, MAX_OPEN_SECONDS = 10.0, 120.0
"""How long it stays open; twice as long after each probe that fails."""
PROBE_SECONDS = 330.0
"""A probe that says nothing for so long is given up."""
MAX_BREAKERS = 2_000
MAX_RESTING = 120.0


class CircuitBreaker:
    """Closed: calls go through. Open: none do. Half open, after a while: one goes through and decides."""

    __slots__ = (
        "_key",
        "_open_seconds",
        "_open_until",
        "_probe_until",
        "_resting_until",
        "_slots",
        "last_error",
    )

    def __init__(self, provider: str, model: str) -> None:
        self._key = provider, model
        self.last_error = ""
        self._slots: list[list[int]] = []
        self._open_until: float | None = None
        self._open_seconds = OPEN_SECONDS
        self._probe_until = 0.0
        self._resting_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it is open or half open."""
        return self._open_until is not None

    @property
    def seconds_left(self) -> float:
        """Until a call may go through again."""
        return max(max(self._open_until or 0.0, self._probe_until) - time.monotonic(), 0.0)

    @property
    def avoided(self) -> bool:
        """Whether another upstream is the better choice now: this one is open, or asked to be left alone for a while."""
        return self._open_until is not None or self._resting_until > time.monotonic()

    def admits(self) -> bool:
        """Whether a call may go through. If half open, that call is the probe: it must end by `succeeded`, `failed` or `ended`."""
        if self._open_until is None:
            return True
        moment = time.monotonic()
        if moment < self._open_until or moment < self._probe_until:
            return False
        self._probe_until = moment + PROBE_SECONDS
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self._slot()[1] += 1
        if self._open_until is not None:
            self._slots.clear()
            self._open_until, self._open_seconds, self._probe_until = None, OPEN_SECONDS, 0.0
            metrics.of(metrics.OPEN_UPSTREAMS, *self._key).set(0)

    def failed(self, error: str) -> None:
        """A call failed by the upstream's fault; `error` in a word."""
        self.last_error = error
        slot = self._slot()
        slot[1] += 1
        slot[2] += 1
        if self._open_until is not None:
            if self._probe_until:
                self._open_seconds = min(2 * self._open_seconds, MAX_OPEN_SECONDS)
                self._open_until, self._probe_until = time.monotonic() + self._open_seconds, 0.0
            return
        self._open_if_failing()

    def broke_off(self, error: str) -> None:
        """A call that counts as answered broke off: it counts as failed instead."""
        self.last_error = error
        if self._open_until is None:
            self._slot()[2] += 1
            self._open_if_failing()

    def ended(self) -> None:
        """A call ended without saying anything about the upstream."""
        self._probe_until = 0.0

    def rest(self, seconds: float) -> None:
        """The upstream asks to be left alone for so long (`Retry-After`)."""
        self._resting_until = time.monotonic() + min(seconds, MAX_RESTING)

    def _open_if_failing(self) -> None:
        calls, failures = (sum(slot[index] for slot in self._slots) for index in (1, 2))
        if calls >= MIN_CALLS and failures >= MAX_SHARE * calls:
            self._open_until = time.monotonic() + self._open_seconds
            metrics.of(metrics.OPEN_UPSTREAMS, *self._key).set(1)

    def _slot(self) -> list[int]:
        """The current part of the window: its number, calls and failures."""
        number = int(time.monotonic() / SLOT_SECONDS)
        slots = self._slots
        if not slots or slots[-1][0] != number:
            slots.append([number, 0, 0])
            while slots[0][0] <= number - SLOTS:
                del slots[0]
        return slots[-1]


class CircuitBreakers:
    """The breakers of this process."""

    def __init__(self) -> None:
        self._breakers: dict[tuple[str, str], CircuitBreaker] = {}

    def of(self, provider: str, model: str) -> CircuitBreaker:
        """The breaker of a model at a provider."""
        found = self._breakers.get((provider, model))
        if found is None:
            if len(self._breakers) >= MAX_BREAKERS:
                for key in [key for key, each in self._breakers.items() if not each.is_open]:
                    del self._breakers[key]
            found = self._breakers[provider, model] = CircuitBreaker(provider, model)
        return found

    def open(self) -> Iterator[tuple[str, str, CircuitBreaker]]:
        """Those that are open or half open: provider, model, breaker."""
        return ((*key, each) for key, each in [*self._breakers.items()] if each.is_open)

    def clear(self) -> None:
        """Forget everything."""
        self._breakers.clear()
