"""Anthropic's Messages API (`/v1/messages`)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.gateway.call_errors import ProviderError
from models.gateway.chat_format import BadCall, Call, Usage, UsageMeter, chat_parsing
from models.gateway.conversation import Answer, Conversation
from models.gateway.dialects.claude_errors import claude_refusal
from models.gateway.dialects.dialect import (
    CallRequest,
    ErrorAnswer,
    ErrorContext,
    IncomingRequest,
    StreamTranslator,
)
from models.gateway.dialects.messages_stream import MessagesStream, TranslatedMessagesStream
from models.gateway.dialects.translating import CHAT, TranslatingDialect
from models.gateway.formats import messages_request
from models.gateway.formats.messages_answer import PING, message_body
from models.gateway.formats.messages_parsing import parse_messages
from models.gateway.providers.provider import Provider
from models.gateway.route import Route

ERROR_TYPES = frozenset(
    (
        *("invalid_request_error", "authentication_error", "billing_error", "permission_error"),
        *("not_found_error", "request_too_large", "rate_limit_error", "timeout_error", "api_error"),
        *("overloaded_error",),
    )
)
RECOVERABLE = (400, 413)
"""Statuses whose message clients read, to shorten the conversation or to leave out what was refused: nothing is added to it."""
_ANTHROPIC = {"anthropic-version": ""}


class MessagesDialect(TranslatingDialect):
    """The dialect of the Anthropic SDKs and of Claude Code."""

    door = "anthropic"
    shows_caps = True
    format = messages_request.NAME
    passed_on = ("anthropic-beta", "anthropic-version")

    def parse(self, received: IncomingRequest) -> Call:
        return parse_messages(received.body, chat_parsing.size_of(received.raw))

    def adapt(self, call: Call, provider: Provider) -> Call:
        if self.format not in provider.formats and call.body.get("safeguards") is not None:
            # Claude Code then checks by itself
            raise BadCall(
                f"'safeguards' cannot be sent to {provider.title}. Leave it out.", param="safeguards"
            )
        return super().adapt(call, provider)

    def conversation(self, body: Mapping[str, Any]) -> Conversation:
        return messages_request.read_messages(body)

    def answer_body(self, call: Call, answer: Answer, meter: UsageMeter, usage: Usage) -> dict[str, Any]:
        id = f"msg_{(meter.id or 'answer').removeprefix('chatcmpl-')}"
        return message_body(id, meter.model or call.model, answer, usage)

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        if call.format == self.format:
            return MessagesStream(request.request_id, call, route)
        return TranslatedMessagesStream(request.request_id, call, route)

    def heartbeat(self) -> bytes:
        return PING

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        """Format an error as Anthropic's. A provider's own kind of error is kept: clients recover by it."""
        answer = CHAT.error(error, replace(context, headers=_ANTHROPIC))
        if isinstance(error, ProviderError) and error.failure.type in ERROR_TYPES:
            answer.body["error"]["type"] = error.failure.type
            if error.status in RECOVERABLE:
                answer.body["error"].pop("details", None)
        return claude_refusal(error, answer, context)
