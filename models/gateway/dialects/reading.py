"""What dialects read alike: the headers of a request, and whole answers that are passed on."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from models.core.errors import DomainError
from models.gateway.budget_errors import RUN_BUDGET
from models.gateway.call_errors import client_error, redact_keys
from models.gateway.chat_format import BadCall, Call, UsageMeter, find_failure
from models.gateway.dialects.dialect import CallRequest, Dialect, IncomingRequest, WholeAnswer
from models.gateway.formats.passed_meter import PassedMeter
from models.gateway.lenient_json import NotJson, read
from models.gateway.routing import Route
from models.gateway.upstream import BrokenConnection, EmptyAnswer
from models.ledger.payers import payer_hint


def read_request(
    dialect: Dialect, received: IncomingRequest, parse: Callable[[IncomingRequest], Call]
) -> CallRequest:
    """The request with its parsed call, or with the error of an invalid body. Needs no run; the header `x-stoa-run-id` attaches
    a call to one, `x-stoa-run-budget` gives that an envelope. `parse` raises BadCall."""
    headers = received.headers
    call: Call | DomainError
    if isinstance(received.body, DomainError):
        call = received.body
    else:
        try:
            call = parse(received)
        except BadCall as error:
            call = error
    invalid = isinstance(call, DomainError) and call is not received.body
    return CallRequest(
        dialect,
        received.request_id,
        received.key,
        call,
        run_id=headers.get("x-stoa-run-id") or None,
        byok=headers.get("x-openrouter-api-key") or None,
        run_budget=headers.get(RUN_BUDGET) or None,
        size=len(received.raw),
        body=received.body if invalid else None,
        address=received.address,
        payer=payer_hint(headers.get("x-stoa-org"), headers.get("x-stoa-repo")),
    )


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
    if meter.failure is not None and not meter.started:
        failure = find_failure(read(redact_keys(raw, route)).value, is_error=True) or meter.failure
        raise client_error(failure, failure.status or 502, route, headers.get("Retry-After"))
    if meter.empty and not meter.ended:
        raise EmptyAnswer(
            f"{title} sent an answer without content and without usage. Nothing was charged; try again."
        )
    return WholeAnswer(raw, body, meter)


def passed_meter(call: Call, route: Route) -> PassedMeter:
    """The meter of an answer that is passed on."""
    meter = route.provider.meter(call)
    assert isinstance(meter, PassedMeter)
    meter.by_tokens = route.price is None or route.price.by_tokens
    return meter
