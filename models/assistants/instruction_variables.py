"""Typed variables of instructions: their definitions, and `{{name}}` replaced by values."""

import math
import re
from collections.abc import Mapping
from typing import Any

from models.assistants.assistant import AssistantVersion
from models.core.errors import Invalid

TYPES = ("string", "number", "boolean", "enum")
MAX_VARIABLES = 64
MAX_CHOICES = 100
MAX_DESCRIPTION = 1_000
MAX_VALUE = 64 << 10  # characters
MAX_RENDERED = 1 << 20  # characters
KEYS = frozenset({"type", "required", "default", "description", "values"})
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PLACEHOLDER = re.compile(r"{{\s*([A-Za-z_][A-Za-z0-9_]{0,63})\s*}}")


def checked_variables(raw: Any) -> dict[str, dict[str, Any]]:
    """The definitions of variables by name, complete: `type`, `required`, `default`, `description`, and `values` of an enum. Raises
    Invalid."""
    if not isinstance(raw, dict):
        raise _wrong("Send an object of variables by name.")
    if len(raw) > MAX_VARIABLES:
        raise _wrong(f"An assistant has at most {MAX_VARIABLES} variables.")
    return {name: _checked(name, each) for name, each in raw.items()}


def placeholders(instructions: str) -> list[str]:
    """The names in `{{…}}`, in order, each once."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(instructions)))


def render_instructions(version: AssistantVersion, values: Mapping[str, Any] | None = None) -> str:
    """The instructions with each `{{name}}` of a variable replaced by its value, else its default, else nothing; other braces stay. Values
    are not searched for placeholders. Numbers and booleans may be sent as text. Raises Invalid (422), which names each variable that
    is missing, unknown or wrong."""
    values, problems, found = values or {}, {}, {}
    for name in values.keys() - version.variables.keys():
        problems[name] = "There is no such variable."
    for name, definition in version.variables.items():
        value = values.get(name)
        if value is None:
            value = definition["default"]
        if value is None:
            if definition["required"]:
                problems[name] = "Give a value: it is required."
            found[name] = ""
            continue
        try:
            found[name] = _text(definition, value)
        except ValueError as error:
            problems[name] = str(error)
    if problems:
        shown = sorted(problems.items())[:20]
        raise Invalid(
            "; ".join(f"variables.{name[:64]}: {text}" for name, text in shown),
            fields={f"variables.{name[:64]}": text for name, text in shown},
            code="invalid_variables",
        )
    return _replaced(version.instructions, found)


def _replaced(instructions: str, found: Mapping[str, str]) -> str:
    rendered = len(instructions)
    for name in _PLACEHOLDER.findall(instructions):
        rendered += len(found.get(name, ""))
        if rendered > MAX_RENDERED:
            raise Invalid(
                f"The instructions with their variables have more than {MAX_RENDERED:,} characters."
            )
    return _PLACEHOLDER.sub(lambda match: found.get(match[1], match[0]), instructions)


def _checked(name: str, raw: Any) -> dict[str, Any]:
    if not NAME.fullmatch(name):
        raise _wrong(f"{name[:70]!r} is no name of a variable: use letters, digits and _, at most 64.")
    if not isinstance(raw, dict) or raw.get("type") not in TYPES:
        raise _wrong(f"{name} needs a type: {', '.join(TYPES)}.")
    if others := raw.keys() - KEYS:
        raise _wrong(f"{name} has an unknown key {min(others)[:70]!r}. Known: {', '.join(sorted(KEYS))}.")
    required, about = raw.get("required", False), raw.get("description")
    if type(required) is not bool:
        raise _wrong(f"{name}: 'required' is true or false.")
    if about is not None and (not isinstance(about, str) or len(about) > MAX_DESCRIPTION):
        raise _wrong(f"{name}: 'description' is text of at most {MAX_DESCRIPTION:,} characters.")
    definition = {
        "type": raw["type"],
        "required": required,
        "description": about,
        "default": raw.get("default"),
    }
    if raw["type"] == "enum":
        definition["values"] = _choices(name, raw.get("values"))
    elif "values" in raw:
        raise _wrong(f"{name}: 'values' are those of the type enum.")
    if definition["default"] is not None:
        try:
            _text(definition, definition["default"])
        except ValueError as error:
            raise _wrong(f"The default of {name}: {error}") from None
    return definition


def _choices(name: str, raw: Any) -> list[str]:
    fits = isinstance(raw, list) and 0 < len(raw) <= MAX_CHOICES
    if not fits or not all(isinstance(each, str) and 0 < len(each) <= 200 for each in raw):
        raise _wrong(f"{name}: 'values' are 1 to {MAX_CHOICES} texts of at most 200 characters.")
    if len(set(raw)) < len(raw):
        raise _wrong(f"{name}: a value is listed twice.")
    return list(raw)


def _text(definition: Mapping[str, Any], value: Any) -> str:
    """A value as text. Raises ValueError, with what is wrong."""
    kind = definition["type"]
    if kind == "boolean":
        if value in ("true", "false"):
            return str(value)
        if type(value) is not bool:
            raise ValueError("Give true or false.")
        return "true" if value else "false"
    if kind == "number":
        return _number(value)
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("Give a text.")
    if kind == "enum" and value not in definition["values"]:
        choices = definition["values"]
        more = ", …" if len(choices) > 10 else ""
        raise ValueError(f"Give one of: {', '.join(choices[:10])}{more}.")
    if len(value) > MAX_VALUE:
        raise ValueError(f"Give at most {MAX_VALUE:,} characters.")
    return value


def _number(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,30}(\.\d{1,30})?", value, re.ASCII):
        return value
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e300:
        raise ValueError("Give a number.")
    return str(value)


def _wrong(problem: str) -> Invalid:
    return Invalid(problem, fields={"variables": problem})
