"""Google's Gemini API (`/v1beta/models/<model>:generateContent`)."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from models.gateway.dialects.error_shapes import answer_message
from models.gateway.dialects.generate_content_stream import STATUSES, GeminiStream, TranslatedGeminiStream
from models.gateway.dialects.translating import CHAT, TranslatingDialect
from models.gateway.formats import gemini_request
from models.gateway.formats.gemini_answer import gemini_body
from models.gateway.formats.gemini_parsing import parse_gemini
from models.gateway.route import Route


@dataclass(frozen=True)
class GeminiDialect(TranslatingDialect):
    """The dialect of Google's SDKs and of Gemini CLI. The address names the model and whether the answer is streamed, so each call has its
    own instance."""

    model: str = ""
    stream: bool = False

    door = "gemini"
    format = gemini_request.NAME

    def parse(self, received: IncomingRequest) -> Call:
        size = chat_parsing.size_of(received.raw)
        return parse_gemini(received.body, self.model, size, stream=self.stream)

    def parse_count(self, body: Any, size: int) -> Call:
        """A request for a count, which may wrap one for an answer. Raises BadCall."""
        wrapped = body.get("generateContentRequest") if isinstance(body, dict) else None
        return parse_gemini(wrapped or body, self.model, size, stream=False)

    def conversation(self, body: Mapping[str, Any]) -> Conversation:
        conversation = gemini_request.read_gemini(body)
        conversation.stream = self.stream
        return conversation

    def answer_body(self, call: Call, answer: Answer, meter: UsageMeter, usage: Usage) -> dict[str, Any]:
        return gemini_body(meter.id or "answer", meter.model or call.model, answer, usage)

    def translator(self, request: CallRequest, call: Call, route: Route) -> StreamTranslator:
        if call.format == self.format:
            return GeminiStream(request.request_id, call, route)
        return TranslatedGeminiStream(request.request_id, call, route)

    def heartbeat(self) -> bytes:
        # clients of this format read nothing but data; white space between events is nothing
        return b"\n"

    def error(self, error: Exception, context: ErrorContext) -> ErrorAnswer:
        """Format an error as Google's."""
        answer = CHAT.error(error, context)
        status = answer.status
        name = STATUSES.get(status) or ("INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        found = {"code": status, "message": answer_message(answer.body), "status": name}
        details = answer.body["error"].get("details")
        return ErrorAnswer(
            status, {"error": found | ({"details": [details]} if details else {})}, answer.headers
        )
