"""The parameters of a chat request as they are stored with the call: a few hundred bytes, without texts of the client."""

from collections.abc import Mapping
from typing import Any

VALUES = (
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
        "stop",
    ),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs"),
    *("reasoning_effort", "verbosity", "parallel_tool_calls", "service_tier", "modalities"),
)
"""Keys whose value is stored: numbers, booleans, and short texts or lists of them."""
OBJECTS = {
    "reasoning": ("effort", "max_tokens", "exclude", "enabled"),
    "thinking": ("type", "budget_tokens"),
    "stream_options": ("include_usage",),
}
"""Keys of objects, and the keys in them that are stored."""
NAMED = ("tools", "functions", "tool_choice", "response_format")
LEFT_OUT = frozenset(("model", "messages", *VALUES, *OBJECTS, *NAMED))
MAX_TEXT = 100
MAX_ITEMS = 20
MAX_NAMES = 64


def request_parameters(body: Any) -> dict[str, Any]:
    """The parameters of a request's body, which may be anything. Of tools and formats only the names are kept; `other` names
    the remaining keys. At most about 10 KB."""
    if not isinstance(body, Mapping):
        return {}
    found = {key: value for key in VALUES if (value := _value(body.get(key))) is not None}
    for key, inner in OBJECTS.items():
        given = body.get(key)
        if isinstance(given, Mapping):
            found[key] = {name: value for name in inner if (value := _value(given.get(name))) is not None}
    for key in ("tools", "functions"):
        given = body.get(key)
        if isinstance(given, list) and given:
            found[key] = [_tool_name(item) for item in given[:MAX_NAMES]]
            if len(given) > MAX_NAMES:
                found[f"{key}_total"] = len(given)
    for key in ("tool_choice", "response_format"):
        given = body.get(key)
        if isinstance(given, str):
            found[key] = given[:MAX_TEXT]
        elif isinstance(given, Mapping):
            found[key] = _choice(given)
    other = [
        str(key)[:MAX_TEXT] for key, _ in zip(body, range(MAX_NAMES), strict=False) if key not in LEFT_OUT
    ]
    return found | ({"other": other[:MAX_ITEMS]} if other else {})


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
    if not isinstance(tool, Mapping):
        return "?"
    function = tool.get("function")
    name = (function if isinstance(function, Mapping) else tool).get("name") or tool.get("type")
    return name[:MAX_TEXT] if isinstance(name, str) else "?"


def _choice(given: Mapping[str, Any]) -> str:
    """What an object chooses: its type, and the name of the function or schema."""
    kind = given.get("type")
    inner = given.get("function") or given.get("json_schema")
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return " ".join(each[:MAX_TEXT] for each in (kind, name) if isinstance(each, str)) or "object"
