"""One call through the gateway: admit and hold, send, relay the response, settle.

`Gateway.open` makes one round trip to the ledger before it contacts the provider and holds no transaction while the
provider responds. It returns a complete `Reply` or an `AnswerStream`. Formats, and the bodies of the errors raised here,
belong to the dialects (`models/gateway/dialects`).
"""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from models.core.cooperative import heavy
from models.core.db import now
from models.core.errors import DomainError
from models.core.pool import Pool
from models.core.settings import Settings
from models.gateway.account_keys import AccountKeys
from models.gateway.admitter import Admitter, checked_run_budget
from models.gateway.aliases import Alias
from models.gateway.approved_prices import ApprovedPrices
from models.gateway.bill import Biller
from models.gateway.call_answers import (
    fetch_all,
    open_stream,
    read_streamed,
    request_count,
    settle_reply,
)
from models.gateway.call_errors import (
    CallRefused,
    ProviderError,
    RelayFailed,
    own_key_failed,
)
from models.gateway.call_refusals import CallRefusals
from models.gateway.call_session import affinity, is_claude_code
from models.gateway.call_spans import CallSpans
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import (
    MAX_STORED_REQUEST,
    CallRequest,
    Dialect,
    Reply,
)
from models.gateway.failover import Attempt, ProviderTrials, error_class, label
from models.gateway.formats import passed
from models.gateway.free_mode import FreeMode
from models.gateway.idempotency import (
    AlreadyCalled,
    Replay,
)
from models.gateway.in_flight import (
    CallMetadata,
    HoldRenewer,
    InFlightCall,
    ServerStopping,
    Settlements,
)
from models.gateway.key_rate_limits import KeyLimits
from models.gateway.pricing import PriceTable
from models.gateway.refused_calls import RefusedCalls
from models.gateway.response_state.response_store import ResponseStore
from models.gateway.route import MAX_OUTPUT, Route, held_credits
from models.gateway.routing import NoRoute, Router
from models.gateway.served import RouteTrail
from models.gateway.spend_caps import CallerCaps
from models.gateway.spool import Spool
from models.gateway.stopped_accounts import StoppedAccounts
from models.gateway.stream import AnswerStream
from models.gateway.upstream import (
    UpstreamError,
)
from models.gateway.whole_stream import (
    AnswerEnded,
    WholeOnlyModels,
    can_stream,
    refuses_to_stream,
)
from models.ledger.holds import Admission, LedgerUnavailable, Outcome

log = logging.getLogger("stoa.gateway")


class Gateway:
    """The gateway of one process."""

    def __init__(self, settings: Settings, pool: Pool, limits: KeyLimits) -> None:
        self.pool = pool
        self.limits = limits
        self.margin = settings.stoa_margin
        self.failover = settings.stoa_failover
        self.routes = Router(settings, PriceTable.load(settings.stoa_prices_file, ApprovedPrices(pool).find))
        self.hold_renewer = HoldRenewer(pool)
        self.spool = Spool(pool, settings.data_dir / "unsettled")
        spans = CallSpans(settings, pool) if settings.stoa_otlp_endpoint else None
        self.settlements = Settlements(pool, self.spool, spans)
        self.caller_caps = CallerCaps(pool)
        self.outputs = self.settlements.outputs
        self.settings = settings
        self.refused_calls = RefusedCalls(pool, self.settlements.windows)
        self.admitter = Admitter(settings, pool, self.spool, self.settlements)
        self.refusals = CallRefusals(settings, self.admitter, self.refused_calls)
        self.responses = ResponseStore(
            pool, limit=settings.stoa_response_bytes, days=settings.stoa_response_days
        )
        self.account_keys = AccountKeys(pool, settings.secret_key)
        self.free_mode = FreeMode(settings, pool, limits.storage)
        self.whole_only = WholeOnlyModels()
        self.stopped_accounts = StoppedAccounts(pool, self.hold_renewer, settings.base_url)
        self.streams: set[AnswerStream] = set()
        """Streams that still read from their provider."""

    def check(self, request: CallRequest) -> Admission:
        """Check the caller and the model of a request that makes no call. Raises CallRefused, LedgerUnavailable, DomainError."""
        admission = self.admitter.admit(request, None, request.model)
        if isinstance(request.call, DomainError):
            raise request.call
        if not request.presented.is_test:
            request.dialect.route(self.routes, request, request.call)
        return admission

    def open(self, request: CallRequest) -> Reply | AnswerStream | Replay:
        """Make the call, or replay the answer of an earlier one with its idempotency key. Raises CallRefused, ProviderError,
        UpstreamError, LedgerUnavailable, RelayFailed, or the DomainError of an invalid request; checks run in the order of the
        contract (5.2)."""
        started, started_at = time.monotonic(), now()
        admission: Admission | None = None
        try:
            if request.resolve is not None:
                admission = self.admitter.admit(request, None, request.model)
                request = request.resolve(admission)
            try:
                attempt = self._plan(request)
            except DomainError as error:
                # the ledger's checks come first
                model = request.model if isinstance(request.call, Call) else ""
                admission = self.admitter.admit(request, None, model)
                attempt = self._plan_own(request, admission, error)
            limits = self.limits.take_known(request, attempt.call)
            request, admission = self.admitter.admit_attempt(request, attempt)
        except AlreadyCalled as found:
            return found.replay
        except (CallRefused, DomainError) as refusal:
            self.refusals.record(request, refusal, admission, started, started_at)
            raise
        in_flight = self._in_flight(request, attempt, admission, started, started_at)
        try:
            # again: admission may have taken long
            self.spool.check(admission.account_id)
        except LedgerUnavailable as error:
            in_flight.fail(error.code, error.status, error.message)
            raise
        return self._relay(request, attempt, in_flight, limits)

    def _in_flight(
        self,
        request: CallRequest,
        attempt: Attempt,
        admission: Admission,
        started: float,
        started_at: datetime,
    ) -> InFlightCall:
        call, route = attempt.call, attempt.route
        messages, definitions = request.dialect.stored_input(call, request.size)
        metadata = CallMetadata(
            door=request.dialect.door,
            requested_model=call.model,
            stream=not attempt.whole,
            started_at=started_at,
            started=started,
            client_id=request.client_id,
            stored_request=messages,
            stored_size=min(request.size, MAX_STORED_REQUEST),
            parameters=request.parameters,
            definitions=definitions,
            answers=attempt.answers,
            trace_parent=request.trace_parent,
        )
        trail = _trail(request, call, route)
        return InFlightCall(
            self.settlements, self.hold_renewer, admission, metadata, route, self.margin, trail
        )

    def _relay(
        self,
        request: CallRequest,
        attempt: Attempt,
        in_flight: InFlightCall,
        limits: Mapping[str, str] | None,
    ) -> Reply | AnswerStream:
        """Make an admitted call. `limits`: headers of the key's limits, if they are known. Each error fails the call before it is raised."""
        try:
            if in_flight.admission.rules is not None:
                limits = self.limits.take_admitted(request, attempt.call, in_flight, limits)
            if request.admitted is not None:
                request.admitted(in_flight)
            self.stopped_accounts.check(in_flight)
            answer = self._try_own_keys(request, attempt, in_flight)
            self._describe(answer, request, in_flight, limits or {})
            if isinstance(answer, AnswerStream):
                # only now: it may break off at once, and then takes back that it was answered
                answer.start()
            return answer
        except CallRefused as error:
            status, message = self.refusals.answer_to(request, error)
            in_flight.fail(error.code, status, message)
            raise
        except ProviderError as error:
            error.dropped = attempt.route.dropped
            in_flight.fail("upstream_status", error.status, error.full_text)
            raise
        except UpstreamError as error:
            failed = in_flight.stop_error or error
            failed.dropped = attempt.route.dropped
            in_flight.fail(failed.kind, failed.status, str(failed), response=error.arrived)
            raise failed from error.__cause__
        except LedgerUnavailable:
            raise
        except Exception as error:
            in_flight.close()
            raise RelayFailed from error
        except BaseException:
            in_flight.close()
            raise

    def _describe(
        self,
        answer: Reply | AnswerStream,
        request: CallRequest,
        in_flight: InFlightCall,
        limits: Mapping[str, str],
    ) -> None:
        """Add what the headers of the answer say: who served it, and what is left."""
        admission = in_flight.admission
        answer.dropped = in_flight.route.dropped
        answer.served = in_flight.trail.header(in_flight.route)
        settled = in_flight.settled if isinstance(answer, Reply) else None
        answer.run_left = settled.run_left if settled else admission.run_left
        if admission.funding in ("any", "credits") and not request.presented.is_test:
            answer.balance = settled.balance if settled else admission.balance
        answer.limits = limits
        if request.dialect.shows_caps and request.headers and is_claude_code(request.headers):
            answer.limits = {**limits, **self.caller_caps.headers(admission)}

    def close(self, timeout: float = 4.0) -> None:
        """Stop every stream of this process and wait up to `timeout` seconds until all are settled."""
        for call in self.hold_renewer.calls():
            call.stop(
                ServerStopping("This server is stopping, so the answer ends here. Try again in a moment.")
            )
        end = time.monotonic() + timeout
        while self.streams and time.monotonic() < end:
            time.sleep(0.05)
        self.refused_calls.flush()
        if self.settlements.spans is not None:
            self.settlements.spans.close()

    # -- before the call -------------------------------------------------------------------------------------

    def _plan(self, request: CallRequest) -> Attempt:
        call = request.call
        if isinstance(call, DomainError):
            raise call
        checked_run_budget(request)
        if request.presented.is_test:
            return self._prepare(request, call, self.routes.for_test(call))
        route = request.dialect.route(self.routes, request, call)
        if request.free and route.byok is None:
            # nothing else may answer: that would have a price
            return self._prepare(request, call, replace(self.free_mode.route(request, route), others=()))
        if route.alias is None:
            return self._prepare(request, call, route)
        task = call.format if call.format in passed.PATHS else None
        return self._prepare_alias(
            request, call, self.routes.choose(route, _session(request, call, route.alias), task)
        )

    def _prepare_alias(self, request: CallRequest, call: Call, route: Route) -> Attempt:
        """Prepare the call for the first model of an alias that can be sent it. Raises the error of the first if none can."""
        first_error: DomainError | None = None
        for number, each in enumerate((route, *route.others)):
            try:
                attempt = self._prepare(
                    request, call, replace(each, alias=route.alias, others=route.others[number:])
                )
                break
            except DomainError as error:
                first_error = first_error or error
        else:
            assert first_error is not None
            raise first_error
        if not attempt.hold and any(
            other.price is None or not other.price.is_free for other in attempt.route.others
        ):
            # a hold that can grow, should a fallback that is not free have to answer
            attempt = replace(attempt, hold=1)
        return attempt

    def _prepare(self, request: CallRequest, call: Call, route: Route) -> Attempt:
        """Prepare the call for one provider: if the limit of a whole answer costs more than its usual size, as a stream.
        Raises DomainError for what the provider cannot be sent."""
        call = request.dialect.adapt(call, route.provider)
        size = self.outputs.size(request.presented.id, call.model)
        limited = call.max_output is not None and call.max_output <= size
        if call.stream or limited or request.byok or route in self.whole_only:
            return self._prepare_as(request, call, route, size)
        if can_stream(request.dialect, call):
            attempt = self._prepare_as(request, call.streamed(), route, size, whole=True)
            if call.body.get("stream_options") is not None:
                dropped = (*attempt.route.dropped, "stream_options")
                attempt = replace(attempt, route=replace(attempt.route, dropped=dropped))
            full = attempt.route.cost_up_to(call, attempt.route.held_output(call, 1, MAX_OUTPUT), 1)
            if attempt.hold < held_credits(full, self.margin) and not attempt.route.factors.audio:
                return attempt
        return self._prepare_as(request, call, route, size)

    def _prepare_as(
        self, request: CallRequest, call: Call, route: Route, size: int, *, whole: bool = False
    ) -> Attempt:
        """Prepare the call as it is. `size`: output tokens of a usual answer; `whole`: although it is sent as a stream, the
        client wants the answer whole."""
        with heavy(request.size):
            route, sent = self.routes.prepare(route, call)
        whole = whole or not call.stream
        answers = call.n * request_count(call, route)
        if route.byok is not None:
            # counts in budgets that count such calls
            output = route.held_output(call, answers, MAX_OUTPUT)
            hold = held_credits(route.cost_up_to(call, output, answers), self.margin)
            return Attempt(call, route, sent, answers, output, hold, 0, whole)
        output = route.held_output(call, answers, size if call.stream else MAX_OUTPUT)
        hold = held_credits(route.cost_up_to(call, output, answers), self.margin)
        minimum = held_credits(route.minimum_cost(call, call.input_tokens, answers), self.margin)
        return Attempt(call, route, sent, answers, output, hold, min(minimum, hold), whole)

    def _check_counted_input(self, dialect: Dialect, attempt: Attempt, admission: Admission) -> None:
        """Refuse a call whose counted input and a short answer exceed the available credits: admission estimates text by
        its size. Counts tokens only when the result can decide. Raises CallRefused, CreditsHeld."""
        call = attempt.call

        def cost(text_tokens: int) -> int:
            return held_credits(attempt.route.minimum_cost(call, text_tokens, attempt.answers), self.margin)

        if cost(max(call.input_tokens, call.text_bytes)) <= admission.available:
            return
        counted = cost(dialect.count_text(call))
        if counted > admission.available:
            outcome: Outcome = "insufficient" if counted > admission.balance else "held"
            raise self.admitter.refusal(replace(admission, outcome=outcome, minimum=counted))

    # -- the call --------------------------------------------------------------------------------------------

    def _try_own_keys(
        self, request: CallRequest, attempt: Attempt, in_flight: InFlightCall
    ) -> Reply | AnswerStream:
        """Make the call with the provider keys of the account that pays, in their order, else with credits. When all fail, credits
        pay only if each of them allows it; else raises the first error. Calls with test keys and free calls use none. Raises LedgerUnavailable."""
        if attempt.route.byok is not None or request.free or request.presented.is_test:
            return self._try_providers(request, attempt, in_flight)
        failed: ProviderError | UpstreamError | None = None
        credits = True
        for own, use_credits in self._own_attempts(request, attempt, in_flight):
            in_flight.route = own.route
            try:
                return self._send(request, own, in_flight)
            except (ProviderError, UpstreamError) as error:
                if in_flight.stop_error or not (own_key_failed(error) or error_class(error)):
                    raise
                log.warning("call %s: an own key failed: %s", request.request_id, label(error))
                in_flight.trail.after.append((own.route.provider.name, own.route.model, label(error)))
                failed, credits = failed or error, credits and use_credits
        if failed is not None and not credits:
            raise failed
        in_flight.route = attempt.route
        if attempt.hold > max(in_flight.admission.available, 0):
            self._check_counted_input(request.dialect, attempt, in_flight.admission)
        return self._try_providers(request, attempt, in_flight)

    def _own_attempts(
        self, request: CallRequest, attempt: Attempt, in_flight: InFlightCall
    ) -> Iterator[tuple[Attempt, bool]]:
        """The call prepared for each provider key of the account, and whether credits pay when that fails. Keys of the vendor of a
        model are used also if the server sends its calls to another provider."""
        call, first = request.call, attempt.route
        assert isinstance(call, Call)
        task = call.format if call.format in passed.PATHS else None

        def route_at(provider: str) -> Route | None:
            if provider == first.provider.name:
                return first
            vendors = {each.name for each in self.routes.direct}
            return self.routes.own_route(provider, first.requested, task) if provider in vendors else None

        try:
            keys = self.account_keys.find(in_flight.admission, route_at)
        except LedgerUnavailable as error:
            in_flight.fail(error.code, error.status, error.message)
            raise
        for route, use_credits in keys:
            try:
                own = self._prepare(request, call, route)
            except DomainError:
                continue
            if not (own.route.dropped and in_flight.is_strict):
                yield own, use_credits

    def _plan_own(self, request: CallRequest, admission: Admission, error: DomainError) -> Attempt:
        """The call, that no provider of this server serves, with a provider key of the account. Raises `error` if none serves it, or
        LedgerUnavailable."""
        call = request.call
        own = not (request.byok or request.free or request.presented.is_test)
        if own and isinstance(error, NoRoute) and isinstance(call, Call):
            task = call.format if call.format in passed.PATHS else None
            for key in self.account_keys.find(
                admission, lambda provider: self.routes.own_route(provider, call.model, task)
            ):
                return self._prepare(request, call, key.route)
        raise error

    def _try_providers(
        self, request: CallRequest, attempt: Attempt, in_flight: InFlightCall
    ) -> Reply | AnswerStream:
        """Call the route's provider; when it is unreachable or busy, the others, and all again as far as the operator's file says.
        When all fail, raises the first error: that of the requested route."""
        route = attempt.route
        policy = self.routes.retry if route.alias is None else route.alias.retry
        trials = ProviderTrials(
            attempt,
            lambda: self._fallbacks(request, attempt, in_flight),
            in_flight,
            policy,
            self.routes.breakers,
        )
        return trials.run(lambda each: self._send(request, each, in_flight))

    def _fallbacks(
        self, request: CallRequest, attempt: Attempt, in_flight: InFlightCall
    ) -> Iterator[Attempt]:
        """The call prepared for each other provider whose price is held, and which the caller may use."""
        call = request.call
        if isinstance(call, DomainError) or request.byok or request.free or request.presented.is_test:
            return
        if not self.failover and attempt.route.alias is None:
            return
        for route in self.routes.fallbacks(attempt.route):
            try:
                other = self._prepare(request, call, route)
            except DomainError:
                continue
            fewer = call.n > 1 and attempt.route.provider.native_n and not route.provider.native_n
            fewer = fewer or bool(other.route.dropped and in_flight.is_strict)
            if attempt.route.alias and not self.admitter.allows(in_flight.admission, other.route):
                continue
            if not fewer and in_flight.try_hold(other.hold):
                yield other

    def _send(self, request: CallRequest, attempt: Attempt, in_flight: InFlightCall) -> Reply | AnswerStream:
        dialect, call = request.dialect, attempt.call
        biller = Biller(self.routes, self.margin, partial(dialect.count_input, call))
        if not attempt.whole:
            return open_stream(request, attempt, in_flight, biller, self.streams)
        if not call.stream:
            return settle_reply(request, call, fetch_all(dialect, attempt), in_flight, biller, self.settings)
        try:
            answer = read_streamed(dialect, attempt, in_flight, self.whole_only)
        except AnswerEnded as ended:
            error = ended.error
            settle_reply(request, call, [ended.answer], in_flight, biller, self.settings, error=error)
            raise error from ended
        except ProviderError as error:
            if not refuses_to_stream(error):
                raise
            log.warning("%s does not stream %s: %s", attempt.route.provider.title, attempt.route.model, error)
            return self._send(request, self._as_whole(request, attempt, in_flight), in_flight)
        return settle_reply(request, call, [answer], in_flight, biller, self.settings)

    def _as_whole(self, request: CallRequest, attempt: Attempt, in_flight: InFlightCall) -> Attempt:
        """The attempt for a provider that refused to stream, with its full hold. Raises CreditsHeld."""
        assert isinstance(request.call, Call)
        self.whole_only.add(attempt.route)
        whole = self._prepare(request, request.call, attempt.route)
        if not in_flight.try_hold(whole.hold):
            raise self.admitter.refusal(replace(in_flight.admission, outcome="held", hold=whole.hold))
        return whole


def _session(request: CallRequest, call: Call, alias: Alias) -> str | None:
    """The client's session, if the targets of the alias are sticky. Sessions of different keys are different."""
    if not alias.sticky:
        return None
    found = affinity(request.session, request.run_id, call.client_body)
    return found and f"{request.key}\0{found}"


def _trail(request: CallRequest, call: Call, route: Route) -> RouteTrail:
    alias = route.alias
    if alias is None:
        return RouteTrail(call.model, "model")
    if len(alias.targets) == 1:
        return RouteTrail(call.model, "alias")
    return RouteTrail(call.model, "sticky" if _session(request, call, alias) else "weight")
