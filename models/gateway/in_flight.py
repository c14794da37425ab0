"""The paper of one admitted call: its hold is kept alive, and it is settled or failed exactly once."""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from models.core.pool import Pool
from models.gateway import metrics
from models.gateway.chat_format import Call, Usage
from models.gateway.routing import Route, held_credits
from models.gateway.spool import Spool
from models.gateway.upstream import UpstreamError
from models.ledger import holds
from models.ledger.group_commit import GroupCommit
from models.ledger.holds import (
    Admission,
    AdmissionRequest,
    CallFailure,
    LedgerUnavailable,
    Settled,
    Settlement,
)

log = logging.getLogger("stoa.gateway")

HOLD_SECONDS = 35
"""How long a hold outlives its worker's last word. With the sweep, every 20 seconds, a dead one's are gone in a minute."""
KEEP_SECONDS = 20


class HoldNotGrown(UpstreamError):
    """An answer became longer than may be delivered while the ledger is away."""

    status = 503
    kind = type = "ledger_unavailable"


class OutOfCredits(UpstreamError):
    """The answer became longer than there are credits for."""

    status = 402
    kind = type = "insufficient_credits"


class HoldRenewer:
    """Extends the holds of every call this process has in flight, in one statement now and then."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._live: dict[str, float] = {}
        self._pid = 0

    def add(self, request_id: str) -> None:
        """Keep a call's hold alive from now on."""
        with self._lock:
            self._live[request_id] = time.monotonic()
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="stoa-holds", daemon=True).start()

    def drop(self, request_id: str) -> None:
        """The call is over."""
        with self._lock:
            self._live.pop(request_id, None)

    def _run(self) -> None:
        while True:
            time.sleep(KEEP_SECONDS / 2)
            with self._lock:
                aged = time.monotonic() - KEEP_SECONDS / 2
                due = [request_id for request_id, since in self._live.items() if since <= aged]
            try:
                if due:
                    holds.extend_holds(self._pool, due, ttl_seconds=HOLD_SECONDS)
            except Exception:
                # the next round tries again; a hold that lapsed meanwhile is revived by it or by settling
                log.exception("the holds of %d calls could not be extended", len(due))


class Admissions:
    """Where the calls of this process are admitted: those that come at the same moment, together."""

    def __init__(self, pool: Pool, free_credits: int) -> None:
        self.pool = pool
        self.admit = GroupCommit[AdmissionRequest, Admission](self._one, self._many)
        self._terms: dict[str, Any] = {"ttl_seconds": HOLD_SECONDS, "free_credits": free_credits}

    def _one(self, claim: AdmissionRequest) -> Admission:
        return holds.admit(self.pool, claim, worker=worker_name(), **self._terms)

    def _many(self, claims: list[AdmissionRequest]) -> list[Admission]:
        return holds.admit_many(self.pool, claims, worker=worker_name(), timeout_seconds=0, **self._terms)


class Settlements:
    """Where the calls of this process are settled: those that end at the same moment, together. What the ledger does not
    take at once is kept in the spool from the first trouble on, so that a worker killed meanwhile loses nothing."""

    def __init__(self, pool: Pool, spool: Spool) -> None:
        self.pool = pool
        self.spool = spool
        self.settle = GroupCommit[tuple[Admission, Settlement], Settled](self._one, self._many)

    def _one(self, call: tuple[Admission, Settlement]) -> Settled:
        settled = holds.settle(self.pool, *call, on_failure=partial(self.spool.keep, "settle"))
        self.spool.settled(settled.request_id)
        return settled

    def _many(self, calls: list[tuple[Admission, Settlement]]) -> list[Settled]:
        together = holds.settle_many(self.pool, calls, timeout_seconds=0)
        for settled in together:
            self.spool.settled(settled.request_id)
        return together

    def fail(self, admission: Admission, failure: CallFailure) -> None:
        """Write down a call that costs nothing. Raises LedgerUnavailable."""
        holds.fail(self.pool, admission, failure, on_failure=partial(self.spool.keep, "fail"))
        self.spool.settled(admission.request_id)


@dataclass(frozen=True, slots=True)
class CallMetadata:
    """What a call's row needs beside usage and price."""

    door: str
    requested_model: str
    stream: bool
    started_at: datetime
    started: float
    """Monotonic seconds."""
    client_id: str | None = None
    kept_request: Any = field(default=None, repr=False)


class InFlightCall:
    """An admitted call. `settle` and `fail` may be called from any path; the first one counts."""

    def __init__(
        self,
        till: Settlements,
        keeper: HoldRenewer,
        admission: Admission,
        facts: CallMetadata,
        route: Route,
        margin: Decimal,
    ) -> None:
        self.admission = admission
        self.facts = facts
        self.route = route
        self.ttft_ms: int | None = None
        self.settled: Settled | None = None
        self.over = False
        self._till = till
        self._keeper = keeper
        self._margin = margin
        self._lock = threading.Lock()
        self._held = admission.hold
        keeper.add(admission.request_id)
        metrics.IN_FLIGHT.inc()

    def first_token(self) -> None:
        """The first token has come."""
        if self.ttft_ms is None:
            self.ttft_ms = self._elapsed()
            metrics.of(metrics.FIRST_BYTE, self.route.provider.name).observe(self.ttft_ms / 1000)

    def grow(self, needed: int, wanted: int) -> int | None:
        """Hold more credits for the call: how many it holds then, or None when `needed` of them are not free. While the
        ledger is away it may go on to twice of what it held last. Raises HoldNotGrown beyond that."""
        try:
            grown = holds.grow_hold(
                self._till.pool, self.admission.request_id, needed=needed, requested=wanted
            )
        except LedgerUnavailable:
            log.warning("the hold of call %s could not grow", self.admission.request_id)
            if needed > 2 * self._held:
                raise HoldNotGrown(
                    "The credit ledger cannot be reached, so this answer ends here. Ask again in a moment."
                ) from None
            return min(wanted, 2 * self._held)
        self._held = grown or self._held
        return grown

    def cover(self, call: Call, output_tokens: int) -> int:
        """Let an answer in flight go on: hold credits for twice the output it has by now, or for as much as there are
        credits. Returns the tokens covered. Raises OutOfCredits when not even those that are there are."""
        needed, wanted = (
            held_credits(self.route.cost_up_to(call, tokens, call.n), self._margin)
            for tokens in (output_tokens, 2 * output_tokens)
        )
        if not wanted:
            return 2 * output_tokens
        held = self.grow(needed, wanted)
        if held is None:
            raise OutOfCredits("Your credits ran out while this answer was written, so it ends here.")
        if held >= wanted:
            return 2 * output_tokens
        return output_tokens + output_tokens * (held - needed) // (wanted - needed)

    def holds(self, credits: int) -> bool:
        """Whether the call holds so many credits, more being held if they are free and it holds any. Nothing changes
        when they are not."""
        if credits > self._held > 0:
            with suppress(LedgerUnavailable):
                request_id = self.admission.request_id
                grown = holds.grow_hold(self._till.pool, request_id, needed=credits, requested=credits)
                self._held = grown or self._held
        return credits <= self._held

    def settle(
        self,
        usage: Usage,
        cost: Decimal,
        price: Mapping[str, str],
        *,
        model: str | None,
        message_id: str | None,
        response: Any,
        reasoning: str,
        client_gone: bool = False,
        error: str | None = None,
    ) -> Settled | None:
        """Charge the call and write its rows; durable when this returns. None when the call was over before.

        Raises LedgerUnavailable when the ledger does not take it; it is settled from the spool as soon as it does.
        """
        if not self._claim():
            return None
        provider = self.route.provider.name
        settlement = holds.Settlement(
            provider=provider,
            requested_model=self.facts.requested_model,
            model=model or self.route.model,
            usage_source=usage.source,  # type: ignore[arg-type]
            uncached_input_tokens=usage.uncached_input,
            cache_write_tokens=usage.cache_write,
            cache_read_tokens=usage.cache_read,
            output_tokens=usage.output,
            reasoning_tokens=usage.reasoning,
            cost=cost,
            margin=self._margin,
            latency_ms=self._elapsed(),
            started_at=self.facts.started_at,
            response=response,
            reasoning_text=reasoning,
            message_id=message_id,
            price={name: figure for name, figure in price.items() if name != "flags"},
            parts=dict(usage.parts),
            raw_usage=usage.raw,
            flags=price.get("flags", "").split(),
            byok=self.route.byok is not None,
            request=self.facts.kept_request,
            client_id=self.facts.client_id,
            stream=self.facts.stream,
            client_gone=client_gone,
            ttft_ms=self.ttft_ms,
            error=error,
        )
        outcome = "unsettled"
        try:
            with metrics.timed("settle"):
                self.settled = self._till.settle((self.admission, settlement))
            outcome = "cut" if error else "settled"
        except LedgerUnavailable:
            metrics.of(metrics.ERRORS, self.facts.door, "ledger_unavailable").inc()
            raise
        except BaseException:
            log.exception("call %s used its provider and could not be settled", self.admission.request_id)
            raise
        finally:
            if self.settled is None:
                self._till.spool.keep("settle", holds.settlement_facts(self.admission, settlement))
            self._leave(outcome)
        for bucket in ("uncached_input", "cache_write", "cache_read", "output", "reasoning"):
            if tokens := getattr(usage, bucket):
                metrics.of(metrics.TOKENS, provider, bucket).inc(tokens)
        metrics.of(metrics.CREDITS, provider).inc(0 if self.route.byok else self.settled.credits)
        return self.settled

    def fail(self, kind: str, status: int | None, *, client_gone: bool = False) -> None:
        """End the call without a charge. Does nothing when it is over; never raises."""
        if not self._claim():
            return
        failure = holds.CallFailure(
            requested_model=self.facts.requested_model,
            provider=self.route.provider.name,
            model=self.route.model,
            started_at=self.facts.started_at,
            latency_ms=self._elapsed(),
            error=kind,
            http_status=status,
            stream=self.facts.stream,
            client_gone=client_gone,
            ttft_ms=self.ttft_ms,
        )
        try:
            with metrics.timed("fail"):
                self._till.fail(self.admission, failure)
        except Exception:
            log.exception("the failed call %s could not be written down", self.admission.request_id)
        finally:
            self._leave("failed")
            metrics.of(metrics.ERRORS, self.facts.door, kind).inc()

    def close(self) -> None:
        """The last line of every path: a call that is neither settled nor failed by now failed."""
        self.fail("internal", None)

    def _claim(self) -> bool:
        with self._lock:
            claimed, self.over = not self.over, True
        return claimed

    def _leave(self, outcome: str) -> None:
        self._keeper.drop(self.admission.request_id)
        metrics.IN_FLIGHT.dec()
        provider, stream = self.route.provider.name, str(self.facts.stream).lower()
        metrics.of(metrics.CALLS, self.facts.door, provider, outcome).inc()
        metrics.of(metrics.LATENCY, provider, stream).observe(time.monotonic() - self.facts.started)

    def _elapsed(self) -> int:
        return int((time.monotonic() - self.facts.started) * 1000)


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()


def worker_name() -> str:
    """This process, as holds name their worker."""
    return f"{_host()}:{os.getpid()}"
