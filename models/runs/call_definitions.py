"""The tools and the answer format that a call's request defined, for its page. Clients wrote this JSON, so any shape is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from models.gateway.chat_format.request_definitions import LISTS, MAX_DEFINITIONS

MAX_SHOWN = 200
"""Definitions on the page of a call."""
KINDS = {
    "tools": "Tool",
    "functions": "Function",
    "tool_choice": "Tool choice",
    "function_call": "Function choice",
    "response_format": "Answer format",
}


@dataclass(frozen=True)
class CallDefinition:
    """A definition: its kind and name, the beginning of its description, and its JSON on several lines."""

    kind: str
    name: str
    description: str
    json: str


@dataclass(frozen=True)
class CallDefinitions:
    """What a request defined. `cut` is the number of definitions that were not stored, `hidden` that of stored ones that are not
    shown."""

    shown: Sequence[CallDefinition] = ()
    cut: int = 0
    hidden: int = 0
    limit: int = MAX_DEFINITIONS


def definitions_of(stored: Any) -> CallDefinitions | None:
    """The definitions of a call as stored; None if it has none."""
    if not isinstance(stored, Mapping) or not stored:
        return None
    found = [
        (key, item)
        for key in KINDS
        if key in stored
        for item in (stored[key] if key in LISTS and isinstance(stored[key], list) else [stored[key]])
    ]
    shown = [_definition(KINDS[key], item) for key, item in found[:MAX_SHOWN]]
    return CallDefinitions(shown, sum(cut_of(stored).values()), len(found) - len(shown))


def cut_of(stored: Mapping[str, Any]) -> dict[str, int]:
    """How many definitions of each key were not stored."""
    cut = stored.get("cut")
    return (
        {key: number for key, number in cut.items() if isinstance(number, int)}
        if isinstance(cut, dict)
        else {}
    )


def _definition(kind: str, item: Any) -> CallDefinition:
    inner = item if isinstance(item, dict) else {}
    for key in ("function", "json_schema"):
        if isinstance(inner.get(key), dict):
            inner = inner[key]
    name = inner.get("name") or inner.get("type")
    description = inner.get("description")
    return CallDefinition(
        kind,
        name[:100] if isinstance(name, str) else "",
        " ".join(description[:400].split())[:160] if isinstance(description, str) else "",
        orjson.dumps(item, option=orjson.OPT_INDENT_2).decode(),
    )
