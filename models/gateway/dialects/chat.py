"""OpenAI's Chat Completions API (`/v1/chat/completions`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from models.core.cooperative import in_slices
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway import sse, tokens
from models.gateway.bill import Bill
from models.gateway.call_errors import CallRefused, CreditsHeld, ProviderError, client_error, redact_keys
from models.gateway.chat_format import BadCall, Call, UsageMeter, chat_parsing, client_usage, find_failure
from models.gateway.chat_format.assembly import AnswerAssembler
from models.gateway.dialects.chat_stream import ChatStream
from models.gateway.dialects.dialect import (
    CallRequest,
    Dialect,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    Reply,
    WholeAnswer,
    newest_messages,
)
from models.gateway.dialects.error_shapes import (
    PLAN_OUTCOMES,
    ban_message,
    fallback_note,
    held_details,
    held_message,
    insufficient_message,
    model_error,
    plan_refusal,
    plan_reset,
    upstream_message,
)
from models.gateway.lenient_json import NotJson, read, write
from models.gateway.routing import Route
from models.gateway.upstream import READ, BrokenConnection, EmptyAnswer, UpstreamError
from models.ledger.holds import Admission
from models.ledger.payers import PAYER_OUTCOMES, payer_hint, payer_refusal


class ChatDialect(Dialect):
    """Needs no run; the header `x-stoa-run-id` attaches a call to one."""

    door = "openai"

    def read(self, received: IncomingRequest) -> CallRequest:
        call, headers = received.body, received.headers
        if not isinstance(call, DomainError):
            call = parse_call(call, received.raw)
        return CallRequest(
            self,
            received.request_id,
            received.key,
            call,
            run_id=headers.get("x-stoa-run-id") or None,
            byok=headers.get("x-openrouter-api-key") or None,
            size=len(received.raw),
            payer=payer_hint(headers.get("x-stoa-org"), headers.get("x-stoa-repo")),
        )

    def stored_request(self, call: Call, size: int) -> Any:
        return newest_messages(call.body["messages"], size)

    def count_text(self, call: Call) -> int:
        return tokens.count_messages(call.body["messages"], call.body.get("tools"))

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        return tokens.count_input(call.body["messages"], call.body.get("tools"))

    # -- answers ---------------------------------------------------------------------------------------------

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        """Parse a chat completion, or assemble one from a body of events or lines."""
        title = route.provider.title
        if not raw.strip():
            raise EmptyAnswer(f"{title} sent an empty answer. Nothing was charged; try again.")
        meter = route.provider.meter(call)
        body: Any = None
        with suppress(NotJson):
            body, raw = read(raw)
        if isinstance(body, dict):
            meter.body(body)
            if meter.amended:
                body["object"] = "chat.completion"
                raw = write(body)
        elif find_failure(body) is None and (assembled := _assembled(raw, title, meter)) is not None:
            body, raw = assembled, write(assembled)
        failure = meter.failure or (None if meter.started else find_failure(body))
        if failure and not meter.started:
            if (redacted := redact_keys(raw, route)) != raw:
                failure = find_failure(read(redacted).value) or failure
            raise client_error(failure, failure.status or 502, route, headers.get("Retry-After"))
        choices = body.get("choices") if isinstance(body, dict) else 0
        if not isinstance(body, dict) or not (choices is None or isinstance(choices, list)):
            raise BrokenConnection(f"{title} sent an answer that cannot be read.")
        if meter.empty and not meter.ended:
            raise EmptyAnswer(
                f"{title} sent an answer without content and without usage. Nothing was charged; try again."
            )
        return WholeAnswer(raw, body, meter)

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return answers[0].meter.answer

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        body = answers[0].value
        if (usage := self.client_usage(bill)) is body.get("usage"):
            return Reply(answers[0].raw)
        # counted, or reported elsewhere or under other names
        return Reply(write({**body, "usage": usage}))

    def client_usage(self, bill: Bill) -> Mapping[str, Any]:
        """The `usage` object for the client: the provider's own if it is what was billed."""
        return client_usage(bill.usage)

    # -- streams ---------------------------------------------------------------------------------------------

    def translator(self, request: CallRequest, call: Call, route: Route) -> ChatStream:
        return ChatStream(request.request_id, call, route, self.client_usage, wants_usage=call.wants_usage)

    # -- errors ----------------------------------------------------------------------------------------------

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        """Format an error as OpenAI's, or Anthropic's for requests with `anthropic-version`."""
        match error:
            case CreditsHeld():
                body = _body(context, 429, held_message(error), "credits_held")
                body["error"]["details"] = held_details(error)
                return ErrorAnswer(429, body)
            case CallRefused():
                refusal = _refusal(error.admission, context.settings)
                return ErrorAnswer(refusal[0], _body(context, *refusal))
            case ProviderError(status=status, failure=failure):
                text = upstream_message(error)
                body = _body(context, status, text, failure.code, param=failure.param, kind=failure.type)
                if failure.details is not None:
                    body["error"]["details"] = failure.details
                return ErrorAnswer(status, body)
            case UpstreamError(status=status, kind=kind):
                return ErrorAnswer(status, _body(context, status, str(error), kind))
            case DomainError(status=status, message=text, code=code):
                return ErrorAnswer(status, _body(context, status, text, code, param=_param(error)))
            case _:
                text = "The call failed on our side; nothing was charged."
                return ErrorAnswer(500, _body(context, 500, text, "internal_error"))


def parse_call(body: Any, raw: bytes, *, truthy_stream: bool = False) -> Call | DomainError:
    """Parse a body into a call; returns the error of an invalid one."""
    try:
        return chat_parsing.parse(body, chat_parsing.size_of(raw), truthy_stream=truthy_stream)
    except BadCall as error:
        return error


def _assembled(raw: bytes, title: str, meter: UsageMeter) -> dict[str, Any] | None:
    """Assemble a whole answer from a body of events; None without any. Raises BrokenConnection when it was cut off."""
    parser, assembly = sse.SseParser(title), AnswerAssembler()
    done = found = False
    for event in in_slices(_events(parser, raw)):
        chunk = None
        with suppress(NotJson):
            chunk = read(event.data or b"").value
        if done := event.data is not None and sse.is_done(event.data):
            break
        if isinstance(chunk, dict):
            meter.event(chunk, is_error=event.name == b"error")
            assembly.add(chunk)
            found = True
    if not found:
        return None
    if not (done or meter.ended or meter.billed or meter.failure):
        raise BrokenConnection(f"{title} closed the connection before its response was complete.")
    return assembly.body(meter.output, meter.raw_usage)


def _events(parser: sse.SseParser, raw: bytes) -> Iterator[sse.SseEvent]:
    for start in range(0, len(raw), READ):
        yield from parser.feed(raw[start : start + READ])
    yield from parser.end()


def _body(context: ErrorContext, status: int, message: str, code: Any, **more: Any) -> dict[str, Any]:
    return model_error(context.headers, context.request_id, status, message, code, **more)


def _param(error: DomainError) -> str | None:
    return error.param if isinstance(error, BadCall) else "model" if error.code.startswith("model_") else None


def _refusal(admission: Admission, settings: Settings) -> tuple[int, str, str]:
    if admission.outcome in PLAN_OUTCOMES:
        return plan_refusal(admission)
    if admission.outcome in PAYER_OUTCOMES:
        return payer_refusal(admission.outcome, admission.refusal, admission.model)
    base_url = settings.base_url
    run = admission.run_id
    refusal: Mapping[str, tuple[int, str, str]] = {
        "unknown_key": (401, "This API key is unknown or expired.", "invalid_api_key"),
        "banned": (403, ban_message(settings), "account_suspended"),
        "out_of_credits": (
            402,
            f"Out of credits. Add credits at {base_url}/usage.{plan_reset(admission)}{fallback_note(admission)}",
            "insufficient_credits",
        ),
        "no_run": (400, "The request names no run.", "run_not_found"),
        "run_not_found": (400, f"You have no run '{run}' (x-stoa-run-id).", "run_not_found"),
        "run_not_running": (400, f"The run '{run}' has ended (x-stoa-run-id).", "run_not_running"),
        "insufficient": (402, insufficient_message(admission), "insufficient_credits"),
    }
    return refusal[admission.outcome]
