"""Translates a call from its client's format into a provider's, and reads its answer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from models.gateway.chat_format import Call
from models.gateway.conversation import Answer, AnswerBuilder, AnswerEvent, Conversation
from models.gateway.formats import chat_request
from models.gateway.formats.answer_memory import MEMORY
from models.gateway.formats.wire_formats import WIRE_FORMATS


def translated(call: Call, target: str, read: Callable[[Mapping[str, Any]], Conversation]) -> Call:
    """The call with its body in the format `target`; unchanged if it is in that already. `read` reads the client's body. What the target
    cannot express is named in `left_out`."""
    if call.format == target:
        return call
    conversation = read(call.body)
    conversation.max_output = call.max_output
    MEMORY.restore(call.caller, conversation)
    body = {"model": call.model, **WIRE_FORMATS[target].write_request(conversation)}
    return replace(
        call,
        body=body,
        format=target,
        original=call.client_body,
        left_out=(*call.left_out, *conversation.left_out),
        headers={},
    )


def as_chat(call: Call) -> Mapping[str, Any]:
    """The request in the format of chat completions, in which it is stored, shown and counted."""
    if call.format == chat_request.NAME:
        return call.body
    return chat_request.write_chat(WIRE_FORMATS[call.format].read_request(call.body))


class TranslatedAnswer:
    """Reads the answer to a translated call, and remembers what proves its reasoning for the next turn."""

    def __init__(self, call: Call) -> None:
        self._caller = call.caller
        self._reader = WIRE_FORMATS[call.format].reader()
        self._builder = AnswerBuilder()

    def read(self, event: Mapping[str, Any]) -> list[AnswerEvent]:
        """The normal events of one event of a stream."""
        return self._added(self._reader.read(event))

    def read_whole(self, body: Mapping[str, Any]) -> Answer:
        """A whole answer."""
        self._added(self._reader.read_whole(body))
        return self.end()

    def end(self) -> Answer:
        """End the answer."""
        answer = self._builder.answer()
        MEMORY.remember(self._caller, answer)
        return answer

    def _added(self, events: list[AnswerEvent]) -> list[AnswerEvent]:
        for event in events:
            self._builder.add(event)
        return events
