"""The answers of one attempt at a provider: fetched whole, read as a stream, or passed on as one; and settled when they are whole."""

import threading
from collections.abc import Sequence
from dataclasses import replace

from models.core.settings import Settings
from models.gateway import lenient_json, sse
from models.gateway.bill import Biller
from models.gateway.call_errors import read_provider_error
from models.gateway.chat_format import Call
from models.gateway.dialects.dialect import CallRequest, Dialect, ErrorContext, Reply, WholeAnswer
from models.gateway.failover import Attempt
from models.gateway.idempotency import recorded
from models.gateway.in_flight import InFlightCall
from models.gateway.route import Route
from models.gateway.stopped_accounts import AccountStopped
from models.gateway.stream import AnswerStream
from models.gateway.upstream import MAX_STREAM, READ, EmptyAnswer, ProviderResponse, UpstreamError
from models.gateway.whole_stream import WholeOnlyModels, read_whole_stream
from models.ledger.idempotent_calls import StoredAnswer

JSON = "application/json"
JSON_LINES = ("ndjson", "jsonl", "json-lines", "json-seq", "stream")
"""Substrings of a `Content-Type` that announce a stream of JSON."""
EMPTY = "The provider's answer was empty."


def request_count(call: Call, route: Route) -> int:
    """How many times the request is sent to get the answers that the client wants merged."""
    return 1 if route.provider.native_n else call.answers


def fetch_all(dialect: Dialect, attempt: Attempt) -> list[WholeAnswer]:
    """Send the request as often as needed, in parallel. Returns the answers of those that succeeded; raises the first
    one's error when all failed."""
    copies = request_count(attempt.call, attempt.route)
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
    response = route.provider.upstream.send(attempt.request)
    try:
        if not _succeeded(response):
            raise read_provider_error(response, route)
        raw = response.read(MAX_STREAM if "event-stream" in _content_type(response) else dialect.max_answer)
        return dialect.read_answer(raw, attempt.call, route, response.headers)
    finally:
        response.close()


def open_stream(
    request: CallRequest,
    attempt: Attempt,
    in_flight: InFlightCall,
    biller: Biller,
    live: set[AnswerStream],
) -> AnswerStream:
    """Send the request. `start` passes on the stream, which is then in `live` while it reads. Raises ProviderError, UpstreamError."""
    route = attempt.route
    response = route.provider.upstream.send(replace(attempt.request, opened=in_flight.abort_with))
    try:
        start = _read_start(response)
        if not _succeeded(response):
            raise read_provider_error(response, route, start)
        if start and not sse.looks_like_sse(start):
            if "json" not in _content_type(response):
                raise read_provider_error(response, route, start)
            start += response.read()
            # raises unless the body is an answer, which is then passed on as a stream
            request.dialect.read_answer(start, attempt.call, route, response.headers)
        stream = AnswerStream(
            request,
            attempt.call,
            in_flight,
            response,
            biller,
            live,
            attempt.held_output,
            start,
        )
    except BaseException:
        response.close()
        raise
    return stream


def read_streamed(
    dialect: Dialect, attempt: Attempt, in_flight: InFlightCall, whole_only: WholeOnlyModels
) -> WholeAnswer:
    """Send the request as a stream, and collect the whole answer. Models that do not stream are noted in `whole_only`. Raises
    ProviderError, UpstreamError, AnswerEnded."""
    call, route = attempt.call, attempt.route
    response = route.provider.upstream.send(replace(attempt.request, opened=in_flight.abort_with))
    try:
        start = _read_start(response)
        if not _succeeded(response):
            raise read_provider_error(response, route, start)
        if start and not sse.looks_like_sse(start):
            # the provider does not stream
            whole_only.add(route)
            return dialect.read_answer(start + response.read(), call, route, response.headers)
        answer = read_whole_stream(dialect, call, in_flight, response, attempt.held_output, start)
    finally:
        response.close()
    if answer.meter.usage() is None:
        # its whole answers may report it
        whole_only.add(route)
    return answer


def settle_reply(
    request: CallRequest,
    call: Call,
    answers: Sequence[WholeAnswer],
    in_flight: InFlightCall,
    biller: Biller,
    settings: Settings,
    *,
    error: UpstreamError | None = None,
) -> Reply:
    """Settle a call, and format its whole answers for the client. `error`: why they are incomplete; gets them in its details.
    Raises LedgerUnavailable, AccountStopped."""
    dialect = request.dialect
    kind, message = (error.kind, str(error)) if error else (None, None)
    meters = [answer.meter for answer in answers]
    first = meters[0]
    if all(meter.empty for meter in meters):
        # a finished choice without content or usage: passed on, not billed
        status = error.status if error else 200
        in_flight.fail(kind or EmptyAnswer.kind, status, message or EMPTY)
        return Reply(answers[0].raw)
    bill = biller.bill(in_flight.route, meters, complete=error is None)
    reply = dialect.reply(call, answers, bill)
    if error is not None:
        error.details = {"answer": lenient_json.read(reply.body).value}
    stored = _stored(request, in_flight, reply, settings, error) if in_flight.admission.claimed else None
    reply.stored = stored is None or stored.body is not None
    in_flight.settle(
        bill.usage,
        bill.cost,
        bill.price,
        model=first.model,
        message_id=first.id,
        response=dialect.stored_answer(call, answers),
        reasoning=first.reasoning,
        error=kind,
        error_message=message,
        answer=stored,
    )
    if error is None and isinstance(in_flight.stop_error, AccountStopped):
        # it has been paid for, but what it says is not to be done
        raise in_flight.stop_error
    if error is None and call.answer is not None:
        call.answer.keep()
    return reply


def _stored(
    request: CallRequest,
    in_flight: InFlightCall,
    reply: Reply,
    settings: Settings,
    error: UpstreamError | None,
) -> StoredAnswer:
    """What a retry with the call's idempotency key gets: the reply, or the error of one that is incomplete."""
    headers = in_flight.route_headers()
    if error is None:
        return recorded(reply.body, reply.content_type, headers=headers)
    context = ErrorContext(request.request_id, request.headers or {}, settings)
    answer = request.dialect.error(error, context)
    return recorded(lenient_json.write(answer.body), JSON, answer.status, headers | dict(answer.headers))


def _succeeded(response: ProviderResponse) -> bool:
    return 200 <= response.status < 300


def _content_type(response: ProviderResponse) -> str:
    return (response.headers.get("Content-Type") or "").lower()


def _read_start(response: ProviderResponse) -> bytes:
    """Read the first bytes of a body announced as JSON or HTML, which may be an event stream nevertheless."""
    kind = _content_type(response)
    start = b""
    if ("json" in kind and not any(word in kind for word in JSON_LINES)) or "html" in kind:
        for chunk in response.blocks():
            start += chunk
            if len(start.strip()) > 10 or len(start) >= READ:
                break
    return start
