"""Answers in the format of OpenAI's chat completions: chunks and whole completions, read into the normal form and written from it."""

from collections.abc import Iterator, Mapping
from typing import Any

from models.gateway.chat_format.output import parts_of
from models.gateway.conversation import (
    Answer,
    AnswerEvent,
    AnswerStop,
    ReasoningDelta,
    ReasoningPart,
    ReasoningProof,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
)
from models.gateway.conversation.answers import StopReason
from models.gateway.formats.chat_request import NAME, REASONING_FORMATS, read_reasoning_details
from models.gateway.lenient_json import write

_REASONS: Mapping[str, StopReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refusal",
}
_FINISH: Mapping[StopReason, str] = {
    "length": "length",
    "context": "length",
    "tool_calls": "tool_calls",
    "refusal": "content_filter",
}


class ChatAnswerReader:
    """Reads the chunks of one stream, or a whole completion. Reads the first choice. Chunks were read by a `ChatMeter` before, which
    gives each choice a delta."""

    def __init__(self) -> None:
        self._details = False
        self._calls: dict[Any, int] = {}
        self._stopped = False

    def read(self, chunk: Mapping[str, Any]) -> list[AnswerEvent]:
        """The events of a chunk."""
        return [event for choice in _first(chunk) for event in self._choice(choice, choice.get("delta"))]

    def read_whole(self, body: Mapping[str, Any]) -> list[AnswerEvent]:
        """The events of a completion."""
        return [event for choice in _first(body) for event in self._choice(choice, choice.get("message"))]

    def _choice(self, choice: Mapping[str, Any], message: Any) -> Iterator[AnswerEvent]:
        if isinstance(message, dict):
            yield from self._reasoning(message)
            for key in ("content", "refusal"):
                for kind, data in parts_of(message.get(key)):
                    if kind == "text":
                        yield TextDelta(data)
                    elif kind == "reasoning":
                        yield ReasoningDelta(data)
            calls = message.get("tool_calls")
            for at, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    yield self._call(at, call)
            if isinstance(legacy := message.get("function_call"), dict):
                yield self._call(0, {"function": legacy})
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason and not self._stopped:
            self._stopped = True
            stop = _REASONS.get(reason, "stop")
            yield AnswerStop("tool_calls" if self._calls and stop == "stop" else stop)

    def _reasoning(self, message: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        details = message.get("reasoning_details")
        if isinstance(details, list) and details:
            self._details = True
            for part in read_reasoning_details(details):
                if part.text:
                    yield ReasoningDelta(part.text)
                if part.signature or part.encrypted:
                    yield ReasoningProof(part.signature, part.encrypted, part.origin, part.id)
            return
        if self._details:
            # the same text again, under another name
            return
        for key in ("reasoning_content", "reasoning"):
            text = message.get(key)
            if isinstance(text, str) and text:
                yield ReasoningDelta(text)
                return

    def _call(self, at: int, call: Mapping[str, Any]) -> ToolCallDelta:
        custom = isinstance(call.get("custom"), dict)
        function = call.get("custom" if custom else "function")
        function = function if isinstance(function, dict) else {}
        arguments = function.get("input" if custom else "arguments")
        if not isinstance(arguments, str):
            arguments = write(arguments).decode() if arguments else ""
        google = (call.get("extra_content") or {}).get("google")
        signature = google.get("thought_signature") if isinstance(google, dict) else None
        id, name = call.get("id") or None, function.get("name") or None
        return ToolCallDelta(self._index(at, call.get("index"), id), id, name, arguments, custom, signature)

    def _index(self, at: int, index: Any, id: str | None) -> int:
        """The number of a call: by its index, else by its id; without both, more of the last one."""
        key = ("index", index) if type(index) is int else ("id", id) if id else None
        if key is None:
            return max(len(self._calls) - 1, 0) if self._calls else self._calls.setdefault(("at", at), 0)
        return self._calls.setdefault(key, len(self._calls))


def _first(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    found = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    return [choice for choice in found if choice.get("index") in (None, 0)][:1]


def chat_message(answer: Answer) -> dict[str, Any]:
    """The assistant's message of a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if text := "".join(part.text for part in answer.parts if isinstance(part, TextPart)):
        message["content"] = text
    reasoning = [part for part in answer.parts if isinstance(part, ReasoningPart)]
    if thought := "".join(part.text for part in reasoning):
        message["reasoning_content"] = thought
    if details := [detail for part in reasoning for detail in reasoning_details(part)]:
        message["reasoning_details"] = [{**detail, "index": at} for at, detail in enumerate(details)]
    if calls := [part for part in answer.parts if isinstance(part, ToolCallPart)]:
        message["tool_calls"] = [tool_call(call) for call in calls]
    return message


def finish_reason(stop: AnswerStop | None) -> str:
    """The `finish_reason` of an answer."""
    return _FINISH.get(stop.reason, "stop") if stop else "stop"


def tool_call(call: ToolCallPart) -> dict[str, Any]:
    """A call of a tool, whole."""
    kind, key = ("custom", "input") if call.custom else ("function", "arguments")
    written: dict[str, Any] = {
        "id": call.id,
        "type": kind,
        kind: {"name": call.name, key: call.arguments},
    }
    if call.signature:
        written["extra_content"] = {"google": {"thought_signature": call.signature}}
    return written


def reasoning_details(part: ReasoningPart) -> Iterator[dict[str, Any]]:
    """What proves reasoning to its vendor, in OpenRouter's list."""
    if part.origin in ("", NAME) or not (part.signature or part.encrypted):
        return
    head: dict[str, Any] = {"format": REASONING_FORMATS[part.origin]} | ({"id": part.id} if part.id else {})
    if part.signature:
        yield {"type": "reasoning.text", "text": part.text, "signature": part.signature, **head}
    if part.encrypted:
        yield {"type": "reasoning.encrypted", "data": part.encrypted, **head}
