"""OpenAI's Responses API (`/v1/responses`)."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from models.gateway.chat_format import Call, Usage, UsageMeter, chat_parsing
from models.gateway.conversation import Answer, Conversation
from models.gateway.dialects.dialect import (
    CallRequest,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    StreamTranslator,
)
from models.gateway.dialects.responses_stream import (
    ResponsesStream,
    TranslatedResponsesStream,
    kept_bytes,
    response_id,
)
from models.gateway.dialects.translating import CHAT, TranslatingDialect
from models.gateway.formats import responses_request
from models.gateway.formats.responses_answer import ResponseHead, response_body
from models.gateway.formats.responses_parsing import parse_responses
from models.gateway.response_state.request_state import RequestState
from models.gateway.response_state.response_store import owner_of
from models.gateway.route import Route
from models.ledger.holds import Admission


class ResponsesDialect(TranslatingDialect):
    """The dialect of the OpenAI SDKs' `responses` and of Codex. Answers are kept here, under ids of ours, and not by the provider."""

    door = "responses"
    format = responses_request.NAME
    keeps = True
    """Whether answers are kept."""

    def read(self, received: IncomingRequest) -> CallRequest:
        request, memory = super().read(received), received.memory
        if memory is None or not isinstance(request.call, Call):
            return request
        state = RequestState(received.request_id, request.call.body, len(received.raw), memory)
        if state.refers:
            return replace(request, resolve=partial(self._resolve, request, state))
        answer = state.answer() if self.keeps else None
        return replace(request, call=replace(request.call, answer=answer))

    def _resolve(self, request: CallRequest, state: RequestState, admission: Admission) -> CallRequest:
        """The request with what it refers to. Raises BadCall, ResponsesUnavailable."""
        given = request.call
        assert isinstance(given, Call)
        resolved = state.resolve(owner_of(admission))
        call = replace(
            self.parse_body(resolved.body, resolved.size),
            headers=given.headers,
            original=given.body if self.keeps else None,
            answer=state.answer(resolved.chain) if self.keeps else None,
        )
        return replace(request, call=call, size=resolved.size, resolve=None)

    def parse(self, received: IncomingRequest) -> Call:
        return self.parse_body(received.body, chat_parsing.size_of(received.raw))

    def parse_body(self, body: Any, size: int) -> Call:
        """A JSON body of `size` bytes as a call. Raises BadCall."""
        return parse_responses(body, size)

    def conversation(self, body: Mapping[str, Any]) -> Conversation:
        return responses_request.read_responses(body)

    def answer_body(self, call: Call, answer: Answer, meter: UsageMeter, usage: Usage) -> dict[str, Any]:
        id = call.answer.id if call.answer else response_id(meter.id or "answer")
        return response_body(ResponseHead(id, meter.model or call.model, call.client_body), answer, usage)

    def finish(self, call: Call, body: dict[str, Any], raw: bytes | None = None) -> bytes:
        if call.answer is None:
            return super().finish(call, body, raw)
        return kept_bytes(call.answer, body)

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        if call.format == self.format:
            return ResponsesStream(request.request_id, call, route)
        return TranslatedResponsesStream(request.request_id, call, route)

    def balance_headers(self, balance: int) -> Mapping[str, str]:
        """As Codex reads them."""
        return {
            "x-codex-credits-has-credits": "true" if balance > 0 else "false",
            "x-codex-credits-unlimited": "false",
            "x-codex-credits-balance": str(max(balance, 0)),
        }

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        return CHAT.error(error, context)
