"""Tries the providers of a call in turn until one answers, and again after a while."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from models.core.db import now
from models.gateway import metrics
from models.gateway.aliases import (
    CONNECT,
    CUT,
    OVERLOADED,
    RATE_LIMIT,
    SERVER_ERROR,
    TIMEOUT,
    ErrorClass,
    RetryPolicy,
)
from models.gateway.call_errors import ProviderError
from models.gateway.chat_format import Call
from models.gateway.circuit_breaker import CircuitBreaker, CircuitBreakers
from models.gateway.in_flight import InFlightCall
from models.gateway.route import Route
from models.gateway.upstream import (
    BrokenConnection,
    ProviderRequest,
    Unreachable,
    UpstreamError,
    UpstreamResting,
    UpstreamTimeout,
)

log = logging.getLogger("stoa.gateway")

Answer = TypeVar("Answer")

BACK_OFF_SECONDS, MAX_BACK_OFF_SECONDS = 0.5, 8.0
"""The first pause before a further round, which doubles each time; half of it is random."""
CIRCUIT_OPEN = "circuit_open"
MAX_RETRY_AFTER = 86_400.0
PAUSE = 0.2
"""Seconds between checks whether a waiting call was stopped."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call prepared for one provider. `hold` is in credits and covers `held_output` tokens; `minimum` is the cost in
    credits of the input and a short answer. All are for `answers` answers. `whole`: the client wants the answer whole."""

    call: Call
    route: Route
    request: ProviderRequest
    answers: int
    held_output: int
    hold: int
    minimum: int
    whole: bool


class ProviderTrials:
    """Tries the providers of one call. `others` prepares those to fall back on, each only when it is needed."""

    def __init__(
        self,
        first: Attempt,
        others: Callable[[], Iterator[Attempt]],
        in_flight: InFlightCall,
        policy: RetryPolicy,
        breakers: CircuitBreakers,
    ) -> None:
        self._attempts = [first]
        self._others = others
        self._in_flight = in_flight
        self._policy = policy
        self._breakers = breakers
        self._started = time.monotonic()
        self._error: ProviderError | UpstreamError | None = None
        """The first one: that of the requested route, unless that may not be called at present."""
        self._route = first.route
        # of the current round: what providers ask for, and an error that another try may mend
        self._retry_after = 0.0
        self._rests = 0.0
        self._mended: ErrorClass = ""

    def run(self, send: Callable[[Attempt], Answer]) -> Answer:
        """The answer of the first provider that gives one. Raises the first error if none does, or UpstreamResting if none may be
        called at present."""
        for round in range(self._policy.attempts + 1):
            self._retry_after, self._rests, self._mended = 0.0, 0.0, ""
            for attempt in self._candidates(first_round=not round):
                breaker = self._breakers.of(attempt.route.provider.name, attempt.route.model)
                if not breaker.admits():
                    self._skip(attempt, breaker)
                    continue
                self._turn_to(attempt, breaker)
                try:
                    answer = send(attempt)
                except (ProviderError, UpstreamError) as error:
                    self._failed(attempt, breaker, error)
                except BaseException:
                    breaker.ended()
                    raise
                else:
                    breaker.succeeded()
                    return answer
            if round == self._policy.attempts or not self._wait(round):
                break
        raise self._end()

    def _candidates(self, *, first_round: bool) -> Iterator[Attempt]:
        if not first_round:
            yield from self._attempts
            return
        yield self._attempts[0]
        for attempt in self._others():
            self._attempts.append(attempt)
            yield attempt

    def _turn_to(self, attempt: Attempt, breaker: CircuitBreaker) -> None:
        call = self._in_flight
        call.breaker = breaker
        previous, call.route = call.route, attempt.route
        if attempt is not self._attempts[0] and previous is not attempt.route:
            names = [each.provider.name for each in (previous, attempt.route)]
            metrics.of(metrics.FAILOVERS, *names).inc()
            reason = call.trail.after[-1][2] if call.trail.after else ""
            log.warning("call %s: failover from %s to %s: %s", call.admission.request_id, *names, reason)

    def _skip(self, attempt: Attempt, breaker: CircuitBreaker) -> None:
        left = breaker.seconds_left
        self._rests = min(self._rests or left, left)
        self._note(attempt, CIRCUIT_OPEN)

    def _failed(
        self, attempt: Attempt, breaker: CircuitBreaker, error: ProviderError | UpstreamError
    ) -> None:
        """Take note of an error. Raises the first one if no other provider may be tried after it."""
        found = error_class(error)
        if self._in_flight.stop_error is None and (found or is_fault(error)) and found != RATE_LIMIT:
            breaker.failed(label(error))
        else:
            breaker.ended()
        seconds = retry_seconds(error.retry_after) if found in (RATE_LIMIT, OVERLOADED) else 0.0
        if seconds:
            breaker.rest(seconds)
            self._retry_after = min(self._retry_after or seconds, seconds)
        first = self._error is None
        if first:
            self._error, self._route = error, attempt.route
        self._mended = found if found in self._policy.on else self._mended
        refused = isinstance(error, ProviderError) and not found
        if self._in_flight.stop_error or (found not in self._policy.on and (first or not refused)):
            raise self._end()
        if not first:
            log.warning("call %s failed again: %s", self._in_flight.admission.request_id, label(error))
        self._note(attempt, label(error))

    def _note(self, attempt: Attempt, error: str) -> None:
        self._in_flight.trail.after.append((attempt.route.provider.name, attempt.route.model, error))

    def _wait(self, round: int) -> bool:
        """Pause before a further round. Returns False if there is no time for one, or the error does not go away. Raises the error
        with which the call is stopped."""
        if not self._mended:
            return False
        pause = min(BACK_OFF_SECONDS * 2**round, MAX_BACK_OFF_SECONDS)
        pause = max(pause * random.uniform(0.5, 1), self._retry_after)  # noqa: S311 - no secret
        moment = time.monotonic()
        if moment + pause > self._started + self._policy.seconds:
            return False
        metrics.of(metrics.RETRIES, self._mended).inc()
        while (left := moment + pause - time.monotonic()) > 0:
            if self._in_flight.stop_error is not None:
                raise self._in_flight.stop_error
            time.sleep(min(left, PAUSE))
        return True

    def _end(self) -> Exception:
        """The error of the call, for which its route stands."""
        route = self._in_flight.route = self._route
        if self._error is not None:
            return self._error
        error = self._breakers.of(route.provider.name, route.model).last_error
        message = f"{route.provider.title} failed too often in the last minute ({error}), and is left alone for a moment. Try again soon."
        return UpstreamResting(message, self._rests)


def error_class(error: ProviderError | UpstreamError) -> ErrorClass:
    """The class of an error before the first byte of an answer, after which another provider may be tried; else empty."""
    if isinstance(error, ProviderError):
        if not error.retryable:
            return ""
        if error.status == 429:
            return RATE_LIMIT
        return OVERLOADED if error.status in (503, 529) else SERVER_ERROR
    if isinstance(error, Unreachable):
        return CONNECT
    if not error.before_answer:
        return ""
    return TIMEOUT if isinstance(error, UpstreamTimeout) else CUT


def is_fault(error: ProviderError | UpstreamError) -> bool:
    """Whether the provider is to blame for an error in the middle of an answer."""
    return isinstance(error, Unreachable | UpstreamTimeout | BrokenConnection)


def label(error: ProviderError | UpstreamError) -> str:
    """The error in a word: a status, or a kind."""
    return str(error.status) if isinstance(error, ProviderError) else error.kind


def retry_seconds(value: str | None) -> float:
    """The seconds of a `Retry-After` header; 0 if there is none, or it cannot be read."""
    if not value:
        return 0.0
    try:
        seconds = (
            float(value) if value[0].isdigit() else (parsedate_to_datetime(value) - now()).total_seconds()
        )
        return seconds if 0 < seconds <= MAX_RETRY_AFTER else 0.0
    except (ValueError, TypeError):
        return 0.0
