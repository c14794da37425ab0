"""Strict validation of request bodies with pydantic; errors in the formats of the contract (section 0.2).

Models derive from `Body`. `parse` returns an instance or raises `InvalidBody`, whose `issues` and `tree` are the two error
formats of the contract.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError

INT32_MAX = 2**31 - 1
MAX_ISSUES = 100
"""Maximum number of issues reported per body."""
BRANCH = "branch of a union: "
"""Required prefix of the tags of discriminated unions; tells them apart from keys of the input."""

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class InvalidBody(Exception):
    """The body is JSON but does not match the model. `issues` is a flat list of problems, `tree` the nested form."""

    def __init__(self, issues: list[dict[str, Any]]) -> None:
        super().__init__(issues[0]["message"] if issues else "Invalid input")
        self.issues = issues

    @property
    def tree(self) -> dict[str, Any]:
        """The issues nested by key; each node lists its own messages in `_errors`."""
        root: dict[str, Any] = {"_errors": []}
        for issue in self.issues:
            node = root
            for key in issue["path"]:
                node = node.setdefault(str(key), {"_errors": []})
            node["_errors"].append(issue["message"])
        return root


Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
"""A list of JSON objects."""


class Body(BaseModel):
    """Base of request bodies: no coercion, unknown keys ignored. Fields are named like the JSON keys."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _MayBeMissing:
    """The key may be missing, but null is an invalid type."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _without_null(handler(source))


def _without_null(schema: Any) -> CoreSchema:
    if schema["type"] == "nullable":
        return cast(CoreSchema, schema["schema"])
    if "schema" in schema:
        schema["schema"] = _without_null(schema["schema"])
    return cast(CoreSchema, schema)


Missing = Annotated[T | None, _MayBeMissing()]
"""`key: Missing[str] = None`: optional but not nullable. For a nullable key write `str | None`."""


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _exact(value: Any) -> Any:
    if type(value) is float and math.isfinite(value):
        return Decimal(repr(value))
    return Decimal(value) if type(value) is int else _reject("number", value)


def _instant(value: Any) -> Any:
    if type(value) is not str:
        _reject("string", value)
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z", value, re.ASCII):
        raise issue("Invalid ISO datetime", code="invalid_format", format="datetime", origin="string")
    try:
        return datetime.fromisoformat(value.removesuffix("Z")).replace(tzinfo=UTC)
    except ValueError:
        raise issue(
            "Invalid ISO datetime", code="invalid_format", format="datetime", origin="string"
        ) from None


def _as_sent(value: Any) -> Any:
    return value if type(value) in (int, float) else _reject("number", value)


Int32 = Annotated[int, BeforeValidator(_whole), Field(ge=-INT32_MAX - 1, le=INT32_MAX)]
"""An integer that fits PostgreSQL's `integer`; accepts `1.0`, rejects booleans."""

Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=INT32_MAX)]
"""A non-negative integer that fits PostgreSQL's `integer`."""

Number = Annotated[Decimal, BeforeValidator(_exact)]
"""A finite number, as the exact Decimal of its shortest representation."""

Amount = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0)]
"""A finite non-negative number."""

AsSent = Annotated[Any, AfterValidator(_as_sent), WithJsonSchema({"type": "number"})]
"""A number, kept as the int or float that was sent."""

Instant = Annotated[datetime, BeforeValidator(_instant)]
"""An ISO 8601 timestamp that ends in `Z`, seconds optional; aware, UTC."""


def parse(model: type[M], value: Any) -> M:
    """Validate `value` as `model`. Raises InvalidBody with all issues, in the order of the model's fields."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        gaps = [path for detail in error.errors() if (path := _gap(detail, value))]
        issues = _issues(error, value)
    if gaps:
        # pydantic does not report the expected type of a missing key; a placeholder that fits no type reveals it
        whole = _filled(value, gaps)
        try:
            model.model_validate(whole)
        except ValidationError as error:
            issues = _issues(error, whole)
    raise InvalidBody(issues)


def parse_tagged(key: str, models: Mapping[str, type[M]], value: Any) -> M:
    """Validate `value` as the model that its tag `key` selects. Raises InvalidBody, also for a missing or unknown tag."""
    if not isinstance(value, dict):
        raise InvalidBody([_wrong_type("object", value, [])])
    tag = value.get(key)
    model = models.get(tag) if isinstance(tag, str) else None
    if model is None:
        issue = {"code": "invalid_union", "errors": [], "note": "No matching discriminator"}
        raise InvalidBody([{**issue, "discriminator": key, "path": [key], "message": "Invalid input"}])
    return parse(model, value)


# -- errors --------------------------------------------------------------------------------------------------

_EXPECTED = {
    "string_type": "string",
    "float_type": "number",
    "decimal_type": "number",
    "bool_type": "boolean",
    "list_type": "array",
    "tuple_type": "array",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
    "none_required": "null",
}


class _Undefined:
    """Placeholder for a missing key."""


_UNDEFINED = _Undefined()


def _gap(detail: ErrorDetails, value: Any) -> list[str | int] | None:
    path, reached = _path(detail, value)
    return path if reached and detail["type"] == "missing" else None


def _filled(value: Any, gaps: list[list[str | int]]) -> Any:
    whole = value.copy()
    for path in gaps:
        node = whole
        for key in path[:-1]:
            node[key] = node[key].copy()
            node = node[key]
        node[path[-1]] = _UNDEFINED
    return whole


def _issues(error: ValidationError, value: Any) -> list[dict[str, Any]]:
    issues: list[dict[str, Any]] = []
    for detail in error.errors(include_url=False):
        if len(issues) == MAX_ISSUES:
            break
        path, reached = _path(detail, value)
        issue = _translate(detail, path) if reached else _union(path)
        if issue not in issues:
            issues.append(issue)
    return issues


def _path(detail: ErrorDetails, value: Any) -> tuple[list[str | int], bool]:
    """The path of an error, and whether it exists in the input (a branch of a union does not)."""
    path: list[str | int] = []
    here: Any = value
    for key in detail["loc"]:
        if isinstance(key, str) and key.startswith(BRANCH):
            continue
        inside = isinstance(here, dict) and key in here
        if inside or (isinstance(here, list) and isinstance(key, int) and key < len(here)):
            here = here[key]
        elif detail["type"] == "missing" and isinstance(here, dict):
            here = None
        else:
            return path, False
        path.append(key)
    return path, True


def _union(path: list[str | int]) -> dict[str, Any]:
    return {"code": "invalid_union", "errors": [], "path": path, "message": "Invalid input"}


def _translate(detail: ErrorDetails, path: list[str | int]) -> dict[str, Any]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return _wrong_type("nonoptional", _UNDEFINED, path)
    if kind == "zod":
        return {**context, "path": path, "message": detail["msg"]}
    if kind == "int_type":
        return _wrong_type("int" if type(value) is float else "number", value, path)
    if kind in ("int_from_float", "finite_number"):
        return _wrong_type("int", value, path)
    if kind in _EXPECTED:
        return _wrong_type(_EXPECTED[kind], value, path)
    if kind in ("literal_error", "enum"):
        return _option(str(context["expected"]), path)
    if kind in _BOUNDS:
        return _bound(kind, context, path)
    if kind == "extra_forbidden":
        return _unrecognized(path)
    message = detail["msg"].removeprefix("Value error, ")
    return {"code": "custom", "path": path, "message": message}


def _kind(value: Any) -> str:
    if value is _UNDEFINED:
        return "undefined"
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (str, "string"), (dict, "object"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "number"


def _wrong_type(expected: str, value: Any, path: list[str | int]) -> dict[str, Any]:
    message = f"Invalid input: expected {expected}, received {_kind(value)}"
    return {"code": "invalid_type", "expected": expected, "path": path, "message": message}


def _option(expected: str, path: list[str | int]) -> dict[str, Any]:
    values = re.findall(r"'([^']*)'", expected)
    quoted = "|".join(f'"{value}"' for value in values)
    text = f"option: expected one of {quoted}" if len(values) > 1 else f"input: expected {quoted}"
    return {"code": "invalid_value", "values": values, "path": path, "message": f"Invalid {text}"}


_BOUNDS = {
    "greater_than_equal": ("ge", "number", "to be >="),
    "greater_than": ("gt", "number", "to be >"),
    "less_than_equal": ("le", "number", "to be <="),
    "less_than": ("lt", "number", "to be <"),
    "string_too_short": ("min_length", "string", "to have >="),
    "string_too_long": ("max_length", "string", "to have <="),
    "too_short": ("min_length", "array", "to have >="),
    "too_long": ("max_length", "array", "to have <="),
}
_UNITS = {"number": "", "string": " characters", "array": " items"}


def _bound(kind: str, context: dict[str, Any], path: list[str | int]) -> dict[str, Any]:
    name, origin, relation = _BOUNDS[kind]
    low = ">" in relation
    limit = context[name]
    limit = int(limit) if limit == int(limit) else float(limit)
    return {
        "origin": origin,
        "code": "too_small" if low else "too_big",
        "minimum" if low else "maximum": limit,
        "inclusive": relation.endswith("="),
        "path": path,
        "message": f"Too {'small' if low else 'big'}: expected {origin} {relation}{limit}{_UNITS[origin]}",
    }


def _unrecognized(path: list[str | int]) -> dict[str, Any]:
    key = path[-1]
    message = f'Unrecognized key: "{key}"'
    return {"code": "unrecognized_keys", "keys": [key], "path": path[:-1], "message": message}


def issue(message: str, **facts: Any) -> PydanticCustomError:
    """Exception for validators: an issue with `message` and the other keys in `facts`, `code` first."""
    return PydanticCustomError("zod", message.replace("{", "{{"), facts)


def _reject(expected: str, value: Any) -> None:
    raise issue(
        f"Invalid input: expected {expected}, received {_kind(value)}", code="invalid_type", expected=expected
    )
