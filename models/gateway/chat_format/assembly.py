"""Assembles a non-streaming response from the chunks of a stream."""

from collections.abc import Mapping
from typing import Any

from models.gateway.chat_format.output import GeneratedOutput
from models.gateway.lenient_json import whole_text

MAX_DEPTH = 16
"""Deltas are merged down to this depth; below it, the last value wins."""
_FIRST_VALUE_WINS = frozenset({"id", "model", "created", "provider", "system_fingerprint"})
_ATOMIC_KEYS = frozenset({"role", "id", "type", "index", "format", "finish_reason", "native_finish_reason"})
"""Strings that are sent whole and may repeat: never concatenated."""


class _GrowingText(list[str]):
    """Chunks of one string."""


class AnswerAssembler:
    """Add every chunk in order, then read `body`."""

    def __init__(self) -> None:
        self._metadata: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Merge one chunk."""
        for key, value in chunk.items():
            if key == "choices":
                for choice in value if isinstance(value, list) else ():
                    if isinstance(choice, dict):
                        self._add_choice(choice)
            elif value is not None and not (key in _FIRST_VALUE_WINS and self._metadata.get(key)):
                self._metadata[key] = value

    def body(self, output: GeneratedOutput, usage: Mapping[str, Any] | None) -> dict[str, Any]:
        """The complete response. `output` has parsed the same chunks and assembled their tool calls."""
        choices = []
        for index, choice in sorted(self._choices.items()):
            whole: dict[str, Any] = {"index": index, "finish_reason": None, **_joined(choice)}
            message = {"role": "assistant", "content": None, **whole["message"]}
            if calls := output.tool_calls(index):
                message["tool_calls"] = calls
            choices.append({**whole, "message": message})
        return {**self._metadata, "object": "chat.completion", "choices": choices, "usage": usage}

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        target = self._choices.setdefault(index if type(index) is int else 0, {"message": {}})
        for key, value in choice.items():
            if key == "delta":
                if isinstance(value, dict):
                    delta = {name: item for name, item in value.items() if name != "tool_calls"}
                    _merge(target["message"], delta)
            elif key not in ("index", "message", "usage"):
                # a message in addition to the deltas repeats their content
                _merge(target, {key: value})


def _merge(target: dict[str, Any], delta: Mapping[str, Any], depth: int = 0) -> None:
    for key, value in delta.items():
        existing = target.get(key)
        if value is None:
            target.setdefault(key, None)
        elif isinstance(value, str) and key not in _ATOMIC_KEYS:
            if isinstance(existing, _GrowingText):
                existing.append(value)
            else:
                target[key] = _GrowingText([value])
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            if not isinstance(existing, dict):
                existing = target[key] = {}
            _merge(existing, value, depth + 1)
        elif isinstance(value, list) and depth < MAX_DEPTH:
            if not isinstance(existing, list) or isinstance(existing, _GrowingText):
                existing = target[key] = []
            _extend(existing, value, depth + 1)
        else:
            target[key] = value


def _extend(existing: list[Any], items: list[Any], depth: int) -> None:
    """Merge items that have the index of an existing item; append the others."""
    for item in items:
        if not isinstance(item, dict):
            existing.append(item)
            continue
        index = item.get("index")
        same = (entry for entry in existing if isinstance(entry, dict) and entry.get("index") == index)
        target = None if index is None else next(same, None)
        if target is None:
            target = {}
            existing.append(target)
        _merge(target, item, depth)


def _joined(value: Any) -> Any:
    if isinstance(value, _GrowingText):
        return whole_text("".join(value))
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, dict):
        return {key: _joined(item) for key, item in value.items()}
    return value
