"""Answers in the format of Google's Gemini API: chunks and whole answers, written from the normal form and read into it."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from models.gateway import sse
from models.gateway.chat_format import Usage
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
from models.gateway.formats.foreign_reasoning import sign
from models.gateway.formats.gemini_request import NAME
from models.gateway.formats.tool_arguments import arguments_of
from models.gateway.lenient_json import write

_REASONS: Mapping[StopReason, str] = {"length": "MAX_TOKENS", "context": "MAX_TOKENS", "refusal": "SAFETY"}
_STOPS: Mapping[str, StopReason] = {
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"),
        "refusal",
    ),
}


def usage_metadata(usage: Usage | None) -> dict[str, Any]:
    """Usage in this format: thoughts are beside the candidates, cached tokens inside the prompt."""
    usage = usage or Usage()
    found = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": usage.output - usage.reasoning,
        "totalTokenCount": usage.tokens,
    }
    if usage.reasoning:
        found["thoughtsTokenCount"] = usage.reasoning
    if usage.cache_read:
        found["cachedContentTokenCount"] = usage.cache_read
    return found


def gemini_chunk(
    id: str,
    model: str,
    parts: list[dict[str, Any]],
    stop: AnswerStop | None = None,
    usage: Usage | None = None,
) -> dict[str, Any]:
    """A chunk of an answer, or a whole one."""
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    chunk: dict[str, Any] = {"candidates": [candidate], "modelVersion": model, "responseId": id}
    if stop is not None:
        candidate["finishReason"] = _REASONS.get(stop.reason, "STOP")
        chunk["usageMetadata"] = usage_metadata(usage)
    return chunk


def gemini_body(id: str, model: str, answer: Answer, usage: Usage | None) -> dict[str, Any]:
    """A whole answer."""
    parts = [_part(part) for part in answer.parts]
    return gemini_chunk(id, model, parts, answer.stop or AnswerStop("stop"), usage)


def _part(part: TextPart | ReasoningPart | ToolCallPart) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"text": part.text}
        case ReasoningPart(origin="gemini"):
            signed = {"thoughtSignature": part.signature} if part.signature else {}
            return {"text": part.text, "thought": True, **signed}
        case ReasoningPart():
            return {"text": part.text, "thought": True, "thoughtSignature": sign(part)}
    call = {"id": part.id, "name": part.name, "args": arguments_of(part)}
    return {"functionCall": call} | ({"thoughtSignature": part.signature} if part.signature else {})


class GeminiWriter:
    """Writes the chunks of one stream. A call is sent when it is complete: its arguments are an object."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._model = ""
        self._calls: dict[int, list[ToolCallDelta]] = {}
        self._stop = AnswerStop("stop")

    def write(self, event: AnswerEvent, model: str) -> bytes:
        """The chunk for an event of the answer."""
        self._model = model
        match event:
            case TextDelta(text=text):
                return self._chunk([{"text": text}])
            case ReasoningDelta(text=text):
                return self._chunk([{"text": text, "thought": True}])
            case ReasoningProof():
                part = ReasoningPart("", event.signature, event.encrypted, event.origin, event.id)
                return self._chunk([_part(part)])
            case ToolCallDelta():
                self._calls.setdefault(event.index, []).append(event)
            case AnswerStop():
                self._stop = event
        return b""

    def finish(self, model: str, usage: Usage | None) -> bytes:
        """The last chunk, with the calls, the reason and the usage."""
        parts = [_part(_whole(index, deltas)) for index, deltas in sorted(self._calls.items())]
        return _frame(gemini_chunk(self._id, model, parts, self._stop, usage))

    def _chunk(self, parts: list[dict[str, Any]]) -> bytes:
        return _frame(gemini_chunk(self._id, self._model, parts))


def _whole(index: int, deltas: list[ToolCallDelta]) -> ToolCallPart:
    first = next((delta for delta in deltas if delta.id), deltas[0])
    name = next((delta.name for delta in deltas if delta.name), "")
    signature = next((delta.signature for delta in deltas if delta.signature), None)
    arguments = "".join(delta.arguments for delta in deltas)
    return ToolCallPart(first.id or f"call_{index + 1}", name, arguments, signature=signature)


def _frame(chunk: dict[str, Any]) -> bytes:
    return sse.frame(orjson.dumps(chunk))


def error_chunk(status: int, name: str, message: str) -> bytes:
    """The chunk that ends a stream with an error."""
    return sse.frame(orjson.dumps({"error": {"code": status, "message": message, "status": name}}))


class GeminiAnswerReader:
    """Reads the chunks of one stream, or a whole answer."""

    def __init__(self) -> None:
        self._calls = 0

    def read(self, chunk: Mapping[str, Any]) -> list[AnswerEvent]:
        """The events of a chunk."""
        return [*self._read(chunk)]

    read_whole = read

    def _read(self, chunk: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        candidates = chunk.get("candidates")
        found = candidates if isinstance(candidates, list) else []
        for candidate in [each for each in found if isinstance(each, dict)][:1]:
            content = candidate.get("content")
            parts = content.get("parts") if isinstance(content, dict) else None
            for part in parts or ():
                if isinstance(part, dict):
                    yield from self._part(part)
            reason = candidate.get("finishReason")
            if isinstance(reason, str) and reason:
                stop = _STOPS.get(reason, "stop")
                yield AnswerStop("tool_calls" if self._calls and stop == "stop" else stop)

    def _part(self, part: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        text, call, signature = part.get("text"), part.get("functionCall"), part.get("thoughtSignature")
        if isinstance(call, dict):
            index, self._calls = self._calls, self._calls + 1
            arguments = write(call.get("args") or {}).decode()
            id = str(call.get("id") or f"call_{index + 1}")
            yield ToolCallDelta(index, id, call.get("name"), arguments, signature=signature)
        elif part.get("thought") is True:
            if text:
                yield ReasoningDelta(str(text))
            if signature:
                yield ReasoningProof(str(signature), origin=NAME)
        elif isinstance(text, str) and text:
            yield TextDelta(text)
