"""The fields of an assistant: their limits, and the values that are stored (crafely contract 4.2)."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from models.assistants.instruction_variables import checked_variables
from models.core.errors import Invalid
from models.core.outgoing import OutgoingRefused, host_and_port

MAX_NAME = 255
MAX_DESCRIPTION = 2_000
MAX_INSTRUCTIONS = 64 << 10  # bytes
MAX_CONTEXT = 256 << 10  # bytes
MAX_TOOLS = 128
MAX_TOOLS_BYTES = 64 << 10
MAX_MODEL = 200
MAX_PARAMS_BYTES = 32 << 10
MAX_BUDGET = 10**9  # credits
MAX_SERVERS = 8
MAX_DEPTH = 32
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SERVER_NAME = re.compile(r"[A-Za-z0-9-]{1,32}")
HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
SECRET_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
FORBIDDEN_HEADERS = frozenset(
    [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "accept",
        "accept-encoding",
        "te",
        "upgrade",
        "mcp-session-id",
        "mcp-protocol-version",
    ]
)
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
DEFAULTS: dict[str, Any] = {
    "description": None,
    "tools": [],
    "mcp_servers": [],
    "context": None,
    "model": None,
    "model_params": {},
    "variables": {},
    "metadata": {},
}
"""Of a new assistant; `name` and `instructions` are required."""
FIELDS = ("name", "instructions", *DEFAULTS)
"""What a version consists of."""
_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
}
_COUNTS = {"max_tokens": (1, 10**7), "max_completion_tokens": (1, 10**7), "seed": (-(2**63), 2**63 - 1)}


def checked_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields among `FIELDS` that are sent, as they are stored. Raises Invalid (422) with the field. Does not read the database: see
    `toolbox.check_references` for the names of tools and secrets."""
    checks = {
        "name": _name,
        "instructions": lambda value: _text("instructions", value, MAX_INSTRUCTIONS, required=True),
        "description": _description,
        "tools": _tools,
        "mcp_servers": _servers,
        "context": lambda value: _text("context", value, MAX_CONTEXT),
        "model": _model,
        "model_params": _params,
        "variables": checked_variables,
        "metadata": _metadata,
    }
    found = {field: check(raw[field]) for field, check in checks.items() if field in raw}
    for field, value in found.items():
        if contains_nul(value):
            raise wrong(field, f"'{field}' contains a NUL character. Remove it.")
    return found


def new_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a new assistant. Raises Invalid (422), also without `name` or `instructions`."""
    for field in ("name", "instructions"):
        if raw.get(field) is None:
            raise wrong(field, f"Send '{field}'.")
    return {**DEFAULTS, **checked_fields(raw)}


def checked_budget(value: Any) -> int | None:
    """Credits, or None: no budget. Raises Invalid."""
    if value is not None and (type(value) is not int or not 0 <= value <= MAX_BUDGET):
        raise wrong("budget", f"Send a whole number of credits from 0 to {MAX_BUDGET:,}, or null.")
    return value


def function_definition(raw: Any, field: str = "tools") -> dict[str, Any]:
    """A function in the format of chat completions; that of responses, which is flat, becomes it. Raises Invalid."""
    if not isinstance(raw, dict) or raw.get("type", "function") != "function":
        raise wrong(
            field,
            "A tool is the name of a registered tool, or {type: function, function: {name, parameters}}.",
        )
    inner = (
        raw["function"] if "function" in raw else {key: each for key, each in raw.items() if key != "type"}
    )
    if not isinstance(inner, dict) or ("function" in raw and raw.keys() - {"type", "function"}):
        raise wrong(
            field, "'function' is an object with name, description and parameters, beside 'type' only."
        )
    if others := inner.keys() - {"name", "description", "parameters", "strict"}:
        raise wrong(field, f"A function has an unknown key {min(others)[:70]!r}.")
    name, about, strict = inner.get("name"), inner.get("description"), inner.get("strict")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise wrong(field, "A function needs a name of at most 64 letters, digits, _ and -.")
    if about is not None and not isinstance(about, str):
        raise wrong(field, f"{name}: 'description' is text.")
    if strict is not None and type(strict) is not bool:
        raise wrong(field, f"{name}: 'strict' is true or false.")
    function: dict[str, Any] = {"name": name}
    if about is not None:
        function["description"] = about
    if inner.get("parameters") is not None:
        function["parameters"] = checked_schema(inner["parameters"], field, name)
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def checked_schema(raw: Any, field: str, name: str) -> dict[str, Any]:
    """The JSON Schema of parameters: an object. Raises Invalid."""
    if not isinstance(raw, dict) or raw.get("type", "object") != "object":
        raise wrong(field, f"{name}: 'parameters' is a JSON Schema of the type object.")
    properties, required = raw.get("properties", {}), raw.get("required", [])
    if not isinstance(properties, dict) or not all(
        isinstance(each, dict | bool) for each in properties.values()
    ):
        raise wrong(field, f"{name}: 'properties' is an object of JSON Schemas.")
    if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
        raise wrong(field, f"{name}: 'required' is a list of names.")
    if is_deep(raw):
        raise wrong(field, f"{name}: 'parameters' is nested more than {MAX_DEPTH} levels deep.")
    return {"type": "object", **raw}


def checked_headers(raw: Any, field: str) -> dict[str, str]:
    """Names of secrets by the header that carries them. Raises Invalid."""
    if raw is None:
        return {}
    if not isinstance(raw, dict) or len(raw) > 8:
        raise wrong(field, "'headers' is an object of at most 8 names of secrets by header.")
    for header, secret in raw.items():
        if not HEADER_NAME.fullmatch(header) or header.lower() in FORBIDDEN_HEADERS:
            raise wrong(field, f"{header[:70]!r} is no header that a secret can be sent in.")
        if not isinstance(secret, str) or not SECRET_NAME.fullmatch(secret):
            raise wrong(field, f"The value of {header} is the name of a secret: letters, digits, _ . and -.")
    return dict(raw)


def checked_url(raw: Any, field: str) -> str:
    """An absolute URL that may be called; whether its address is allowed is checked at each call. Raises Invalid."""
    try:
        if not isinstance(raw, str):
            raise OutgoingRefused("this is not a URL")
        host_and_port(raw)
    except OutgoingRefused as refused:
        raise wrong(field, f"'url' is an https:// address: {refused}.") from None
    return raw


def is_deep(value: Any) -> bool:
    """Whether a JSON value is nested more than 32 levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
        ]
        if not level:
            return False
    return True


def contains_nul(value: Any) -> bool:
    """Whether a text in a JSON value has a NUL character, which PostgreSQL cannot store."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str) and "\0" in node:
            return True
        if isinstance(node, dict):
            waiting += [*node, *node.values()]
        elif isinstance(node, list):
            waiting += node
    return False


def wrong(field: str, problem: str) -> Invalid:
    """The error of one field."""
    return Invalid(problem, fields={field: problem})


# -- fields --------------------------------------------------------------------------------------------------


def _name(value: Any) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise wrong("name", f"Enter a name of 1 to {MAX_NAME} ordinary characters.")
    return name


def _description(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_DESCRIPTION or "\0" in value:
        raise wrong("description", f"Enter text of at most {MAX_DESCRIPTION:,} characters.")
    return value.strip() or None


def _text(field: str, value: Any, limit: int, *, required: bool = False) -> str | None:
    if value is None and not required:
        return None
    if not isinstance(value, str) or "\0" in value or (required and not value.strip()):
        raise wrong(field, f"Enter the {field} as text.")
    if len(value) > limit or len(value.encode(errors="replace")) > limit:
        raise wrong(field, f"Shorten the {field} to {limit >> 10} KiB.")
    return value if value or required else None


def _tools(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value) if len(value) <= 2 * MAX_TOOLS_BYTES else None
        except orjson.JSONDecodeError:
            value = None
    if value is None or not isinstance(value, list):
        raise wrong("tools", "Send a list of tools, or a string that holds a JSON array.")
    if len(value) > MAX_TOOLS:
        raise wrong("tools", f"An assistant has at most {MAX_TOOLS} tools.")
    tools = [each if isinstance(each, str) else function_definition(each) for each in value]
    names = [tool_name(each) for each in tools]
    for name in names:
        if not TOOL_NAME.fullmatch(name):
            raise wrong(
                "tools", f"{name[:70]!r} is no name of a tool: use letters, digits, _ and -, at most 64."
            )
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise wrong("tools", f"There are two tools named '{twice}'. Remove one.")
    _check_bytes("tools", tools, MAX_TOOLS_BYTES)
    return tools


def tool_name(tool: Any) -> str:
    """The name of an entry of `tools`."""
    return tool if isinstance(tool, str) else str(tool["function"]["name"])


def _servers(value: Any) -> list[dict[str, Any]]:
    field = "mcp_servers"
    if not isinstance(value, list) or len(value) > MAX_SERVERS:
        raise wrong(field, f"Send a list of at most {MAX_SERVERS} servers.")
    servers = [_server(each) for each in value]
    if len({each["name"].lower() for each in servers}) < len(servers):
        raise wrong(field, "Two servers have the same name.")
    _check_bytes(field, servers, MAX_TOOLS_BYTES)
    return servers


def _server(raw: Any) -> dict[str, Any]:
    field = "mcp_servers"
    if not isinstance(raw, dict) or raw.keys() - {"name", "url", "headers", "allowed_tools"}:
        raise wrong(field, "A server has name, url, headers (names of secrets) and allowed_tools.")
    name, allowed = raw.get("name"), raw.get("allowed_tools")
    if not isinstance(name, str) or not SERVER_NAME.fullmatch(name):
        raise wrong(field, "A server needs a name of at most 32 letters, digits and -.")
    if allowed is not None and (
        not isinstance(allowed, list)
        or len(allowed) > MAX_TOOLS
        or not all(isinstance(each, str) and 0 < len(each) <= 128 for each in allowed)
    ):
        raise wrong(
            field, f"{name}: 'allowed_tools' is a list of at most {MAX_TOOLS} names, or null for all."
        )
    return {
        "name": name,
        "url": checked_url(raw.get("url"), field),
        "headers": checked_headers(raw.get("headers"), field),
        "allowed_tools": allowed,
    }


def _model(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_MODEL or not value.isprintable() or not value.strip():
        raise wrong("model", f"Enter the name of a model, at most {MAX_MODEL} characters.")
    return value.strip()


def _params(value: Any) -> dict[str, Any]:
    field = "model_params"
    if not isinstance(value, dict):
        raise wrong(field, 'Send an object, such as {"temperature": 0.2}.')
    params = {name: each for name, each in value.items() if each is not None}
    for name, each in params.items():
        if problem := _param_problem(name, each):
            raise wrong(field, f"{name[:70]}: {problem}")
    _check_bytes(field, params, MAX_PARAMS_BYTES)
    return params


def _param_problem(name: str, value: Any) -> str | None:
    if name in _RANGES:
        low, high = _RANGES[name]
        fits = type(value) in (int, float) and math.isfinite(value) and low <= value <= high
        return None if fits else f"a number from {low} to {high}."
    if name in _COUNTS:
        low, high = _COUNTS[name]
        return (
            None if type(value) is int and low <= value <= high else f"a whole number from {low} to {high}."
        )
    if name == "reasoning_effort":
        return None if value in EFFORTS else f"one of {', '.join(EFFORTS)}."
    if name == "verbosity":
        return None if value in ("low", "medium", "high") else "low, medium or high."
    if name == "parallel_tool_calls":
        return None if type(value) is bool else "true or false."
    if name == "stop":
        texts = [value] if isinstance(value, str) else value
        fits = isinstance(texts, list) and len(texts) <= 4 and all(isinstance(each, str) for each in texts)
        return None if fits else "a text, or a list of at most 4."
    if name == "response_format":
        known = isinstance(value, dict) and value.get("type") in ("text", "json_object", "json_schema")
        return (
            None
            if known and not is_deep(value)
            else "an object with the type text, json_object or json_schema."
        )
    known_names = [
        *_RANGES,
        *_COUNTS,
        "reasoning_effort",
        "verbosity",
        "parallel_tool_calls",
        "stop",
        "response_format",
    ]
    return f"unknown. Known: {', '.join(known_names)}."


def _metadata(value: Any) -> dict[str, str]:
    fits = (
        isinstance(value, dict)
        and len(value) <= 16
        and all(0 < len(key) <= 64 for key in value)
        and all(isinstance(each, str) and len(each) <= 512 for each in value.values())
    )
    if not fits:
        raise wrong("metadata", "Send at most 16 texts of 512 characters, by keys of 64 characters.")
    return dict(value)


def _check_bytes(field: str, value: Any, limit: int) -> None:
    try:
        size = len(orjson.dumps(value))
    except TypeError:  # integers beyond 64 bits
        size = len(json.dumps(value))
    if size > limit:
        raise wrong(field, f"'{field}' has more than {limit >> 10} KiB. Shorten it.")
