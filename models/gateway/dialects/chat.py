"""OpenAI's Chat Completions API (`/v1/chat/completions`)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from models.core.cooperative import in_slices
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway import tokens
from models.gateway.bill import Bill
from models.gateway.call_errors import CallRefused, CreditsHeld, ProviderError, stop_message
from models.gateway.chat_format import (
    BadCall,
    Call,
    chat_parsing,
    client_usage,
    find_failure,
    request_definitions,
)
from models.gateway.conversation import Conversation
from models.gateway.dialects.chat_collector import ChatCollector, check_answer
from models.gateway.dialects.chat_stream import ChatStream, TranslatedChatStream
from models.gateway.dialects.dialect import (
    AnswerCollector,
    CallRequest,
    Dialect,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    Reply,
    StreamTranslator,
    WholeAnswer,
    newest_messages,
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
    model_error,
    plan_refusal,
    plan_reset,
    upstream_message,
)
from models.gateway.dialects.format_answers import FormatCollector, read_format_answer
from models.gateway.dialects.reading import read_request
from models.gateway.dialects.responses_on_chat import is_responses_body, parse_as_chat
from models.gateway.dialects.translation import TranslatedAnswer, as_chat, translated
from models.gateway.formats import chat_request
from models.gateway.formats.chat_answer import chat_body, custom_tools
from models.gateway.lenient_json import NotJson, read, write
from models.gateway.providers.provider import STOA_KEYS, Provider
from models.gateway.route import Route
from models.gateway.upstream import READ, EmptyAnswer, UpstreamError
from models.ledger.holds import Admission
from models.ledger.payers import PAYER_OUTCOMES, payer_refusal


class ChatDialect(Dialect):
    """The dialect of the OpenAI SDKs' chat completions."""

    door = "openai"
    format = chat_request.NAME
    collects = True

    def read(self, received: IncomingRequest) -> CallRequest:
        parse = parse_as_chat if is_responses_body(received.body) else parse_chat
        return read_request(self, received, parse)

    def adapt(self, call: Call, provider: Provider) -> Call:
        """Translate the call for a provider without chat completions."""
        return translated(call, provider.format_for(call), _conversation)

    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        body = _chat_body(call)
        return newest_messages(body["messages"], size), request_definitions(body, size)

    def count_text(self, call: Call) -> int:
        body = _chat_body(call)
        return tokens.count_messages(body["messages"], body.get("tools"))

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        body = _chat_body(call)
        return tokens.count_input(body["messages"], body.get("tools"))

    # -- answers ---------------------------------------------------------------------------------------------

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        """Parse a chat completion, or collect one from a body of events or lines; translate an answer in another format."""
        if call.format != self.format:
            return _completion(call, read_format_answer(raw, call, route, headers))
        if not raw.strip():
            raise EmptyAnswer(f"{route.provider.title} sent an empty answer. Nothing was charged; try again.")
        body: Any = None
        with suppress(NotJson):
            body, raw = read(raw)
        if not isinstance(body, dict) and find_failure(body) is None:
            collector = ChatCollector(self, call, route, headers)
            for start in in_slices(range(0, len(raw), READ)):
                collector.feed(raw[start : start + READ])
            if collector.ends_with_chunks():
                return collector.answer()
        meter = route.provider.meter(call)
        if isinstance(body, dict):
            meter.body(body)
            if meter.amended:
                body["object"] = "chat.completion"
                raw = write(body)
        return check_answer(WholeAnswer(raw, body, meter), route, headers)

    def collector(self, call: Call, route: Route, headers: Mapping[str, str]) -> AnswerCollector:
        if call.format != self.format:
            return FormatCollector(call, route, headers, _completion)
        return ChatCollector(self, call, route, headers)

    def stored_answer(self, call: Call, answers: Sequence[WholeAnswer]) -> Any:
        return answers[0].meter.answer

    def reply(self, call: Call, answers: Sequence[WholeAnswer], bill: Bill) -> Reply:
        body = answers[0].value
        if (usage := self._usage_format(call)(bill)) is body.get("usage"):
            return Reply(answers[0].raw)
        # counted, or reported elsewhere or under other names
        return Reply(write({**body, "usage": usage}))

    def client_usage(self, bill: Bill) -> Mapping[str, Any]:
        """The `usage` object for the client: the provider's own if it is what was billed."""
        return client_usage(bill.usage)

    def _usage_format(self, call: Call) -> Callable[[Bill], Mapping[str, Any]]:
        """What formats a bill's usage: not the provider's own object if the answer is translated."""
        if call.format == self.format:
            return self.client_usage
        return lambda bill: self.client_usage(replace(bill, usage=replace(bill.usage, raw=None)))

    # -- streams ---------------------------------------------------------------------------------------------

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        stream = ChatStream if call.format == self.format else TranslatedChatStream
        usage = self._usage_format(call)
        return stream(request.request_id, call, route, usage, wants_usage=self._wants_usage(call))

    def _wants_usage(self, call: Call) -> bool:
        return call.wants_usage

    # -- errors ----------------------------------------------------------------------------------------------

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        """Format an error as OpenAI's, or Anthropic's for requests with `anthropic-version`."""
        match error:
            case CallRefused(admission=admission) if admission.budget is not None:
                status, text, code, details = budget_refusal(admission, context.settings)
                body = _body(context, status, text, code)
                body["error"]["details"] = details
                return ErrorAnswer(status, body)
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
                body = _body(context, status, str(error), kind)
                if error.details is not None:
                    body["error"]["details"] = error.details
                return ErrorAnswer(status, body)
            case DomainError(status=status, message=text, code=code):
                return ErrorAnswer(status, _body(context, status, text, code, param=_param(error)))
            case _:
                text = "The call failed on our side; nothing was charged."
                return ErrorAnswer(500, _body(context, 500, text, "internal_error"))


def _conversation(body: Mapping[str, Any]) -> Conversation:
    return chat_request.read_chat({key: value for key, value in body.items() if key not in STOA_KEYS})


def _chat_body(call: Call) -> Mapping[str, Any]:
    """The client's own messages; not in the provider's words."""
    own = call.client_body
    return own if call.format != chat_request.NAME and "messages" in own else as_chat(call)


def _completion(call: Call, answer: WholeAnswer) -> WholeAnswer:
    """An answer in another format as a chat completion."""
    meter = answer.meter
    normal = TranslatedAnswer(call).read_whole(answer.value)
    custom = custom_tools(call.client_body)
    body = chat_body(meter.id or "answer", meter.model or call.model, normal, custom, meter.created)
    return WholeAnswer(write(body), body, meter)


def parse_chat(received: IncomingRequest, *, truthy_stream: bool = False) -> Call:
    """Parse a body into a call. Raises BadCall."""
    return chat_parsing.parse(received.body, chat_parsing.size_of(received.raw), truthy_stream=truthy_stream)


def _body(context: ErrorContext, status: int, message: str, code: Any, **more: Any) -> dict[str, Any]:
    return model_error(context.headers, context.request_id, status, message, code, **more)


def _param(error: DomainError) -> str | None:
    return error.param if isinstance(error, BadCall) else "model" if error.code.startswith("model_") else None


def _credits_page(admission: Admission, base_url: str) -> str:
    """The page that says why, when more arrive, and whom to ask."""
    return f"{base_url}/credits" + (f"?org={admission.org_id}" if admission.org_id else "")


class PlaygroundDialect(ChatDialect):
    """Chat completions that the server's own page makes."""

    door = "playground"


class TurnsDialect(ChatDialect):
    """Chat completions that the server makes for turns of conversations."""

    door = "turns"


def _refusal(admission: Admission, settings: Settings) -> tuple[int, str, str]:
    if admission.outcome in PLAN_OUTCOMES:
        return plan_refusal(admission)
    if admission.outcome in KEY_OUTCOMES:
        return key_refusal(admission)
    if admission.outcome == "stopped":
        return 403, stop_message(admission.refusal, settings.base_url), "account_stopped"
    if admission.outcome in PAYER_OUTCOMES:
        return payer_refusal(admission.outcome, admission.refusal, admission.model, settings.base_url)
    base_url = settings.base_url
    run = admission.run_id
    refusal: Mapping[str, tuple[int, str, str]] = {
        "unknown_key": (401, "This API key is unknown or expired.", "invalid_api_key"),
        "banned": (403, ban_message(settings), "account_suspended"),
        "out_of_credits": (
            402,
            f"Out of credits. Add some, or see when more arrive, at {_credits_page(admission, base_url)}.{plan_reset(admission)}{fallback_note(admission)}",
            "insufficient_credits",
        ),
        "no_run": (400, "The request names no run.", "run_not_found"),
        "run_not_found": (400, f"You have no run '{run}' (x-stoa-run-id).", "run_not_found"),
        "run_not_running": (400, f"The run '{run}' has ended (x-stoa-run-id).", "run_not_running"),
        "insufficient": (402, insufficient_message(admission), "insufficient_credits"),
    }
    return refusal[admission.outcome]
