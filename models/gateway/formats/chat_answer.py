"""Answers in the format of OpenAI's chat completions: chunks and whole completions, read into the normal form and written from it."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from models.gateway import sse
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
from models.gateway.formats.chat_request import NAME, REASONING_FORMATS, free_text, read_reasoning_details
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
        self._thought: list[str] = []
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
                # the proof may repeat the text before it
                if part.text and part.text != "".join(self._thought):
                    yield ReasoningDelta(part.text)
                if part.signature or part.encrypted:
                    yield ReasoningProof(part.signature, part.encrypted, part.origin, part.id)
            self._thought.clear()
            return
        if self._details:
            # the same text again, under another name
            return
        for key in ("reasoning_content", "reasoning"):
            text = message.get(key)
            if isinstance(text, str) and text:
                self._thought.append(text)
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


class ChatWriter:
    """Writes the chunks of one stream. `custom`: names of the client's tools that take free text, whose calls are sent whole."""

    def __init__(self, id: str, custom: frozenset[str] = frozenset()) -> None:
        self._id = id
        self._custom = custom
        self._created = int(time.time())
        self._model = ""
        self._started = False
        self._stop: AnswerStop | None = None
        self._thought: list[str] = []
        self._details = 0
        self._calls: dict[int, ToolCallPart] = {}
        self._held: dict[int, list[str]] = {}

    def start(self, model: str) -> bytes:
        """The first chunk, once."""
        if self._started:
            return b""
        self._started, self._model = True, model
        return self._chunk({"role": "assistant", "content": ""})

    def write(self, event: AnswerEvent) -> bytes:
        """The chunk for an event of the answer."""
        match event:
            case TextDelta(text=text):
                return self._chunk({"content": text})
            case ReasoningDelta(text=text):
                self._thought.append(text)
                return self._chunk({"reasoning_content": text})
            case ReasoningProof():
                return self._proof(event)
            case ToolCallDelta():
                return self._call(event)
            case AnswerStop():
                self._stop = event
        return b""

    def finish(self) -> bytes:
        """The calls that are sent whole, and the reason of the end."""
        calls = []
        for at, texts in self._held.items():
            call = replace(self._calls[at], arguments="".join(texts))
            calls.append({"index": at, **tool_call(as_custom(call))})
        out = self._chunk({"tool_calls": calls}) if calls else b""
        return out + self._chunk({}, finish_reason(self._stop))

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The last chunk of a client that asked for usage."""
        return sse.frame(write({**self._head(), "choices": [], "usage": usage}))

    def _proof(self, proof: ReasoningProof) -> bytes:
        """The proof with the text that it proves: clients return both."""
        text, self._thought = "".join(self._thought), []
        part = ReasoningPart(text, proof.signature, proof.encrypted, proof.origin, proof.id)
        details = [
            {**detail, "index": self._details + at} for at, detail in enumerate(reasoning_details(part))
        ]
        self._details += len(details)
        return self._chunk({"reasoning_details": details}) if details else b""

    def _call(self, delta: ToolCallDelta) -> bytes:
        index, arguments = delta.index, delta.arguments
        if index in self._held:
            self._held[index].append(arguments)
            return b""
        if index in self._calls:
            more = {"index": index, "function": {"arguments": arguments}}
            return self._chunk({"tool_calls": [more]}) if arguments else b""
        id, name = delta.id or f"call_{self._id}_{index}", delta.name or ""
        call = self._calls[index] = ToolCallPart(id, name, arguments, delta.custom, delta.signature)
        if call.custom or name in self._custom:
            self._held[index] = [arguments]
            return b""
        return self._chunk({"tool_calls": [{"index": index, **tool_call(call)}]})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return sse.frame(write({**self._head(), "choices": [choice]}))

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }


def custom_tools(body: Mapping[str, Any]) -> frozenset[str]:
    """The names of a request's tools that take free text."""
    tools = body.get("tools")
    custom = (
        [tool.get("custom") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    )
    return frozenset(str(each.get("name")) for each in custom if isinstance(each, dict))


def as_custom(call: ToolCallPart) -> ToolCallPart:
    """The call of a tool that takes free text, which other formats know as a function."""
    return replace(call, custom=True, arguments=free_text(call))


def chat_body(
    id: str, model: str, answer: Answer, custom: frozenset[str], created: int | None = None
) -> dict[str, Any]:
    """A whole completion, without usage."""
    parts = [
        as_custom(part) if isinstance(part, ToolCallPart) and part.name in custom else part
        for part in answer.parts
    ]
    choice = {
        "index": 0,
        "message": chat_message(Answer(parts, answer.stop)),
        "finish_reason": finish_reason(answer.stop),
    }
    return {
        "id": id,
        "object": "chat.completion",
        "created": created or int(time.time()),
        "model": model,
        "choices": [choice],
    }
