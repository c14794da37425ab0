"""What dialects read alike: the headers of a request, and whole answers that are passed on."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from models.core.errors import DomainError
from models.gateway.call_errors import ProviderError, client_error, redact_keys
from models.gateway.chat_format import BadCall, Call, ProviderFailure, UsageMeter, find_failure
from models.gateway.dialects.dialect import CallRequest, Dialect, IncomingRequest, WholeAnswer
from models.gateway.formats.passed_meter import PassedMeter
from models.gateway.lenient_json import NotJson, read
from models.gateway.route import Route
from models.gateway.upstream import BrokenConnection, EmptyAnswer
from models.ledger.payers import PayerHint


def read_request(
    dialect: Dialect,
    received: IncomingRequest,
    parse: Callable[[IncomingRequest], Call],
    *,
    run_id: str | None = None,
    client_id: str | None = None,
    payer: PayerHint | None = None,
) -> CallRequest:
    """The request with its parsed call, or with the error of an invalid body. Needs no run; the header `x-stoa-run-id` attaches
    a call to one, `x-stoa-run-budget` gives that an envelope. `parse` raises BadCall."""
    call: Call | DomainError = received.body
    if not isinstance(call, DomainError):
        try:
            call = replace(parse(received), caller=received.presented.id)
        except BadCall as error:
            call = error
    return dialect.request(received, call, run_id=run_id, client_id=client_id, payer=payer)


def read_passed_answer(
    raw: bytes, route: Route, headers: Mapping[str, str], meter: UsageMeter
) -> WholeAnswer:
    """A whole answer in JSON, metered, which the client gets as it is. Raises ProviderError, UpstreamError."""
    title = route.provider.title
    if not raw.strip():
        raise EmptyAnswer(f"{title} sent an empty answer. Nothing was charged; try again.")
    body: Any = None
    with suppress(NotJson):
        body, raw = read(raw)
    if not isinstance(body, dict):
        raise BrokenConnection(f"{title} sent an answer that cannot be read.")
    meter.body(body)
    return check_passed_answer(WholeAnswer(raw, body, meter), route, headers)


def check_passed_answer(answer: WholeAnswer, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
    """The answer, unless it is an error or empty. Raises ProviderError, UpstreamError."""
    meter = answer.meter
    if meter.failure is not None and not meter.started:
        raise passed_error(meter.failure, answer.raw, route, headers)
    if meter.empty and not meter.ended:
        raise EmptyAnswer(
            f"{route.provider.title} sent an answer without content and without usage. Nothing was charged; try again."
        )
    return answer


def passed_meter(call: Call, route: Route) -> PassedMeter:
    """The meter of an answer that is passed on."""
    meter = route.provider.meter(call)
    assert isinstance(meter, PassedMeter)
    meter.by_tokens = route.price is None or route.price.by_tokens
    return meter


def passed_error(
    failure: ProviderFailure, raw: bytes, route: Route, headers: Mapping[str, str]
) -> ProviderError:
    """The error for the client, without the key that it may quote."""
    shown = find_failure(read(redact_keys(raw, route)).value, is_error=True) or failure
    return client_error(shown, shown.status or 502, route, headers.get("Retry-After"))
