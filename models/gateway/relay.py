"""One call through the gateway: admit and hold, send, pass on what comes back, settle.

`Gateway.open` makes one round trip to the ledger before the provider is reached and none is open while it talks;
what it answers is whole (`Reply`) or still to come (`AnswerStream`). Whatever has a format is the dialect's
(`models/gateway/dialects`), and so are the words for what is raised here.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from models.accounts.credentials import hash_token
from models.core.cooperative import heavy
from models.core.db import now
from models.core.errors import DomainError
from models.core.pool import Pool
from models.core.settings import Settings
from models.gateway import metrics, sse
from models.gateway.bill import Biller
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed, refusal
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import CallRequest, Dialect, Reply, WholeAnswer
from models.gateway.in_flight import Admissions, CallMetadata, HoldRenewer, InFlightCall, Settlements
from models.gateway.pricing import PriceTable
from models.gateway.routing import NoPrice, Route, Router, held_credits
from models.gateway.spool import Spool
from models.gateway.stream import AnswerStream
from models.gateway.upstream import (
    MAX_BODY,
    MAX_STREAM,
    EmptyAnswer,
    ProviderRequest,
    ProviderResponse,
    Unreachable,
    UpstreamError,
)
from models.ledger import holds
from models.ledger.holds import Admission, AdmissionRequest, LedgerUnavailable

log = logging.getLogger("stoa.gateway")

JSON_LINES = ("ndjson", "jsonl", "json-lines", "json-seq", "stream")
"""How a `Content-Type` tells of a stream of JSON."""
RECOGNISED = 30.0
MOST_RECOGNISED = 10_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call as one provider is asked: `hold` are the credits that it can come to there, `minimum` those that its input
    costs alone, for `answers` that are made of it."""

    call: Call
    route: Route
    request: ProviderRequest
    answers: int
    hold: int
    minimum: int


class Gateway:
    """The gateway of one process."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self.pool = pool
        self.margin = settings.stoa_margin
        self.failover = settings.stoa_failover
        self.routes = Router(settings, PriceTable.load(settings.stoa_prices_file))
        self.keeper = HoldRenewer(pool)
        self.gate = Admissions(pool, settings.stoa_free_credits)
        self.spool = Spool(pool, settings.data_dir / "unsettled")
        self.till = Settlements(pool, self.spool)
        self._recognised: dict[str, float] = {}
        self.streams: set[AnswerStream] = set()
        """Streams whose provider is still read."""

    def admit(self, request: CallRequest, hold: int | None, model: str, minimum: int = 0) -> Admission:
        """Check the caller and take the hold (None: only check), when `minimum` at least is free. Raises Refused, or
        LedgerUnavailable while calls wait to be settled."""
        claim = AdmissionRequest(
            token_hash=hash_token(request.key),
            request_id=request.request_id,
            hold=hold,
            minimum=minimum,
            run_id=request.run_id,
            require_run=request.dialect.needs_run,
            door=request.dialect.door,
            model=model,
        )
        return self._ask_ledger(claim)

    def _ask_ledger(self, claim: AdmissionRequest) -> Admission:
        self.spool.check()
        with metrics.timed("admit"):
            admission = self.gate.admit(claim)
        if admission.outcome not in ("admitted", "checked"):
            metrics.of(metrics.ERRORS, claim.door, admission.outcome).inc()
            raise CallRefused(admission)
        return admission

    def recognise(self, key: str, request_id: str, dialect: Dialect) -> None:
        """Whose a key is, before a large request is read. Raises Refused as `admit` does, LedgerUnavailable.

        Who was recognised stays so for `RECOGNISED` seconds: nothing is served for it, `admit` asks anew.
        """
        token_hash = hash_token(key)
        moment = time.monotonic()
        if self._recognised.get(token_hash, 0.0) > moment:
            return
        self._ask_ledger(
            AdmissionRequest(
                token_hash=token_hash,
                request_id=request_id,
                hold=None,
                run_id=None,
                require_run=False,
                door=dialect.door,
                model="",
            )
        )
        if len(self._recognised) >= MOST_RECOGNISED:
            self._recognised.clear()
        self._recognised[token_hash] = moment + RECOGNISED

    def open(self, request: CallRequest) -> Reply | AnswerStream:
        """Make the call. Raises Refused, UpstreamRefused, UpstreamError, LedgerUnavailable, or the DomainError that
        says what is wrong with the request; each only after the checks that the contract puts before it."""
        started, started_at = time.monotonic(), now()
        try:
            attempt = self._plan(request)
        except DomainError as refusal:
            self._refuse(request, refusal, started, started_at)
            raise
        call, route = attempt.call, attempt.route
        # what costs nothing waits for nobody's holds
        admission = self.admit(request, attempt.hold or None, call.model, attempt.minimum)
        facts = CallMetadata(
            door=request.dialect.door,
            requested_model=call.model,
            stream=call.stream,
            started_at=started_at,
            started=started,
            client_id=request.client_id,
            kept_request=request.dialect.stored_request(call, request.size),
        )
        ticket = InFlightCall(self.till, self.keeper, admission, facts, route, self.margin)
        try:
            # once more: the ledger may have taken its time to admit
            self.spool.check(admission.account_id)
        except LedgerUnavailable as error:
            ticket.fail(error.code, None)
            raise
        try:
            if attempt.hold > max(admission.available, 0):
                self._recount(request.dialect, attempt, admission)
            answer = self._answer(request, attempt, ticket)
            answer.dropped = ticket.route.dropped
            return answer
        except CallRefused:
            ticket.fail("insufficient_credits", None)
            raise
        except ProviderError as error:
            error.dropped = route.dropped
            ticket.fail("upstream_status", error.status)
            raise
        except UpstreamError as error:
            error.dropped = route.dropped
            ticket.fail(error.kind, None)
            raise
        except LedgerUnavailable:
            raise
        except Exception as error:
            ticket.close()
            raise RelayFailed from error
        except BaseException:
            ticket.close()
            raise

    def close(self, patience: float = 4.0) -> None:
        """The process ends: stop every stream, and wait so many seconds until all are settled."""
        for stream in list(self.streams):
            stream.stop()
        end = time.monotonic() + patience
        while self.streams and time.monotonic() < end:
            time.sleep(0.05)

    # -- before the call -------------------------------------------------------------------------------------

    def _plan(self, request: CallRequest) -> Attempt:
        call = request.call
        if isinstance(call, DomainError):
            raise call
        return self._prepare(request, call, request.dialect.route(self.routes, request, call))

    def _prepare(self, request: CallRequest, call: Call, route: Route) -> Attempt:
        """The call for one provider. Raises DomainError for what it cannot be asked."""
        call = request.dialect.adapt(call, route.provider)
        with heavy(request.size):
            route, sent = self.routes.prepare(route, call)
        answers = call.n * _copies(call, route)
        if route.byok is not None:
            return Attempt(call, route, sent, answers, 0, 0)
        hold = held_credits(route.worst_cost(call, answers), self.margin)
        minimum = held_credits(route.input_cost(call.input_tokens, answers), self.margin)
        return Attempt(call, route, sent, answers, hold, min(minimum, hold))

    def _recount(self, dialect: Dialect, attempt: Attempt, admission: Admission) -> None:
        """Refuse a call that was let in because it is alone, when its text is so odd that its input alone costs more than
        is free. Text is counted only here, where it can decide something. Raises Refused."""
        call = attempt.call

        def cost(text_tokens: int) -> int:
            return held_credits(attempt.route.input_cost(text_tokens, attempt.answers), self.margin)

        if cost(max(call.input_tokens, call.text_bytes)) <= admission.available:
            return
        counted = cost(dialect.count_text(call))
        if counted > admission.available:
            raise CallRefused(replace(admission, outcome="insufficient", minimum=counted))

    def _refuse(
        self, request: CallRequest, refusal: DomainError, started: float, started_at: datetime
    ) -> None:
        """Let the ledger's own refusals come first; note the names of models that have no price."""
        model = request.call.model if isinstance(request.call, Call) else ""
        admission = self.admit(request, None, model)
        metrics.of(metrics.ERRORS, request.dialect.door, refusal.code).inc()
        if isinstance(refusal, NoPrice):
            failure = holds.CallFailure(
                requested_model=model,
                started_at=started_at,
                latency_ms=int((time.monotonic() - started) * 1000),
                error=refusal.code,
                http_status=None,
            )
            holds.fail(self.pool, admission, failure)

    # -- the call --------------------------------------------------------------------------------------------

    def _answer(self, request: CallRequest, attempt: Attempt, ticket: InFlightCall) -> Reply | AnswerStream:
        """The answer of the route's provider or, when that is away or busy, of the next one that serves the same model. Of
        several errors the first is raised: it is about the route that was asked for."""
        try:
            return self._ask(request, attempt, ticket)
        except (ProviderError, UpstreamError) as error:
            if not self.failover or not _away(error):
                raise
            failed = error
        for other in self._others(request, attempt, ticket):
            names = [each.route.provider.name for each in (attempt, other)]
            metrics.of(metrics.FAILOVERS, *names).inc()
            log.warning("call %s goes on from %s to %s: %s", request.request_id, *names, _kind_of(failed))
            ticket.route = other.route
            try:
                return self._ask(request, other, ticket)
            except (ProviderError, UpstreamError) as error:
                log.warning("call %s failed there too: %s", request.request_id, _kind_of(error))
                ticket.route = attempt.route
        raise failed

    def _others(self, request: CallRequest, attempt: Attempt, ticket: InFlightCall) -> Iterator[Attempt]:
        """The same call for other providers, where their price is known and held."""
        call = request.call
        if isinstance(call, DomainError) or request.byok:
            return
        for route in self.routes.fallbacks(attempt.route):
            try:
                other = self._prepare(request, call, route)
            except DomainError:
                continue
            fewer = call.n > 1 and attempt.route.provider.native_n and not route.provider.native_n
            if not fewer and ticket.holds(other.hold):
                yield other

    def _ask(self, request: CallRequest, attempt: Attempt, ticket: InFlightCall) -> Reply | AnswerStream:
        dialect, call = request.dialect, attempt.call
        biller = Biller(self.routes, self.margin, partial(dialect.count_input, call))
        if call.stream:
            return self._stream(request, attempt, ticket, biller)
        return self._whole(dialect, attempt, ticket, biller)

    def _stream(
        self, request: CallRequest, attempt: Attempt, ticket: InFlightCall, biller: Biller
    ) -> AnswerStream:
        route = attempt.route
        answer = route.provider.upstream.send(attempt.request)
        try:
            begun = _opening(answer)
            if not _succeeded(answer):
                raise refusal(answer, route, begun)
            if begun and not sse.looks_like_it(begun):
                if "json" not in _kind(answer):
                    raise refusal(answer, route, begun)
                begun += answer.read()
                # a whole answer is passed on as a stream, if it is one
                request.dialect.read_answer(begun, attempt.call, route, answer.headers)
            stream = AnswerStream(request, attempt.call, ticket, answer, biller, self.streams, begun)
        except BaseException:
            answer.close()
            raise
        stream.start()
        return stream

    def _whole(self, dialect: Dialect, attempt: Attempt, ticket: InFlightCall, biller: Biller) -> Reply:
        call, route = attempt.call, attempt.route
        answers = _gather(dialect, attempt)
        meters = [answer.meter for answer in answers]
        first = meters[0]
        if all(meter.empty for meter in meters):
            # a choice that ended without a word, from a provider that reports nothing: passed on, and not billed
            ticket.fail(EmptyAnswer.kind, None)
            return Reply(answers[0].raw)
        bill = biller.bill(route, meters)
        ticket.settle(
            bill.usage,
            bill.cost,
            bill.price,
            model=first.model,
            message_id=first.id,
            response=dialect.stored_answer(call, answers),
            reasoning=first.reasoning,
        )
        return dialect.reply(call, answers, bill)


def _copies(call: Call, route: Route) -> int:
    """How many times a request is sent for the answers that the client wants merged."""
    return 1 if route.provider.native_n else call.answers


def _gather(dialect: Dialect, attempt: Attempt) -> list[WholeAnswer]:
    """The answers to all sendings of a request, those that failed left out. Raises the first one's error when all did."""
    copies = _copies(attempt.call, attempt.route)
    found: list[WholeAnswer | BaseException | None] = [None] * copies

    def fetch(index: int) -> None:
        try:
            found[index] = _fetch(dialect, attempt)
        except BaseException as error:
            found[index] = error

    threads = [threading.Thread(target=fetch, args=(index,), daemon=True) for index in range(1, copies)]
    for thread in threads:
        thread.start()
    fetch(0)
    for thread in threads:
        thread.join()
    answers = [item for item in found if isinstance(item, WholeAnswer)]
    if not answers:
        assert isinstance(found[0], BaseException)
        raise found[0]
    return answers


def _fetch(dialect: Dialect, attempt: Attempt) -> WholeAnswer:
    route = attempt.route
    answer = route.provider.upstream.send(attempt.request)
    try:
        if not _succeeded(answer):
            raise refusal(answer, route)
        raw = answer.read(MAX_STREAM if "event-stream" in _kind(answer) else MAX_BODY)
        return dialect.read_answer(raw, attempt.call, route, answer.headers)
    finally:
        answer.close()


def _away(error: ProviderError | UpstreamError) -> bool:
    """Whether a provider did not take a call that another one may take. One that took it, and then was silent or broke
    off, may charge for it: that call is not made twice."""
    return error.busy if isinstance(error, ProviderError) else isinstance(error, Unreachable)


def _kind_of(error: ProviderError | UpstreamError) -> str:
    return f"status {error.status}" if isinstance(error, ProviderError) else error.kind


def _succeeded(answer: ProviderResponse) -> bool:
    return 200 <= answer.status < 300


def _kind(answer: ProviderResponse) -> str:
    return (answer.headers.get("Content-Type") or "").lower()


def _opening(answer: ProviderResponse) -> bytes:
    """The first bytes of what is announced as no event stream, and may be one all the same."""
    kind = _kind(answer)
    begun = b""
    if ("json" in kind and not any(word in kind for word in JSON_LINES)) or "html" in kind:
        for piece in answer.blocks():
            begun += piece
            if len(begun.strip()) > 10:
                break
    return begun
