"""Limits of a key a minute: model calls, and tokens of input and output. A sliding window, counted where all rate limits of the
server are: in a file that the processes of a machine share, or in Redis.

What a key may use is known from its last admission, for a few seconds. So a call over the limit is refused before the ledger sees
it, and a process that does not know the key counts the call right after its admission.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any, NamedTuple

from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport

from models.accounts.scopes import CHAT, IMAGES
from models.core.settings import Settings
from models.gateway import metrics
from models.gateway.call_errors import CallRefused
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import CallRequest
from models.gateway.in_flight import InFlightCall
from models.ledger.holds import Admission

log = logging.getLogger("stoa.gateway")

WINDOW = 60
"""Seconds."""
KNOWN_SECONDS = 5.0
"""How long the limits of an admitted key are cached."""
MAX_KNOWN = 10_000
UNLIMITED = 10**15


@dataclass(frozen=True, slots=True)
class KeyRate:
    """The limits in force for one call of a key, and their names in the storage; 0: no limit."""

    requests_name: str
    tokens_name: str
    requests: int
    tokens: int


class RateLeft(NamedTuple):
    """A limit a minute, and what is left of it now; None without one."""

    limit: int | None
    remaining: int | None


@dataclass(frozen=True, slots=True)
class _Known:
    until: float
    admission: Admission


class KeyLimits:
    """Counts the calls and tokens of keys. Safe for threads and greenlets; if the storage fails, calls pass."""

    def __init__(self, storage: Storage, settings: Settings) -> None:
        self.storage = storage
        self._windows: SlidingWindowCounterSupport = storage  # type: ignore[assignment]
        self._default, self._images = settings.stoa_key_rpm, settings.stoa_key_images_rpm
        self._known: dict[str, _Known] = {}

    def take_known(self, request: CallRequest, call: Call) -> Mapping[str, str] | None:
        """Count a call in the limits of its key, if they are known from a moment ago, and return what they leave, as headers; else
        None. Raises CallRefused."""
        secret = request.presented.secret
        found = self._known.get(secret) if secret else None
        if found is None or found.until <= time.monotonic():
            return None
        known, dialect = found.admission, request.dialect
        refused = Admission(
            outcome="key_rate",
            request_id=request.request_id,
            key_id=known.key_id,
            user_id=known.user_id,
            org_id=known.org_id,
            run_id=request.run_id,
            door=dialect.door,
            model=call.model,
        )
        return self._take(self.rate(known, dialect.scope), call, refused)

    def take_admitted(
        self,
        request: CallRequest,
        call: Call,
        in_flight: InFlightCall,
        headers: Mapping[str, str] | None,
    ) -> Mapping[str, str]:
        """Remember the limits of an admitted key, count the call unless `take_known` did (`headers`), and its tokens when it is
        settled. Raises CallRefused."""
        admission, secret = in_flight.admission, request.presented.secret
        if secret is not None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[secret] = _Known(time.monotonic() + KNOWN_SECONDS, admission)
        rate = self.rate(admission, request.dialect.scope)
        if headers is None:
            headers = self._take(rate, call, replace(admission, outcome="key_rate"))
        if rate is not None and rate.tokens:
            in_flight.count_tokens = lambda tokens: self._add_tokens(rate, tokens - call.input_tokens)
        return headers

    def rate(self, admission: Admission, scope: str) -> KeyRate | None:
        """The limits of a call with this key; None without any. The server's defaults count each kind of call of its own."""
        rules = admission.rules
        if rules is None:
            return None
        rate = self._rate(admission.key_id, rules["rpm"], rules["tpm"], scope)
        return rate if rate.requests or rate.tokens else None

    def _rate(self, key_id: str, rpm: int | None, tpm: int | None, scope: str) -> KeyRate:
        default = self._images if scope == IMAGES else self._default
        kind = "" if rpm else f"/{scope}"
        return KeyRate(f"key-requests/{key_id}{kind}", f"key-tokens/{key_id}", rpm or default, tpm or 0)

    def _take(self, rate: KeyRate | None, call: Call, refused: Admission) -> Mapping[str, str]:
        if rate is None:
            return {}
        try:
            headers, refusal = self._count(rate, call.input_tokens)
        except Exception as error:
            log.warning("could not count the calls of a key: %s", type(error).__name__)
            return {}
        if refusal is None:
            return headers
        metrics.of(metrics.ERRORS, refused.door, refused.outcome).inc()
        exceeded = CallRefused(replace(refused, refusal=refusal))
        exceeded.limits = headers
        raise exceeded

    def _count(self, rate: KeyRate, tokens: int) -> tuple[dict[str, str], dict[str, Any] | None]:
        """Count a call with about so many tokens of input. Returns the headers that say what is left, and which limit refuses it."""
        headers: dict[str, str] = {}
        refusal: dict[str, Any] | None = None
        for unit, name, limit, amount in (
            ("requests", rate.requests_name, rate.requests, 1),
            ("tokens", rate.tokens_name, rate.tokens, tokens),
        ):
            if not limit:
                continue
            fits = refusal is None and self._windows.acquire_sliding_window_entry(name, limit, WINDOW, amount)
            window = self._windows.get_sliding_window(name, WINDOW)
            headers |= _headers(unit, limit, window)
            if refusal is None and not fits:
                refusal = {"unit": unit, "limit": limit, "seconds": _wait(window, limit, amount)}
        return headers, refusal

    def _add_tokens(self, rate: KeyRate, tokens: int) -> None:
        """Count tokens of a call that was counted when it began."""
        if tokens <= 0:
            return
        try:
            self._windows.acquire_sliding_window_entry(rate.tokens_name, UNLIMITED, WINDOW, tokens)
        except Exception as error:
            log.warning("could not count the tokens of a key: %s", type(error).__name__)

    def left(self, key_id: str, rpm: int | None, tpm: int | None) -> tuple[RateLeft, RateLeft]:
        """What limits the key's chat calls and tokens a minute, and what is left."""
        rate = self._rate(key_id, rpm, tpm, CHAT)
        return tuple(  # type: ignore[return-value]
            RateLeft(limit or None, self._remaining(name, limit) if limit else None)
            for name, limit in (
                (rate.requests_name, rate.requests),
                (rate.tokens_name, rate.tokens),
            )
        )

    def _remaining(self, name: str, limit: int) -> int | None:
        try:
            return _left(limit, self._windows.get_sliding_window(name, WINDOW))
        except Exception as error:
            log.warning("could not read the calls of a key: %s", type(error).__name__)
            return None


_Window = tuple[int, float, int, float]
"""Count of the previous window and how long it still weighs, count of the current one and how long until it weighs nothing."""


def _left(limit: int, window: _Window) -> int:
    previous, weighs, current, _ = window
    return max(limit - floor(previous * weighs / WINDOW + current), 0)


def _headers(unit: str, limit: int, window: _Window) -> dict[str, str]:
    previous, weighs, current, ends = window
    resets = ends if current else weighs if previous else 0
    return {
        f"x-ratelimit-limit-{unit}": str(limit),
        f"x-ratelimit-remaining-{unit}": str(_left(limit, window)),
        f"x-ratelimit-reset-{unit}": f"{ceil(resets)}s",
    }


def _wait(window: _Window, limit: int, amount: int) -> int:
    """Seconds until `amount` more fit."""
    previous, weighs, current, ends = window
    room = limit - amount + 1
    if current < room:
        return max(ceil(weighs - (room - current) * WINDOW / max(previous, 1)), 1)
    # the current window is the previous one by then
    rest = ends - WINDOW
    return max(ceil(rest + WINDOW - max(room, 0) * WINDOW / current), 1)
