"""The tools of this server itself. Their definitions are here; what they do is registered by the room that runs turns, which pays."""

from collections.abc import Callable, Mapping
from typing import Any

BuiltinCall = Callable[[Any, Mapping[str, Any]], str]
"""Called with the turn's own context and the model's arguments; returns text for the model. Raises ToolFailed."""


def _definition(name: str, description: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


_QUERY = {"type": "string", "description": "What to search for, in a few words"}

BUILTIN_TOOLS: dict[str, dict[str, Any]] = {
    "file_search": _definition(
        "file_search",
        "Search the documents of this conversation and assistant. Returns passages, each with the id of its chunk to cite.",
        {
            "query": _QUERY,
            "top_k": {
                "type": "integer",
                "minimum": 1,
                "maximum": 10,
                "description": "How many passages; 5 by default",
            },
        },
        "query",
    ),
    "web_search": _definition("web_search", "Search the web.", {"query": _QUERY}, "query"),
    "docs_search": _definition(
        "docs_search",
        "Search the documentation of a software library.",
        {"library": {"type": "string", "description": "The name of the library"}, "topic": _QUERY},
        "library",
    ),
}
"""Function definitions by name."""

_calls: dict[str, BuiltinCall] = {}


def register_builtin(name: str, call: BuiltinCall) -> None:
    """Say what a tool of `BUILTIN_TOOLS` does. A room calls it when it is imported; without it the tool is not offered. Raises KeyError."""
    _calls[BUILTIN_TOOLS[name]["function"]["name"]] = call


def builtin_call(name: str) -> BuiltinCall | None:
    """What a tool of this server does; None if it is none, or no room does it."""
    return _calls.get(name)
