"""OpenAI's chat completions, as any OpenAI client writes and reads them (`/v1/chat/completions`)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from models.core.cooperative import in_slices
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway import sse, tokens
from models.gateway.bill import Bill
from models.gateway.call_errors import CallRefused, ProviderError, told, without_keys
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
    newest,
)
from models.gateway.dialects.error_shapes import model_error, suspended, too_little, upstream_words
from models.gateway.lenient_json import NotJson, read, write
from models.gateway.routing import Route
from models.gateway.upstream import READ, BrokenConnection, EmptyAnswer, UpstreamError
from models.ledger.holds import Admission


class ChatDialect(Dialect):
    """Needs no run; `x-stoa-run-id` ties a call to one."""

    door = "openai"

    def read(self, received: IncomingRequest) -> CallRequest:
        call, headers = received.body, received.headers
        if not isinstance(call, DomainError):
            call = parsed(call, received.raw)
        return CallRequest(
            self,
            received.request_id,
            received.key,
            call,
            run_id=headers.get("x-stoa-run-id") or None,
            byok=headers.get("x-openrouter-api-key") or None,
            size=len(received.raw),
        )

    def stored_request(self, call: Call, size: int) -> Any:
        return newest(call.body["messages"], size)

    def count_text(self, call: Call) -> int:
        return tokens.count_messages(call.body["messages"], call.body.get("tools"))

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        return tokens.count_input(call.body["messages"], call.body.get("tools"))

    # -- answers ---------------------------------------------------------------------------------------------

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        """A chat completion, or the one that the events or lines of a body make."""
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
            if (said := without_keys(raw, route)) != raw:
                failure = find_failure(read(said).value) or failure
            raise told(failure, failure.status or 502, route, headers.get("Retry-After"))
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
        if (shown := self.shown_usage(bill)) is body.get("usage"):
            return Reply(answers[0].raw)
        # counted, a choice's, told in parts or in other names: it is put where clients look for it
        return Reply(write({**body, "usage": shown}))

    def shown_usage(self, bill: Bill) -> Mapping[str, Any]:
        """The usage as the client reads it: the provider's own, unless that is not what was billed."""
        return client_usage(bill.usage)

    # -- streams ---------------------------------------------------------------------------------------------

    def translator(self, request: CallRequest, call: Call, route: Route) -> ChatStream:
        return ChatStream(request.request_id, call, route, self.shown_usage, wants_usage=call.wants_usage)

    # -- errors ----------------------------------------------------------------------------------------------

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        """OpenAI's form, or Anthropic's where `anthropic-version` is sent."""
        match error:
            case CallRefused():
                words = _refused(error.admission, context.settings)
                return ErrorAnswer(words[0], _form(context, *words))
            case ProviderError(status=status, failure=failure):
                text = upstream_words(error)
                body = _form(context, status, text, failure.code, param=failure.param, kind=failure.type)
                if failure.details is not None:
                    body["error"]["details"] = failure.details
                return ErrorAnswer(status, body)
            case UpstreamError(status=status, kind=kind):
                return ErrorAnswer(status, _form(context, status, str(error), kind))
            case DomainError(status=status, message=text, code=code):
                return ErrorAnswer(status, _form(context, status, text, code, param=_param(error)))
            case _:
                text = "The call failed on our side; nothing was charged."
                return ErrorAnswer(500, _form(context, 500, text, "internal_error"))


def parsed(body: Any, raw: bytes, *, truthy_stream: bool = False) -> Call | DomainError:
    """The call that a body is, or what is wrong with it."""
    try:
        return chat_parsing.parse(body, chat_parsing.size_of(raw), truthy_stream=truthy_stream)
    except BadCall as error:
        return error


def _assembled(raw: bytes, title: str, meter: UsageMeter) -> dict[str, Any] | None:
    """The whole answer that the events of a body make; None when it holds none. Raises Broken when it was cut off."""
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
        raise BrokenConnection(f"{title} ended the connection before its answer was complete.")
    return assembly.body(meter.output, meter.raw_usage)


def _events(parser: sse.SseParser, raw: bytes) -> Iterator[sse.SseEvent]:
    for start in range(0, len(raw), READ):
        yield from parser.feed(raw[start : start + READ])
    yield from parser.end()


def _form(context: ErrorContext, status: int, message: str, code: Any, **more: Any) -> dict[str, Any]:
    return model_error(context.headers, context.request_id, status, message, code, **more)


def _param(error: DomainError) -> str | None:
    return error.param if isinstance(error, BadCall) else "model" if error.code.startswith("model_") else None


def _refused(admission: Admission, settings: Settings) -> tuple[int, str, str]:
    base_url = settings.base_url
    run = admission.run_id
    words: Mapping[str, tuple[int, str, str]] = {
        "unknown_key": (401, "This API key is unknown or expired.", "invalid_api_key"),
        "banned": (403, suspended(settings), "account_suspended"),
        "out_of_credits": (402, f"Out of credits. Add credits at {base_url}/usage.", "insufficient_credits"),
        "no_run": (400, "No run was named.", "run_not_found"),
        "run_not_found": (400, f"There is no run '{run}' of yours (x-stoa-run-id).", "run_not_found"),
        "run_not_running": (400, f"The run '{run}' is over (x-stoa-run-id).", "run_not_running"),
        "insufficient": (402, too_little(admission), "insufficient_credits"),
    }
    return words[admission.outcome]
