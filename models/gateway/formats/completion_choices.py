"""Plain completions as chat completions, for meters: the text of a choice is the content of a delta or message."""

from collections.abc import Mapping
from typing import Any


def as_chat(event: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An event or body whose choices have their text under `key` (`delta` or `message`). The original is not changed."""
    choices = event.get("choices")
    if not isinstance(choices, list):
        return dict(event)
    return {**event, "choices": [_choice(each, key) if isinstance(each, dict) else each for each in choices]}


def _choice(choice: Mapping[str, Any], key: str) -> dict[str, Any]:
    rest = {name: value for name, value in choice.items() if name not in ("text", "logprobs")}
    return {**rest, key: {"content": choice.get("text")}}
