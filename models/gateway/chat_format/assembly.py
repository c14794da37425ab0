"""A whole answer put together from the chunks of a stream, for who asked for it whole."""

from collections.abc import Mapping
from typing import Any

from models.gateway.chat_format.output import GeneratedOutput
from models.gateway.lenient_json import whole_text

MOST_LEVELS = 16
"""How deep the pieces of a value are joined; what lies deeper is taken as it came last."""
_FIRST = frozenset({"id", "model", "created", "provider", "system_fingerprint"})
_NO_PIECES = frozenset({"role", "id", "type", "index", "format", "finish_reason", "native_finish_reason"})
"""Texts that are told whole, and may be told again."""


class _GrowingText(list[str]):
    """A text that is still growing."""


class AnswerAssembler:
    """Add every chunk, in its order; `body` is the answer."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take one chunk."""
        for key, value in chunk.items():
            if key == "choices":
                for choice in value if isinstance(value, list) else ():
                    if isinstance(choice, dict):
                        self._choice(choice)
            elif value is not None and not (key in _FIRST and self._head.get(key)):
                self._head[key] = value

    def body(self, output: GeneratedOutput, usage: Mapping[str, Any] | None) -> dict[str, Any]:
        """The answer. `output` has read the same chunks, and knows which pieces of tool calls belong together."""
        choices = []
        for index, choice in sorted(self._choices.items()):
            whole: dict[str, Any] = {"index": index, "finish_reason": None, **_joined(choice)}
            message = {"role": "assistant", "content": None, **whole["message"]}
            if calls := output.tool_calls(index):
                message["tool_calls"] = calls
            choices.append({**whole, "message": message})
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def _choice(self, choice: Mapping[str, Any]) -> None:
        index = choice.get("index")
        into = self._choices.setdefault(index if type(index) is int else 0, {"message": {}})
        for key, value in choice.items():
            if key == "delta":
                if isinstance(value, dict):
                    pieces = {name: piece for name, piece in value.items() if name != "tool_calls"}
                    _merge(into["message"], pieces)
            elif key not in ("index", "message", "usage"):
                # a message beside the deltas says the same once more
                _merge(into, {key: value})


def _merge(into: dict[str, Any], pieces: Mapping[str, Any], level: int = 0) -> None:
    for key, value in pieces.items():
        known = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif isinstance(value, str) and key not in _NO_PIECES:
            if isinstance(known, _GrowingText):
                known.append(value)
            else:
                into[key] = _GrowingText([value])
        elif isinstance(value, dict) and level < MOST_LEVELS:
            if not isinstance(known, dict):
                known = into[key] = {}
            _merge(known, value, level + 1)
        elif isinstance(value, list) and level < MOST_LEVELS:
            if not isinstance(known, list) or isinstance(known, _GrowingText):
                known = into[key] = []
            _extend(known, value, level + 1)
        else:
            into[key] = value


def _extend(known: list[Any], items: list[Any], level: int) -> None:
    """Items with an index that is there already go on with that one."""
    for item in items:
        if not isinstance(item, dict):
            known.append(item)
            continue
        index = item.get("index")
        same = (each for each in known if isinstance(each, dict) and each.get("index") == index)
        into = None if index is None else next(same, None)
        if into is None:
            into = {}
            known.append(into)
        _merge(into, item, level)


def _joined(value: Any) -> Any:
    if isinstance(value, _GrowingText):
        return whole_text("".join(value))
    if isinstance(value, list):
        return [_joined(each) for each in value]
    if isinstance(value, dict):
        return {key: _joined(each) for key, each in value.items()}
    return value
