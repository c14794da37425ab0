"""The parameters of a chat request as they are stored with the call: a few hundred bytes, without texts of the client."""

from itertools import islice
from typing import Any

from models.gateway.chat_format.request_tags import MAX_TAGS, tags_of_metadata

VALUES = frozenset(
    (
        *(
            "stream",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "max_tokens",
            "max_completion_tokens",
            "n",
            "seed",
        ),
        *("stop", "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs"),
        *("reasoning_effort", "verbosity", "parallel_tool_calls", "service_tier", "modalities"),
    )
)
"""Keys whose value is stored: numbers, booleans, and short texts or lists of them."""
OBJECTS = {
    "reasoning": ("effort", "max_tokens", "exclude", "enabled"),
    "thinking": ("type", "budget_tokens"),
    "stream_options": ("include_usage",),
}
"""Keys of objects, and the keys in them that are stored."""
CONVERSATION = frozenset(
    ("messages", "system", "instructions", "input", "contents", "systemInstruction", "system_instruction")
)
"""Keys of the conversation, by the formats of requests: it is kept as messages."""
MAX_KEYS = 200
"""Keys of a body that are looked at."""
MAX_TEXT = 100
MAX_ITEMS = 20
MAX_NAMES = 64


def request_parameters(body: Any) -> dict[str, Any]:
    """The parameters of a request's body, which may be anything. Of tools and formats only the names are kept, of metadata only the tags; `other` names
    the remaining keys. At most about 20 KB."""
    if not isinstance(body, dict):
        return {}
    found: dict[str, Any] = {}
    other: list[str] = []
    tags = [tag for key in ("metadata", "codebuff_metadata") for tag in tags_of_metadata(body.get(key))]
    for key, given in islice(body.items(), MAX_KEYS):
        if key == "model" or key in CONVERSATION or given is None:
            continue
        if key in VALUES:
            if (value := _value(given)) is not None:
                found[key] = value
        elif key in OBJECTS and isinstance(given, dict):
            values = {name: _value(given.get(name)) for name in OBJECTS[key]}
            found[key] = {name: value for name, value in values.items() if value is not None}
        elif key in ("tools", "functions") and isinstance(given, list):
            found[key] = [_tool_name(item) for item in given[:MAX_NAMES]]
            if len(given) > MAX_NAMES:
                found[f"{key}_total"] = len(given)
        elif key in ("tool_choice", "response_format"):
            found[key] = _choice(given)
        elif len(other) < MAX_ITEMS:
            other.append(key[:MAX_TEXT])
    if tags:
        found["tags"] = list(dict.fromkeys(tags))[:MAX_TAGS]
    if other:
        found["other"] = other
    return found


def _value(value: Any) -> Any:
    """A number, boolean, short text or list of short texts; None for anything else."""
    if isinstance(value, bool | float) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, list):
        return [item[:MAX_TEXT] for item in value[:MAX_ITEMS] if isinstance(item, str)]
    return None


def _tool_name(tool: Any) -> str:
    if not isinstance(tool, dict):
        return "?"
    function = tool.get("function")
    name = (function if isinstance(function, dict) else tool).get("name") or tool.get("type")
    return name[:MAX_TEXT] if isinstance(name, str) else "?"


def _choice(given: Any) -> str:
    """A choice by name; of an object its type, and the name of the function or schema."""
    if isinstance(given, str):
        return given[:MAX_TEXT]
    if not isinstance(given, dict):
        return "object"
    kind = given.get("type")
    inner = given.get("function") or given.get("json_schema")
    name = inner.get("name") if isinstance(inner, dict) else None
    return " ".join(each[:MAX_TEXT] for each in (kind, name) if isinstance(each, str)) or "object"
