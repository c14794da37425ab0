"""Assembles whole answers of formats other than chat completions from the events of their streams."""

from collections.abc import Mapping
from typing import Any

import orjson


class MessagesAssembler:
    """Of Anthropic's Messages API: `message_start`, blocks with their deltas, `message_delta`."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {"type": "message", "role": "assistant"}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Add an event."""
        kind, index = event.get("type"), event.get("index")
        index = index if type(index) is int else 0
        message, block, delta = event.get("message"), event.get("content_block"), event.get("delta")
        if kind == "message":
            # from a provider that does not stream
            self._message = {**event}
            self._blocks = dict(enumerate(event.get("content") or ()))
        elif kind == "message_start" and isinstance(message, dict):
            self._message |= message
        elif kind == "content_block_start" and isinstance(block, dict):
            self._blocks[index] = {**block}
        elif kind == "content_block_delta" and isinstance(delta, dict) and index in self._blocks:
            self._add_delta(index, delta)
        elif kind == "message_delta":
            self._message |= delta if isinstance(delta, dict) else {}
            self._add_usage(event.get("usage"))

    def body(self) -> dict[str, Any]:
        """The message so far."""
        blocks = []
        for index, block in sorted(self._blocks.items()):
            whole = {**block}
            for key in [key for at, key in self._texts if at == index]:
                text = "".join(self._texts[index, key])
                whole[key] = _arguments(text) if key == "input" else f"{block.get(key) or ''}{text}"
            blocks.append(whole)
        return {**self._message, "content": blocks}

    def _add_delta(self, index: int, delta: Mapping[str, Any]) -> None:
        block = self._blocks[index]
        if delta.get("type") == "input_json_delta":
            self._texts.setdefault((index, "input"), []).append(str(delta.get("partial_json") or ""))
        elif delta.get("type") == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
        else:
            for key, value in delta.items():
                if key != "type" and isinstance(value, str):
                    self._texts.setdefault((index, key), []).append(value)

    def _add_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            known = {key: value for key, value in usage.items() if value is not None}
            self._message["usage"] = {**(self._message.get("usage") or {}), **known}


def _arguments(text: str) -> Any:
    try:
        return orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        # cut off in the middle
        return {"partial_json": text}


class ResponsesAssembler:
    """Of OpenAI's Responses API: the last event holds the response; its items came one by one before."""

    def __init__(self) -> None:
        self._response: dict[str, Any] = {"object": "response", "status": "in_progress"}
        self._items: dict[int, dict[str, Any]] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Add an event."""
        response, item, index = event.get("response"), event.get("item"), event.get("output_index")
        if event.get("object") == "response":
            # from a provider that does not stream
            self._response = {**event}
        elif isinstance(response, dict):
            self._response |= response
        elif str(event.get("type")).startswith("response.output_item.") and isinstance(item, dict):
            self._items[index if type(index) is int else len(self._items)] = item

    def body(self) -> dict[str, Any]:
        """The response so far."""
        if self._response.get("output"):
            return self._response
        return {**self._response, "output": [item for _, item in sorted(self._items.items())]}


class GeminiAssembler:
    """Of Google's Gemini API: chunks with parts, of which the last has the reason and the usage."""

    def __init__(self) -> None:
        self._chunk: dict[str, Any] = {}
        self._candidates: dict[int, dict[str, Any]] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Add a chunk."""
        candidates = event.get("candidates")
        self._chunk |= {key: value for key, value in event.items() if key != "candidates"}
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, dict):
                index = candidate.get("index")
                self._add(index if type(index) is int else 0, candidate)

    def body(self) -> dict[str, Any]:
        """The answer so far."""
        return {**self._chunk, "candidates": [each for _, each in sorted(self._candidates.items())]}

    def _add(self, index: int, candidate: Mapping[str, Any]) -> None:
        whole = self._candidates.setdefault(index, {"content": {"parts": [], "role": "model"}})
        whole |= {key: value for key, value in candidate.items() if key != "content"}
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        known = whole["content"]["parts"]
        for part in parts if isinstance(parts, list) else ():
            if known and _text_only(part) and _text_only(known[-1], part.get("thought")):
                known[-1] = {**known[-1], "text": known[-1]["text"] + part["text"]}
            else:
                known.append(part)


def _text_only(part: Any, thought: Any = ...) -> bool:
    """Whether a part is text without a signature, and thought as the other one is."""
    plain = (
        isinstance(part, dict) and isinstance(part.get("text"), str) and part.keys() <= {"text", "thought"}
    )
    return plain and (thought is ... or part.get("thought") == thought)
