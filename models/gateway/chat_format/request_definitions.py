"""The definitions of a chat request as they are stored with the call: its tools, functions, choice of a tool and answer format."""

from typing import Any

import orjson

MAX_DEFINITIONS = 64 << 10
"""Largest total of a request's definitions that is stored with the call, in bytes."""
LISTS = ("tools", "functions")
VALUES = ("tool_choice", "function_call", "response_format")


def request_definitions(body: Any, size: int) -> dict[str, Any] | None:
    """The definitions of a request of `size` bytes, whose body may be anything; None without any. Of tools beyond 64 KiB only the first
    are kept; `cut` says by key how many are not. Plain texts such as `"auto"` are parameters (`request_parameters`)."""
    if not isinstance(body, dict):
        return None
    found = {key: body[key] for key in VALUES if isinstance(body.get(key), dict) and body[key]}
    lists = {key: body[key] for key in LISTS if isinstance(body.get(key), list) and body[key]}
    if not found and not lists:
        return None
    if size and size <= MAX_DEFINITIONS:
        return {**lists, **found}
    return _bounded(lists, found)


def _bounded(lists: dict[str, list[Any]], values: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    cut: dict[str, int] = {}
    remaining = MAX_DEFINITIONS
    for key, value in values.items():
        if (size := _size(value)) <= remaining:
            kept[key] = value
            remaining -= size
        else:
            cut[key] = 1
    for key, items in lists.items():
        first: list[Any] = []
        for item in items:
            remaining -= _size(item)
            if remaining < 0:
                break
            first.append(item)
        kept |= {key: first} if first else {}
        cut |= {key: len(items) - len(first)} if len(first) < len(items) else {}
    return {**kept, "cut": cut} if cut else kept


def _size(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except TypeError:  # lone surrogates, numbers beyond 64 bits, deep nesting
        return MAX_DEFINITIONS + 1
