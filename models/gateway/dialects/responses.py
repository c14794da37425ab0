"""OpenAI's Responses API (`/v1/responses`)."""

from collections.abc import Mapping
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
from models.gateway.dialects.responses_stream import ResponsesStream, TranslatedResponsesStream, response_id
from models.gateway.dialects.translating import CHAT, TranslatingDialect
from models.gateway.formats import responses_request
from models.gateway.formats.responses_answer import ResponseHead, response_body
from models.gateway.formats.responses_parsing import parse_responses
from models.gateway.routing import Route


class ResponsesDialect(TranslatingDialect):
    """The dialect of the OpenAI SDKs' `responses` and of Codex. Answers are not kept by the provider."""

    door = "responses"
    format = responses_request.NAME

    def parse(self, received: IncomingRequest) -> Call:
        return parse_responses(received.body, chat_parsing.size_of(received.raw))

    def conversation(self, body: Mapping[str, Any]) -> Conversation:
        return responses_request.read_responses(body)

    def answer_body(self, call: Call, answer: Answer, meter: UsageMeter, usage: Usage) -> dict[str, Any]:
        head = ResponseHead(response_id(meter.id or "answer"), meter.model or call.model, call.client_body)
        return response_body(head, answer, usage)

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        if call.format == self.format:
            return ResponsesStream(request.request_id, call, route)
        return TranslatedResponsesStream(request.request_id, call, route)

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        return CHAT.error(error, context)
