"""One admitted call in flight: renews its hold, then settles or fails it exactly once."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import Any

from models.core.pool import Pool
from models.gateway import metrics
from models.gateway.budget_errors import budget_message
from models.gateway.call_spans import CallSpans, read_traceparent
from models.gateway.chat_format import Call, Usage
from models.gateway.circuit_breaker import CircuitBreaker
from models.gateway.idempotency import dropped_header
from models.gateway.output_estimator import OutputEstimator
from models.gateway.refused_calls import KeyWindows
from models.gateway.route import Route, held_credits
from models.gateway.served import SERVED, RouteTrail
from models.gateway.spool import Spool
from models.gateway.upstream import UpstreamError
from models.ledger import holds
from models.ledger.group_commit import GroupCommit
from models.ledger.holds import (
    Admission,
    AdmissionRequest,
    BudgetRefusal,
    CallFailure,
    LedgerUnavailable,
    Settled,
    Settlement,
)
from models.ledger.idempotent_calls import Claim, ClaimRequest, StoredAnswer

log = logging.getLogger("stoa.gateway")

HOLD_SECONDS = 35
"""Lifetime of a hold without renewal. With a sweep every 20 seconds, the holds of a dead worker are gone in a minute."""
RENEW_SECONDS = 20


class HoldNotGrown(UpstreamError):
    """The answer outgrew its hold while the ledger was unreachable."""

    status = 503
    kind = type = "ledger_unavailable"


class OutOfCredits(UpstreamError):
    """The answer outgrew the available credits."""

    status = 402
    kind = type = "insufficient_credits"


class BudgetSpent(OutOfCredits):
    """The answer outgrew a budget."""

    kind = "budget_exceeded"


class ServerStopping(UpstreamError):
    """The server is shutting down during the answer."""

    kind = "server_stopping"


class HoldRenewer:
    """The in-flight calls of this process. Renews the holds of all: one statement per interval."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._live: dict[str, tuple[float, InFlightCall]] = {}
        self._pid = 0

    def calls(self) -> list["InFlightCall"]:
        """The calls in flight."""
        with self._lock:
            return [call for _, call in self._live.values()]

    def add(self, call: "InFlightCall") -> None:
        """Start renewing a call's hold."""
        with self._lock:
            self._live[call.admission.request_id] = time.monotonic(), call
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="stoa-holds", daemon=True).start()

    def drop(self, request_id: str) -> None:
        """Stop renewing a call's hold."""
        with self._lock:
            self._live.pop(request_id, None)

    def _run(self) -> None:
        while True:
            time.sleep(RENEW_SECONDS / 2)
            with self._lock:
                aged = time.monotonic() - RENEW_SECONDS / 2
                due = {request_id: call for request_id, (since, call) in self._live.items() if since <= aged}
            claimed = [request_id for request_id, call in due.items() if call.admission.claimed]
            try:
                if due:
                    holds.extend_holds(self._pool, list(due), ttl_seconds=HOLD_SECONDS)
                if claimed:
                    holds.extend_claims(self._pool, claimed, ttl_seconds=HOLD_SECONDS)
            except Exception:
                # the next round retries; it, or settling, revives a hold that expired in between
                log.exception("could not renew the holds of %d calls", len(due))


class Admissions:
    """Batches this process's admissions."""

    def __init__(self, pool: Pool, free_credits: int) -> None:
        self.pool = pool
        self.admit = GroupCommit[AdmissionRequest, Admission](self._one, self._many)
        self._options: dict[str, Any] = {"ttl_seconds": HOLD_SECONDS, "free_credits": free_credits}

    def admit_claimed(self, request: AdmissionRequest, claim: ClaimRequest) -> tuple[Admission, Claim]:
        """Admit a call with an idempotency key, in a statement of its own."""
        return holds.admit_claimed(self.pool, request, claim, worker=worker_name(), **self._options)

    def _one(self, request: AdmissionRequest) -> Admission:
        return holds.admit(self.pool, request, worker=worker_name(), **self._options)

    def _many(self, batch: list[AdmissionRequest]) -> list[Admission]:
        return holds.admit_many(self.pool, batch, worker=worker_name(), timeout_seconds=0, **self._options)


class Settlements:
    """Batches this process's settlements. After the first failed attempt a call is in the spool, so that a killed worker
    loses nothing."""

    def __init__(self, pool: Pool, spool: Spool, spans: CallSpans | None = None) -> None:
        self.pool = pool
        self.spool = spool
        self.spans = spans
        """Where the spans of calls go, if the operator has a collector."""
        self.windows = KeyWindows()
        """Bounds what is stored of calls that are not charged."""
        self.outputs = OutputEstimator()
        self._settle_in_group = GroupCommit[tuple[Admission, Settlement], Settled](self._one, self._many)

    def settle(self, call: tuple[Admission, Settlement]) -> Settled:
        """Settle a call; one with an idempotency key in a statement of its own. Raises LedgerUnavailable."""
        return self._one(call) if call[0].claimed else self._settle_in_group(call)

    def _one(self, call: tuple[Admission, Settlement]) -> Settled:
        settled = holds.settle(self.pool, *call, on_failure=partial(self.spool.add, "settle"))
        self.spool.mark_settled(settled.request_id)
        return settled

    def _many(self, calls: list[tuple[Admission, Settlement]]) -> list[Settled]:
        settled_calls = holds.settle_many(self.pool, calls, timeout_seconds=0)
        for settled in settled_calls:
            self.spool.mark_settled(settled.request_id)
        return settled_calls

    def fail(self, admission: Admission, failure: CallFailure) -> None:
        """Record a failed call without a charge. Raises LedgerUnavailable."""
        holds.fail(self.pool, admission, failure, on_failure=partial(self.spool.add, "fail"))
        self.spool.mark_settled(admission.request_id)


@dataclass(frozen=True, slots=True)
class CallMetadata:
    """Columns of a call's row other than usage and price."""

    door: str
    requested_model: str
    stream: bool
    started_at: datetime
    started: float
    """Monotonic seconds."""
    client_id: str | None = None
    stored_request: Any = field(default=None, repr=False)
    stored_size: int = 0
    """About its bytes."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    definitions: Mapping[str, Any] | None = field(default=None, repr=False)
    answers: int = 1
    """Answers to the same input whose output the call's usage sums up."""
    trace_parent: str | None = None
    """The client's `traceparent`."""


class InFlightCall:
    """An admitted call. `settle` and `fail` may be called from any thread; only the first call has an effect."""

    def __init__(
        self,
        settlements: Settlements,
        hold_renewer: HoldRenewer,
        admission: Admission,
        metadata: CallMetadata,
        route: Route,
        margin: Decimal,
        trail: RouteTrail,
    ) -> None:
        self.admission = admission
        self.metadata = metadata
        self.route = route
        self.trail = trail
        """How it came to its route."""
        self.breaker: CircuitBreaker | None = None
        """Of its upstream."""
        self.ttft_ms: int | None = None
        self.settled: Settled | None = None
        self.ended = False
        self._settlements = settlements
        self._hold_renewer = hold_renewer
        self._margin = margin
        self._lock = threading.Lock()
        self._held = admission.hold
        self.stop_error: UpstreamError | None = None
        """Why the call is being ended early."""
        self._abort: Callable[[], None] | None = None
        self.count_tokens: Callable[[int], None] | None = None
        """Counts the tokens of the settled call in a limit of its key."""
        hold_renewer.add(self)
        metrics.IN_FLIGHT.inc()

    @property
    def is_strict(self) -> bool:
        """Whether its key refuses that fields of the request are dropped."""
        return bool(self.admission.rules and self.admission.rules["strict"])

    def route_headers(self) -> dict[str, str]:
        """The headers of an answer that say who served it, and what was left out for that provider."""
        return {SERVED: self.trail.header(self.route), **dropped_header(self.route.dropped)}

    def abort_with(self, abort: Callable[[], None]) -> None:
        """Set how `stop` ends the provider's response: a function that is safe to call from any thread."""
        with self._lock:
            self._abort = abort
        if self.stop_error is not None:
            abort()

    def stop(self, error: UpstreamError) -> None:
        """End the call early: what was produced is settled, and the client gets `error`. Returns at once. An answer that is not
        read as a stream still arrives, and is settled."""
        with self._lock:
            self.stop_error = self.stop_error or error
            abort = self._abort
        if abort is not None:
            abort()

    def first_token(self) -> None:
        """Record the time to first token."""
        if self.ttft_ms is None:
            self.ttft_ms = self._elapsed()
            metrics.of(metrics.FIRST_BYTE, self.route.provider.name).observe(self.ttft_ms / 1000)

    def _grow_hold(self, needed: int, wanted: int) -> int | BudgetRefusal | None:
        """Grow the hold to `wanted` credits, or to as many as are free, at least `needed`. Returns the new hold; when `needed`
        exceeds what is free, the budget that refuses, else None. While the ledger is unreachable the call may reach twice its last hold; beyond
        that raises HoldNotGrown."""
        request_id = self.admission.request_id
        try:
            grown = holds.grow_hold(self._settlements.pool, request_id, needed=needed, requested=wanted)
        except LedgerUnavailable:
            log.warning("could not grow the hold of call %s", request_id)
            if needed > 2 * self._held:
                raise HoldNotGrown(
                    "The credit ledger cannot be reached, so this answer ends here. Try again in a moment."
                ) from None
            return min(wanted, 2 * self._held)
        if isinstance(grown, int):
            self._held = grown
        return grown

    def hold_for_output(self, call: Call, output_tokens: int) -> int:
        """Hold credits for twice this much output, or for as much as is free. Returns the output tokens that the hold
        covers. Raises OutOfCredits when it does not cover `output_tokens`, HoldNotGrown."""
        needed, wanted = (
            held_credits(self.route.cost_up_to(call, tokens, call.n), self._margin)
            for tokens in (output_tokens, 2 * output_tokens)
        )
        if not wanted:
            return 2 * output_tokens
        held = self._grow_hold(needed, wanted)
        if isinstance(held, BudgetRefusal):
            raise BudgetSpent(f"{budget_message(held)} So this answer ends here.")
        if held is None:
            exhausted = (
                "Your plan's limit was reached"
                if self.admission.funding == "plan"
                else "Your credits ran out"
            )
            raise OutOfCredits(f"{exhausted} while this answer was written, so it ends here.")
        if held >= wanted:
            return 2 * output_tokens
        return output_tokens + output_tokens * (held - needed) // (wanted - needed)

    def try_hold(self, credits: int) -> bool:
        """Grow a non-zero hold to at least `credits`. Returns whether the call now holds them; on False the hold is
        unchanged."""
        if credits > self._held > 0:
            with suppress(LedgerUnavailable):
                request_id = self.admission.request_id
                grown = holds.grow_hold(self._settlements.pool, request_id, needed=credits, requested=credits)
                if isinstance(grown, int):
                    self._held = grown
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
        error_message: str | None = None,
        answer: StoredAnswer | None = None,
    ) -> Settled | None:
        """Charge the call and write its rows; durable on return. Returns None when the call had already ended. `answer` is stored
        for retries, in the same transaction.

        Raises LedgerUnavailable when the ledger cannot commit; the spool then retries the settlement.
        """
        if not self._claim_end():
            return None
        provider = self.route.provider.name
        settlement = holds.Settlement(
            provider=provider,
            requested_model=self.metadata.requested_model,
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
            started_at=self.metadata.started_at,
            response=response,
            reasoning_text=reasoning,
            message_id=message_id,
            price={name: amount for name, amount in price.items() if name != "flags"},
            parts=dict(usage.parts),
            raw_usage=usage.raw,
            flags=price.get("flags", "").split(),
            byok=self.route.byok is not None,
            request=self.metadata.stored_request,
            client_id=self.metadata.client_id,
            stream=self.metadata.stream,
            client_gone=client_gone,
            ttft_ms=self.ttft_ms,
            error=error,
            error_message=error_message,
            parameters=self.metadata.parameters,
            definitions=self.metadata.definitions,
            routing=self.trail.record(),
            answer=answer,
        )
        outcome = "unsettled"
        try:
            with metrics.timed("settle"):
                self.settled = self._settlements.settle((self.admission, settlement))
            outcome = "cut" if error else "settled"
        except LedgerUnavailable:
            metrics.of(metrics.ERRORS, self.metadata.door, "ledger_unavailable").inc()
            raise
        except BaseException:
            log.exception("could not settle call %s", self.admission.request_id)
            raise
        finally:
            if self.settled is None:
                self._settlements.spool.add("settle", holds.settlement_facts(self.admission, settlement))
            self._release(outcome)
            self._trace(settlement, self.settled)
        if self.count_tokens is not None:
            self.count_tokens(usage.uncached_input + usage.cache_write + usage.cache_read + usage.output)
        if error is None and not client_gone and self.route.byok is None:
            # a shorter answer than the provider would have given says nothing about the next one
            self._settlements.outputs.record(
                self.admission.key_id,
                self.metadata.requested_model,
                -(-usage.output // self.metadata.answers),
                settlement.latency_ms,
                unsent_reasoning=usage.reasoning > 0 and not reasoning,
            )
        for bucket in ("uncached_input", "cache_write", "cache_read", "output", "reasoning"):
            if tokens := getattr(usage, bucket):
                metrics.of(metrics.TOKENS, provider, bucket).inc(tokens)
        metrics.of(metrics.CREDITS, provider).inc(0 if self.route.byok else self.settled.credits)
        return self.settled

    def fail(
        self,
        kind: str,
        status: int,
        message: str | None = None,
        *,
        response: Any = None,
        client_gone: bool = False,
    ) -> None:
        """End the call without a charge. `status`: what the client gets; `message`: the error in full; `response`: what
        arrived of the answer. No effect when it has ended; never raises."""
        if not self._claim_end():
            return
        metadata = self.metadata
        kept = self._settlements.windows.take_input(self.admission.key_id, metadata.stored_size)
        failure = holds.CallFailure(
            requested_model=self.metadata.requested_model,
            provider=self.route.provider.name,
            model=self.route.model,
            started_at=self.metadata.started_at,
            latency_ms=self._elapsed(),
            error=kind,
            http_status=status,
            stream=self.metadata.stream,
            client_gone=client_gone,
            ttft_ms=self.ttft_ms,
            error_message=message,
            request=metadata.stored_request if kept else None,
            response=response if kept else None,
            parameters=metadata.parameters,
            definitions=metadata.definitions if kept else None,
            routing=self.trail.record(),
        )
        try:
            with metrics.timed("fail"):
                self._settlements.fail(self.admission, failure)
        except Exception:
            log.exception("could not record the failed call %s", self.admission.request_id)
        finally:
            self._release("failed")
            metrics.of(metrics.ERRORS, self.metadata.door, kind).inc()
            self._trace(failure)

    def close(self) -> None:
        """Fail the call unless it has been settled or failed. Call it last on every path."""
        self.fail("internal", 500, "The call failed on our side; nothing was charged.")

    def _trace(self, record: holds.Settlement | holds.CallFailure, settled: Settled | None = None) -> None:
        if (spans := self._settlements.spans) is not None:
            parent = read_traceparent(self.metadata.trace_parent)
            spans.add(self.admission, record, settled, parent)

    def _claim_end(self) -> bool:
        with self._lock:
            claimed, self.ended = not self.ended, True
        return claimed

    def _release(self, outcome: str) -> None:
        self._hold_renewer.drop(self.admission.request_id)
        metrics.IN_FLIGHT.dec()
        provider, stream = self.route.provider.name, str(self.metadata.stream).lower()
        metrics.of(metrics.CALLS, self.metadata.door, provider, outcome).inc()
        metrics.of(metrics.LATENCY, provider, stream).observe(time.monotonic() - self.metadata.started)

    def _elapsed(self) -> int:
        return int((time.monotonic() - self.metadata.started) * 1000)


@lru_cache(maxsize=1)
def _host() -> str:
    return socket.gethostname()


def worker_name() -> str:
    """This process's name in the `worker` column of holds."""
    return f"{_host()}:{os.getpid()}"
