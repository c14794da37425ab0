"""The dialect of the compatible SDK (contract 5): chat completions that belong to a run, with their cost in the usage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from models.core.db import now
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.bill import Bill
from models.gateway.call_errors import CallRefused, ProviderError, RelayFailed
from models.gateway.chat_format import BadCall, Call, usage_object
from models.gateway.chat_format.output import parts_of
from models.gateway.dialects.chat import ChatDialect, parsed
from models.gateway.dialects.chat_stream import ChatStream
from models.gateway.dialects.dialect import (
    CallRequest,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    MissingApiKey,
    Reply,
    UnreadableBody,
    WholeAnswer,
    iso_now,
)
from models.gateway.dialects.error_shapes import suspended, too_little, upstream_words
from models.gateway.lenient_json import write
from models.gateway.providers.provider import Provider
from models.gateway.routing import Route, Router
from models.gateway.upstream import UpstreamError
from models.ledger.holds import Admission

MOST_PARALLEL = 32
"""Answers made of one request by sending it several times."""
DIRECT = ("openai/gpt-5", "openai/gpt-5.1")
"""Models whose several answers come from OpenAI itself (contract 5.3)."""
SDK_MARGIN = Decimal("1.055")
"""What the SDK multiplies a cost with to show credits."""


class CodebuffDialect(ChatDialect):
    """What the SDK wants beside a chat completion stands in the body's `codebuff_metadata`: the run, the client's id, and
    `n`, how many answers are merged into one (contract 5.3, 5.4)."""

    door = "codebuff"
    body_first = True
    needs_run = True

    def read(self, received: IncomingRequest) -> CallRequest:
        metadata = _metadata(received.body)
        run_id, client_id = metadata.get("run_id"), metadata.get("client_id")
        # any truthy `stream` asks for a stream
        call = parsed(received.body, received.raw, truthy_stream=True)
        if isinstance(call, Call) and not call.stream:
            call = _with_answers(call, metadata.get("n"))
        return CallRequest(
            self,
            received.request_id,
            received.key,
            call,
            run_id=run_id if isinstance(run_id, str) and run_id else None,
            client_id=client_id if isinstance(client_id, str) else None,
            byok=received.headers.get("x-openrouter-api-key") or None,
            size=len(received.raw),
        )

    def route(self, routes: Router, request: CallRequest, call: Call) -> Route:
        several = not call.stream and bool(_metadata(call.body).get("n"))
        direct = several and call.model.lower() in DIRECT
        return routes.find(call.model, byok=request.byok, direct_openai=direct)

    def adapt(self, call: Call, provider: Provider) -> Call:
        if call.answers > 1 and provider.native_n:
            return replace(call.with_body(n=call.answers), n=call.answers)
        return call

    # -- answers ---------------------------------------------------------------------------------------------

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return _merged(answers) if call.answers > 1 else super().stored_answer(call, answers)

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        if call.answers == 1:
            return super().reply(call, answers, bill)
        message = {"content": _merged(answers), "role": "assistant"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = with_cost(usage_object(bill.usage), bill)
        return Reply(write({**answers[0].value, "choices": [choice], "usage": usage}))

    def shown_usage(self, bill: Bill) -> Mapping[str, Any]:
        return with_cost(super().shown_usage(bill), bill)

    def translator(self, request: CallRequest, call: Call, route: Route) -> ChatStream:
        return ChatStream(request.request_id, call, route, self.shown_usage, wants_usage=True)

    def greeting(self) -> bytes:
        return f": connected {iso_now()}\n".encode()

    # -- errors ----------------------------------------------------------------------------------------------

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        match error:
            case MissingApiKey():
                return ErrorAnswer(401, {"message": "Unauthorized"})
            case UnreadableBody():
                return ErrorAnswer(400, {"message": "Invalid JSON in request body"})
            case CallRefused():
                return _refused(error.admission, context.settings)
            case ProviderError():
                return ErrorAnswer(error.status, {"error": _upstream_error(error)})
            case UpstreamError(status=status, kind=kind):
                return _for_every_sdk(status, str(error), kind, "upstream_error")
            case DomainError(status=status, message=text, code=code):
                return _for_every_sdk(status, text, code)
            case RelayFailed():
                return ErrorAnswer(500, {"error": "Failed to process request"})
            case _:
                return ErrorAnswer(500, {"error": "Internal server error"})


def _metadata(body: Any) -> Mapping[str, Any]:
    metadata = body.get("codebuff_metadata") if isinstance(body, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _with_answers(call: Call, wanted: Any) -> Call | DomainError:
    if not wanted:
        return call
    if type(wanted) is not int or not 1 <= wanted <= MOST_PARALLEL:
        return BadCall(f"'codebuff_metadata.n' must be a whole number from 1 to {MOST_PARALLEL}.")
    return replace(call, answers=wanted)


def _merged(answers: Sequence[WholeAnswer]) -> str:
    """The texts of all choices of all answers, as a list in JSON."""
    choices = [choice for answer in answers for choice in answer.value.get("choices") or ()]
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    texts = ["".join(text for kind, text in parts_of(content) if kind == "text") for content in contents]
    return write(texts).decode()


def with_cost(shown: Mapping[str, Any], bill: Bill) -> Mapping[str, Any]:
    """A `usage` object whose cost leads the SDK to the credits that the ledger charged.

    The SDK adds 5.5 % on its own; with another margin the cost shown differs from the cost paid.
    """
    told = bill.cost * (1 + bill.margin) / SDK_MARGIN
    if told == _as_the_sdk_adds(shown):
        return shown
    details = shown.get("cost_details")
    details = {**(details if isinstance(details, dict) else {}), "upstream_inference_cost": None}
    return {**shown, "cost": float(told), "cost_details": details}


def _as_the_sdk_adds(shown: Mapping[str, Any]) -> Decimal | None:
    """The dollars that the SDK reads out of a `usage` object; None where it would not find numbers."""
    details = shown.get("cost_details")
    extra = details.get("upstream_inference_cost") if isinstance(details, dict) else None
    cost, more = shown.get("cost"), 0 if extra is None else extra
    if type(cost) not in (int, float) or type(more) not in (int, float):
        return None
    return Decimal(repr(cost)) + Decimal(repr(more))


def _for_every_sdk(status: int, message: str, code: str, kind: str = "invalid_request_error") -> ErrorAnswer:
    """An error that every version of the SDK can show: the text both where old and new ones look for it."""
    return ErrorAnswer(
        status, {"error": {"message": message, "code": code, "type": kind}, "message": message}
    )


def _refused(admission: Admission, settings: Settings) -> ErrorAnswer:
    run = admission.run_id
    base_url = settings.base_url
    # an organisation has no free credits that come again
    reset = "" if admission.org_id else f" Your free credits reset {when(admission.next_quota_reset, now())}."
    rows: dict[str, tuple[int, dict[str, str]]] = {
        "unknown_key": (401, {"message": "Invalid Codebuff API key"}),
        "banned": (403, {"error": "account_suspended", "message": suspended(settings)}),
        "out_of_credits": (
            402,
            {"message": f"Out of credits. Please add credits at {base_url}/usage.{reset}"},
        ),
        "no_run": (400, {"message": "No runId found in request body"}),
        "run_not_found": (400, {"message": f"runId Not Found: {run}"}),
        "run_not_running": (400, {"message": f"runId Not Running: {run}"}),
    }
    if admission.outcome in rows:
        return ErrorAnswer(*rows[admission.outcome])
    return _for_every_sdk(402, too_little(admission), "insufficient_credits", "insufficient_credits")


def _upstream_error(error: ProviderError) -> dict[str, Any]:
    """A provider's error in the form of contract 5.6."""
    failure = error.failure
    told: dict[str, Any] = {"message": upstream_words(error), "code": failure.code}
    if not failure.plain:
        told |= {"type": failure.type, "param": failure.param}
        if failure.metadata is not None:
            told["metadata"] = failure.metadata
    if failure.details is not None:
        told["details"] = failure.details
    return told


def when(moment: datetime | None, current: datetime) -> str:
    """How far off a moment is, in its largest unit: `in 3 days`, `in 1 hour`; `soon` when unknown or past."""
    if moment is None or moment <= current:
        return "soon"
    minutes = int((moment - current).total_seconds() // 60)
    for size, unit in ((1440, "day"), (60, "hour")):
        if minutes >= size:
            count = minutes // size
            return f"in {count} {unit}{'s' if count > 1 else ''}"
    count = max(minutes, 1)
    return f"in {count} minute{'s' if count > 1 else ''}"
