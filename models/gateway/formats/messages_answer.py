"""Answers in the format of Anthropic's Messages API: events and whole messages, written from the normal form and read into it."""

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
from models.gateway.formats.messages_request import NAME, signed, tool_input

_REASONS: Mapping[StopReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "stop_sequence": "stop_sequence",
    "pause": "pause_turn",
    "context": "model_context_window_exceeded",
}
_STOPS: Mapping[str, StopReason] = {name: reason for reason, name in _REASONS.items()}

PING = sse.frame(b'{"type":"ping"}', b"ping")


def usage_of(usage: Usage | None) -> dict[str, Any]:
    """Usage in this format: cached tokens beside the input, not inside it."""
    usage = usage or Usage()
    parts = usage.parts
    long = sum(parts.get(f"cache_write_{lifetime}", 0) for lifetime in ("1h", "12h"))
    found: dict[str, Any] = {
        "input_tokens": usage.uncached_input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
    if usage.cache_write:
        found["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write - long,
            "ephemeral_1h_input_tokens": long,
        }
    if usage.reasoning:
        found["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    if searches := parts.get("web_searches"):
        found["server_tool_use"] = {"web_search_requests": searches}
    return found


# -- writing -------------------------------------------------------------------------------------------------


def message_body(id: str, model: str, answer: Answer, usage: Usage | None) -> dict[str, Any]:
    """A whole message."""
    stop = answer.stop or AnswerStop("stop")
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [_block(part) for part in answer.parts],
        "stop_reason": _REASONS[stop.reason],
        "stop_sequence": stop.sequence,
        "usage": usage_of(usage),
    }


def _block(part: TextPart | ReasoningPart | ToolCallPart) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ReasoningPart():
            return signed(part)
    return {
        "type": "tool_use",
        "id": part.id,
        "name": part.name,
        "input": {"input": part.arguments} if part.custom else tool_input(part.arguments),
    }


class MessagesWriter:
    """Writes the events of one stream. Blocks have consecutive numbers, and one is open at a time."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._started = False
        self._index = -1
        self._open = ""
        # the call that the open block shows, and what came for others meanwhile
        self._call: int | None = None
        self._waiting: dict[int, list[ToolCallDelta]] = {}
        self._stop = AnswerStop("stop")

    def start(self, model: str) -> bytes:
        """The first event, once."""
        if self._started:
            return b""
        self._started = True
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(None),
        }
        return _event({"type": "message_start", "message": message})

    def write(self, event: AnswerEvent) -> bytes:
        """The events for one of the answer."""
        match event:
            case TextDelta(text=text):
                return self._delta("text", {"type": "text", "text": ""}, {"type": "text_delta", "text": text})
            case ReasoningDelta(text=text):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                return self._delta("thinking", block, {"type": "thinking_delta", "thinking": text})
            case ReasoningProof():
                return self._proof(event)
            case ToolCallDelta():
                return self._tool_call(event)
            case AnswerStop():
                self._stop = event
        return b""

    def finish(self, usage: Usage | None) -> bytes:
        """The end of the content, with its reason and the usage."""
        out = self._close() + self._queued()
        return out + _event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": _REASONS[self._stop.reason], "stop_sequence": self._stop.sequence},
                "usage": usage_of(usage),
            }
        )

    def _delta(self, kind: str, block: dict[str, Any], delta: dict[str, Any]) -> bytes:
        out = b"" if self._open == kind else self._begin(kind, block)
        return out + _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _proof(self, proof: ReasoningProof) -> bytes:
        if self._open != "thinking":
            # reasoning that nobody can read
            part = ReasoningPart("", proof.signature, proof.encrypted, proof.origin, proof.id)
            return self._begin("redacted", signed(part)) + self._close()
        return self._close(ReasoningPart("", proof.signature, proof.encrypted, proof.origin, proof.id))

    def _tool_call(self, delta: ToolCallDelta) -> bytes:
        if self._call is not None and delta.index != self._call:
            # calls may arrive interleaved, blocks may not
            self._waiting.setdefault(delta.index, []).append(delta)
            return b""
        return self._show_call(delta)

    def _show_call(self, delta: ToolCallDelta) -> bytes:
        out = b""
        if self._call is None:
            id, name = delta.id or f"toolu_{self._id.removeprefix('msg_')}_{delta.index}", delta.name or ""
            out = self._begin("tool", {"type": "tool_use", "id": id, "name": name, "input": {}})
            self._call = delta.index
        if not delta.arguments:
            return out
        partial = {"type": "input_json_delta", "partial_json": delta.arguments}
        return out + _event({"type": "content_block_delta", "index": self._index, "delta": partial})

    def _queued(self) -> bytes:
        """The calls that waited for another to end."""
        out = b""
        for index in sorted(self._waiting):
            for delta in self._waiting.pop(index):
                out += self._show_call(delta)
            out += self._close()
        return out

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        out = self._close()
        if kind != "tool":
            out += self._queued()
        self._open = kind
        self._index += 1
        return out + _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _close(self, reasoning: ReasoningPart | None = None) -> bytes:
        if not self._open:
            return b""
        out = b""
        if self._open == "thinking":
            # unsigned reasoning comes from this server: the client returns it, and it is restored
            signature = signed(reasoning or ReasoningPart(origin="chat"))["signature"]
            delta = {"type": "signature_delta", "signature": signature}
            out = _event({"type": "content_block_delta", "index": self._index, "delta": delta})
        self._open, self._call = "", None
        return out + _event({"type": "content_block_stop", "index": self._index})


def _event(event: dict[str, Any]) -> bytes:
    return sse.frame(orjson.dumps(event), str(event["type"]).encode())


STOP = _event({"type": "message_stop"})


def error_event(kind: str, message: str, request_id: str) -> bytes:
    """The event that ends a stream with an error."""
    return _event({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})


# -- reading -------------------------------------------------------------------------------------------------


class MessagesAnswerReader:
    """Reads the events of one stream, or a whole message."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._thinking = False

    def read(self, event: Mapping[str, Any]) -> list[AnswerEvent]:
        """The events of one event."""
        return [*self._read(event)]

    def read_whole(self, message: Mapping[str, Any]) -> list[AnswerEvent]:
        """The events of a whole message."""
        found: list[AnswerEvent] = []
        content = message.get("content")
        for index, block in enumerate(content if isinstance(content, list) else ()):
            if isinstance(block, dict):
                found += self._start(index, block, whole=True)
        return [*found, *self._end(message)]

    def _read(self, event: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        kind, index = event.get("type"), event.get("index")
        index = index if type(index) is int else 0
        if kind == "content_block_start" and isinstance(event.get("content_block"), dict):
            yield from self._start(index, event["content_block"])
        elif kind == "content_block_delta" and isinstance(event.get("delta"), dict):
            yield from self._delta(index, event["delta"])
        elif kind == "message_delta" and isinstance(event.get("delta"), dict):
            yield from self._end(event["delta"])

    def _start(self, index: int, block: Mapping[str, Any], *, whole: bool = False) -> Iterator[AnswerEvent]:
        match block.get("type"):
            case "text" if block.get("text"):
                yield TextDelta(str(block["text"]))
            case "thinking":
                if block.get("thinking"):
                    yield ReasoningDelta(str(block["thinking"]))
                if block.get("signature"):
                    yield ReasoningProof(str(block["signature"]), origin=NAME)
            case "redacted_thinking":
                yield ReasoningProof(encrypted=str(block.get("data") or ""), origin=NAME)
            case "tool_use":
                number = self._calls.setdefault(index, len(self._calls))
                arguments = orjson.dumps(block.get("input") or {}).decode() if whole else ""
                yield ToolCallDelta(number, block.get("id"), block.get("name"), arguments)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        match delta.get("type"):
            case "text_delta":
                yield TextDelta(str(delta.get("text") or ""))
            case "thinking_delta":
                yield ReasoningDelta(str(delta.get("thinking") or ""))
            case "signature_delta":
                yield ReasoningProof(str(delta.get("signature") or ""), origin=NAME)
            case "input_json_delta" if index in self._calls:
                yield ToolCallDelta(self._calls[index], arguments=str(delta.get("partial_json") or ""))

    def _end(self, found: Mapping[str, Any]) -> Iterator[AnswerEvent]:
        reason = found.get("stop_reason")
        if isinstance(reason, str):
            sequence = found.get("stop_sequence")
            yield AnswerStop(_STOPS.get(reason, "stop"), sequence if isinstance(sequence, str) else None)
