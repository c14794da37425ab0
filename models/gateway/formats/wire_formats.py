"""All formats of conversations: each reads requests and answers into the normal form, writes requests from it, and assembles streams."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from models.gateway.conversation import AnswerEvent, Conversation
from models.gateway.formats import chat_request, gemini_request, messages_request, responses_request
from models.gateway.formats.chat_answer import ChatAnswerReader
from models.gateway.formats.format_assembly import GeminiAssembler, MessagesAssembler, ResponsesAssembler
from models.gateway.formats.gemini_answer import GeminiAnswerReader
from models.gateway.formats.messages_answer import MessagesAnswerReader
from models.gateway.formats.responses_answer import ResponsesAnswerReader


class AnswerReader(Protocol):
    """Reads the answers of a provider. One per answer."""

    def read(self, event: Mapping[str, Any]) -> list[AnswerEvent]:
        """The normal events of one event of a stream."""

    def read_whole(self, body: Mapping[str, Any]) -> list[AnswerEvent]:
        """The normal events of a whole answer."""


class BodyAssembler(Protocol):
    """Assembles the whole answer from the events of a stream. One per answer."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Add an event."""

    def body(self) -> dict[str, Any]:
        """The answer so far, as the provider would have sent it whole."""


@dataclass(frozen=True, slots=True)
class WireFormat:
    """One format. Chat completions have an assembler of their own (`chat_format/assembly.py`), which reads many vendors' chunks."""

    read_request: Callable[[Mapping[str, Any]], Conversation]
    write_request: Callable[[Conversation], dict[str, Any]]
    reader: Callable[[], AnswerReader]
    assembler: Callable[[], BodyAssembler] | None = None


WIRE_FORMATS: Mapping[str, WireFormat] = {
    chat_request.NAME: WireFormat(chat_request.read_chat, chat_request.write_chat, ChatAnswerReader),
    messages_request.NAME: WireFormat(
        messages_request.read_messages,
        messages_request.write_messages,
        MessagesAnswerReader,
        MessagesAssembler,
    ),
    responses_request.NAME: WireFormat(
        responses_request.read_responses,
        responses_request.write_responses,
        ResponsesAnswerReader,
        ResponsesAssembler,
    ),
    gemini_request.NAME: WireFormat(
        gemini_request.read_gemini, gemini_request.write_gemini, GeminiAnswerReader, GeminiAssembler
    ),
}
