"""Example requests and responses of JSON routes, generated from their schemas."""

import re
from typing import Any

import orjson

Schema = dict[str, Any]

EXAMPLES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("At", "_at", "Until", "Start", "End", "Date", "Reset", "expires", "time"), "2026-11-29T12:00:00.000Z"),
    (("email", "Email"), "ada@example.org"),
    (("url", "Url", "URL", "link", "href"), "https://example.org"),
    (("slug", "publisherId", "publisher"), "acme"),
    (("Id", "_id", "ID"), "0b9df0f6-8a3b-4c1e-9c63-1f5a2d0a7c11"),
    (("key", "token", "Token", "hash", "Hash"), "…"),
    (("version",), "1.0.0"),
    (("model",), "stoa/demo"),
    (("error", "message", "reason", "description", "details"), "A sentence"),
    (("name", "Name", "title", "label"), "Example"),
)
"""Strings by the end of their name."""
FORMATS = {"date-time": "2026-11-29T12:00:00Z", "date": "2026-11-29"}
NUMBERS = {"integer": 1, "number": 0.5}


def example_of(schema: Schema, components: dict[str, Schema], *, required_only: bool = False) -> Any:
    """A value of the schema: its own example, constant or default where it has one. `required_only`: without optional keys."""
    return _Generator(components, required_only).value(schema, "", ())


class _Generator:
    def __init__(self, components: dict[str, Schema], required_only: bool) -> None:
        self._components = components
        self._required_only = required_only

    def value(self, schema: Schema, name: str, parents: tuple[str, ...]) -> Any:
        if reference := schema.get("$ref"):
            target = str(reference).rpartition("/")[2]
            if target in parents:
                return None
            return self.value(self._components[target], name, (*parents, target))
        for key in ("examples", "enum"):
            if schema.get(key):
                return schema[key][0]
        for key in ("const", "default"):
            if schema.get(key) is not None:
                return schema[key]
        if variants := schema.get("anyOf") or schema.get("oneOf"):
            known = [each for each in variants if each.get("type") != "null"]
            return self.value(known[0], name, parents) if known else None
        return self._by_type(schema, name, parents)

    def _by_type(self, schema: Schema, name: str, parents: tuple[str, ...]) -> Any:
        match schema.get("type"):
            case "object":
                return self._object(schema, parents)
            case "array":
                items = schema.get("items") or next(iter(schema.get("prefixItems", [])), None)
                found = self.value(items, name.removesuffix("s"), parents) if items else None
                return [] if found is None else [found]
            case "string":
                return _string(schema, name)
            case "boolean":
                return True
            case "integer" | "number" as kind:
                return max(schema.get("minimum", 0), NUMBERS[kind])
        return None

    def _object(self, schema: Schema, parents: tuple[str, ...]) -> dict[str, Any]:
        required = schema.get("required", [])
        found = {
            key: self.value(each, key, parents)
            for key, each in schema.get("properties", {}).items()
            if key in required or not self._required_only or "examples" in each
        }
        more = schema.get("additionalProperties")
        if not found and isinstance(more, dict) and more:
            found = {"name": self.value(more, "", parents)}
        return found


def _string(schema: Schema, name: str) -> str:
    if known := FORMATS.get(schema.get("format", "")):
        return known
    if name == "id":
        return "0b9df0f6-8a3b-4c1e-9c63-1f5a2d0a7c11"
    return next((text for ends, text in EXAMPLES if name.endswith(ends)), "text")


def pretty(value: Any) -> str:
    """JSON, indented."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def curl(method: str, path: str, caller: str, base_url: str, body: Any = None) -> str:
    """A curl command. Path parameters are in capitals; the key or the session is in the environment."""
    path = re.sub(r"{(\w+)}", lambda found: re.sub("([A-Z])", r"_\1", found[1]).upper(), path)
    lines = [f"curl {'' if method in ('get', 'post') else f'-X {method.upper()} '}{base_url}{path}"]
    if "key" in caller:
        lines.append('-H "Authorization: Bearer $STOA_KEY"')
    elif caller == "cookie":
        lines.append('--cookie "next-auth.session-token=$STOA_SESSION"')
    if body is not None:
        quoted = pretty(body).replace("'", "'\\''")
        lines.append(f"-d '{quoted}'")
    elif method == "post":
        lines[0] = lines[0].replace("curl ", "curl -X POST ", 1)
    return " \\\n  ".join(lines)
