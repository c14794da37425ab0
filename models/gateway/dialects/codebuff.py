"""The dialect of the Codebuff SDK (contract 5): chat completions within a run, with their cost in `usage`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from models.core.db import now
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway.bill import Bill
from models.gateway.call_errors import (
    CallRefused,
    CreditsHeld,
    ProviderError,
    RelayFailed,
    relative_time,
    stop_message,
)
from models.gateway.chat_format import BadCall, Call, usage_object
from models.gateway.chat_format.output import parts_of
from models.gateway.dialects.chat import ChatDialect, parse_chat
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
from models.gateway.dialects.error_shapes import (
    KEY_OUTCOMES,
    PLAN_OUTCOMES,
    ban_message,
    budget_refusal,
    fallback_note,
    held_details,
    held_message,
    insufficient_message,
    key_refusal,
    plan_refusal,
    plan_reset,
    upstream_message,
)
from models.gateway.dialects.reading import read_request
from models.gateway.lenient_json import write
from models.gateway.providers.provider import Provider
from models.gateway.route import Route
from models.gateway.routing import Router
from models.gateway.upstream import UpstreamError
from models.ledger.holds import Admission
from models.ledger.payers import PAYER_OUTCOMES, payer_hint, payer_refusal

MAX_PARALLEL = 32
"""Largest number of answers to one request that is sent to the provider several times."""
DIRECT_OPENAI = ("openai/gpt-5", "openai/gpt-5.1")
"""Models for which OpenAI itself is asked for several answers (contract 5.3)."""
SDK_MARGIN = Decimal("1.055")
"""The factor by which the SDK multiplies a cost to show credits."""


class CodebuffDialect(ChatDialect):
    """Chat completions with the SDK's fields in `codebuff_metadata`: the run, the client's id, and `n`, the number of
    answers to merge into one (contract 5.3, 5.4)."""

    door = "codebuff"
    body_first = True
    needs_run = True

    def read(self, received: IncomingRequest) -> CallRequest:
        metadata = _metadata(received.body)
        run_id, client_id = metadata.get("run_id"), metadata.get("client_id")
        headers = received.headers
        request = read_request(
            self,
            received,
            _parse,
            run_id=run_id if isinstance(run_id, str) else None,
            client_id=client_id if isinstance(client_id, str) else None,
            payer=payer_hint(
                metadata.get("orgId") or headers.get("x-stoa-org"),
                metadata.get("repo_url") or metadata.get("repoUrl") or headers.get("x-stoa-repo"),
            ),
        )
        return replace(request, free=True) if metadata.get("cost_mode") == "free" else request

    def route(self, routes: Router, request: CallRequest, call: Call) -> Route:
        several = not call.stream and bool(_metadata(call.body).get("n"))
        direct = several and call.model.lower() in DIRECT_OPENAI
        return routes.find(call.model, byok=request.byok, direct_openai=direct)

    def adapt(self, call: Call, provider: Provider) -> Call:
        if call.answers > 1 and provider.native_n:
            call = replace(call.with_body(n=call.answers), n=call.answers)
        return super().adapt(call, provider)

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

    def client_usage(self, bill: Bill) -> Mapping[str, Any]:
        return with_cost(super().client_usage(bill), bill)

    def _wants_usage(self, call: Call) -> bool:
        return True

    def greeting(self) -> bytes:
        return f": connected {iso_now()}\n".encode()

    # -- errors ----------------------------------------------------------------------------------------------

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        match error:
            case MissingApiKey():
                return ErrorAnswer(401, {"message": "Unauthorized"})
            case UnreadableBody():
                return ErrorAnswer(400, {"message": "Invalid JSON in request body"})
            case CallRefused(admission=admission) if admission.budget is not None:
                status, text, code, details = budget_refusal(admission, context.settings)
                answer = _sdk_error(
                    status, text, code, "insufficient_credits" if status == 402 else "rate_limit_error"
                )
                answer.body["error"]["details"] = details
                return answer
            case CreditsHeld():
                answer = _sdk_error(429, held_message(error), "credits_held", "rate_limit_error")
                answer.body["error"]["details"] = held_details(error)
                return answer
            case CallRefused():
                return _refusal(error.admission, context.settings)
            case ProviderError():
                return ErrorAnswer(error.status, {"error": _upstream_error(error)})
            case UpstreamError(status=status, kind=kind):
                answer = _sdk_error(status, str(error), kind, error.type)
                if error.details is not None:
                    answer.body["error"]["details"] = error.details
                return answer
            case DomainError(status=status, message=text, code=code) if code.startswith("free_mode_"):
                return ErrorAnswer(status, {"error": code, "message": text})
            case DomainError(status=status, message=text, code=code):
                return _sdk_error(status, text, code)
            case RelayFailed():
                return ErrorAnswer(500, {"error": "Failed to process request"})
            case _:
                return ErrorAnswer(500, {"error": "Internal server error"})


def _metadata(body: Any) -> Mapping[str, Any]:
    metadata = body.get("codebuff_metadata") if isinstance(body, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _parse(received: IncomingRequest) -> Call:
    """Any truthy `stream` asks for a stream; a whole answer may merge several."""
    call = parse_chat(received, truthy_stream=True)
    requested = _metadata(received.body).get("n")
    if call.stream or not requested:
        return call
    if type(requested) is not int or not 1 <= requested <= MAX_PARALLEL:
        raise BadCall(f"'codebuff_metadata.n' must be a whole number from 1 to {MAX_PARALLEL}.")
    return replace(call, answers=requested)


def _merged(answers: Sequence[WholeAnswer]) -> str:
    """The texts of all choices of all answers, as a JSON list."""
    choices = [choice for answer in answers for choice in answer.value.get("choices") or ()]
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    texts = ["".join(text for kind, text in parts_of(content) if kind == "text") for content in contents]
    return write(texts).decode()


def with_cost(usage: Mapping[str, Any], bill: Bill) -> Mapping[str, Any]:
    """A `usage` object whose cost makes the SDK show the credits that the ledger charged.

    The SDK adds 5.5 % itself; with another margin the reported cost differs from the cost charged.
    """
    cost = bill.cost * (1 + bill.margin) / SDK_MARGIN
    if cost == _sdk_total(usage):
        return usage
    details = usage.get("cost_details")
    details = {**(details if isinstance(details, dict) else {}), "upstream_inference_cost": None}
    return {**usage, "cost": float(cost), "cost_details": details}


def _sdk_total(usage: Mapping[str, Any]) -> Decimal | None:
    """The dollars that the SDK reads from a `usage` object; None when they are not numbers."""
    details = usage.get("cost_details")
    extra = details.get("upstream_inference_cost") if isinstance(details, dict) else None
    cost, more = usage.get("cost"), 0 if extra is None else extra
    if type(cost) not in (int, float) or type(more) not in (int, float):
        return None
    return Decimal(repr(cost)) + Decimal(repr(more))


def _sdk_error(status: int, message: str, code: str, kind: str = "invalid_request_error") -> ErrorAnswer:
    """An error whose text is where older and where newer versions of the SDK look for it."""
    return ErrorAnswer(
        status, {"error": {"message": message, "code": code, "type": kind}, "message": message}
    )


def _refusal(admission: Admission, settings: Settings) -> ErrorAnswer:
    run = admission.run_id
    base_url = settings.base_url
    # organisations have no recurring free credits
    when = relative_time(admission.next_quota_reset, now())
    reset = "" if admission.org_id else f" Your free credits reset {when}."
    if admission.outcome == "stopped":
        message = stop_message(admission.refusal, base_url)
        return ErrorAnswer(403, {"error": "account_stopped", "message": message})
    rows: dict[str, tuple[int, dict[str, str]]] = {
        "unknown_key": (401, {"message": "Invalid Codebuff API key"}),
        "banned": (403, {"error": "account_suspended", "message": ban_message(settings)}),
        "out_of_credits": (
            402,
            {
                "message": f"Out of credits. Please add credits at {base_url}/usage.{plan_reset(admission)}{reset}{fallback_note(admission)}"
            },
        ),
        "no_run": (400, {"message": "No runId found in request body"}),
        "run_not_found": (400, {"message": f"runId Not Found: {run}"}),
        "run_not_running": (400, {"message": f"runId Not Running: {run}"}),
    }
    if admission.outcome in rows:
        return ErrorAnswer(*rows[admission.outcome])
    if admission.outcome in KEY_OUTCOMES:
        return _sdk_error(*key_refusal(admission))
    if admission.outcome in PLAN_OUTCOMES:
        status, message, code = plan_refusal(admission)
        return ErrorAnswer(status, {"error": code, "message": message})
    if admission.outcome in PAYER_OUTCOMES:
        return _sdk_error(
            *payer_refusal(admission.outcome, admission.refusal, admission.model, settings.base_url)
        )
    return _sdk_error(402, insufficient_message(admission), "insufficient_credits", "insufficient_credits")


def _upstream_error(error: ProviderError) -> dict[str, Any]:
    """A provider's error as in contract 5.6."""
    failure = error.failure
    body: dict[str, Any] = {"message": upstream_message(error), "code": failure.code}
    if not failure.plain:
        body |= {"type": failure.type, "param": failure.param}
        if failure.metadata is not None:
            body["metadata"] = failure.metadata
    if failure.details is not None:
        body["details"] = failure.details
    return body
