"""OpenAI's Chat Completions API (`/v1/chat/completions`)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from models.core.cooperative import in_slices
from models.core.errors import DomainError
from models.core.settings import Settings
from models.gateway import tokens
from models.gateway.bill import Bill
from models.gateway.budget_errors import RUN_BUDGET
from models.gateway.call_errors import CallRefused, CreditsHeld, ProviderError, stop_message
from models.gateway.chat_format import (
    BadCall,
    Call,
    chat_parsing,
    client_usage,
    find_failure,
    request_definitions,
)
from models.gateway.dialects.chat_collector import ChatCollector, check_answer
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
from models.gateway.lenient_json import NotJson, read, write
from models.gateway.routing import Route
from models.gateway.upstream import READ, EmptyAnswer, UpstreamError
from models.ledger.holds import Admission
from models.ledger.payers import PAYER_OUTCOMES, payer_hint, payer_refusal


class ChatDialect(Dialect):
    """Needs no run; the header `x-stoa-run-id` attaches a call to one, `x-stoa-run-budget` gives that an envelope."""

    door = "openai"
    collects = True

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
            run_budget=headers.get(RUN_BUDGET) or None,
            size=len(received.raw),
            body=received.body
            if isinstance(call, DomainError) and not isinstance(received.body, DomainError)
            else None,
            address=received.address,
            payer=payer_hint(headers.get("x-stoa-org"), headers.get("x-stoa-repo")),
        )

    def stored_input(self, call: Call, size: int) -> tuple[Any, dict[str, Any] | None]:
        return newest_messages(call.body["messages"], size), request_definitions(call.body, size)

    def count_text(self, call: Call) -> int:
        return tokens.count_messages(call.body["messages"], call.body.get("tools"))

    def count_input(self, call: Call) -> tuple[int, dict[str, int]]:
        return tokens.count_input(call.body["messages"], call.body.get("tools"))

    # -- answers ---------------------------------------------------------------------------------------------

    def read_answer(self, raw: bytes, call: Call, route: Route, headers: Mapping[str, str]) -> WholeAnswer:
        """Parse a chat completion, or collect one from a body of events or lines."""
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

    def collector(self, call: Call, route: Route, headers: Mapping[str, str]) -> ChatCollector:
        return ChatCollector(self, call, route, headers)

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


def parse_call(body: Any, raw: bytes, *, truthy_stream: bool = False) -> Call | DomainError:
    """Parse a body into a call; returns the error of an invalid one."""
    try:
        return chat_parsing.parse(body, chat_parsing.size_of(raw), truthy_stream=truthy_stream)
    except BadCall as error:
        return error


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
