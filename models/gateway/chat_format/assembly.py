"""Assembles a non-streaming response from the chunks of a stream."""

from collections.abc import Mapping
from typing import Any

from models.gateway.chat_format.delta_merging import joined, merge_delta
from models.gateway.chat_format.output import GeneratedOutput

_FIRST_VALUE_WINS = frozenset({"id", "model", "created", "provider", "system_fingerprint"})
_STREAM_ONLY = frozenset({"obfuscation"})
"""Keys of chunks that whole answers do not have: OpenAI's random padding."""


class AnswerAssembler:
    """Add every chunk in order, then read `body`."""

    def __init__(self) -> None:
        self._metadata: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Merge one chunk."""
        if chunk.get("type") == "ping" and not chunk.get("choices"):
            return
        for key, value in chunk.items():
            if key == "choices":
                for choice in value if isinstance(value, list) else ():
                    if isinstance(choice, dict):
                        self._add_choice(choice)
            elif key in _STREAM_ONLY:
                continue
            elif value is not None and not (key in _FIRST_VALUE_WINS and self._metadata.get(key)):
                self._metadata[key] = value
            else:
                self._metadata.setdefault(key, value)

    def body(self, output: GeneratedOutput, usage: Mapping[str, Any] | None) -> dict[str, Any]:
        """The complete response. `output` has parsed the same chunks and assembled their tool calls."""
        choices = []
        for index, choice in sorted(self._choices.items()):
            whole: dict[str, Any] = {"index": index, "finish_reason": None, **joined(choice)}
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
                    merge_delta(target["message"], delta)
            elif key not in ("index", "message", "usage"):
                # a message in addition to the deltas repeats their content; only log probabilities come in parts
                merge_delta(target, {key: value}, grow=key == "logprobs")
