"""The OpenAPI 3.1 document, written from what each JSON route says of itself (`operation.py`), and the page to read it."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify, request
from flask_limiter.util import get_qualified_name
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema
from werkzeug.routing import Rule

from models.store.publishing.definition import components
from views.web import guards
from views.web.body import SMALL
from views.web.error_bodies import ApiError, SuspendedError, door
from views.web.fast_path import MOST_BYTES
from views.web.htmx import render
from views.web.operation import Operation, Status, operation_of, parameter

bp = Blueprint("docs", __name__)

Schema = dict[str, Any]

TAGS = ("Gateway", "Store", "Runs", "Usage", "Billing", "Accounts", "Sign-in", "Publishers", "Server")
"""In the order in which they are shown."""
DESCRIPTION = (
    "Bodies are read as JSON whatever their content type, and may be packed with gzip, deflate, br or zstd; unknown keys"
    " are ignored. Credits are whole, one is a US cent. Moments are UTC."
)
SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "anyone": [],
    "key": [{"key": []}],
    "cookie": [{"cookie": []}],
    "cookie or key": [{"cookie": []}, {"key": []}],
}
PARAMETERS = {
    "runId": "The run, as START answered it",
    "publisher": "The publisher's id",
    "agent": "The agent's id",
    "version": "Such as 1.0.0",
}
"""What the parts of paths are, where a route does not say it."""
CALLERS = {
    "anyone": "nobody in particular",
    "key": "an API key",
    "cookie": "a signed-in browser",
    "cookie or key": "a signed-in browser or an API key",
}


@dataclass(frozen=True)
class JsonRoute:
    """One operation: a method at a path, and the view that answers."""

    method: str
    path: str
    endpoint: str
    view: Any
    said: Operation

    @property
    def id(self) -> str:
        """Its `operationId`."""
        return re.sub("[{}]", "", re.sub("[/-]", "_", f"{self.method}_{self.path}"))

    @property
    def limits(self) -> list[str]:
        """Its rate limits, as `30 per 1 minute`."""
        limits = guards.limiter.limit_manager.decorated_limits(get_qualified_name(self.view))
        return [str(each.limit) for each in limits]


def routes(app: Flask) -> list[JsonRoute]:
    """Every operation that is described, by tag."""
    found = [
        JsonRoute(method.lower(), _path(rule), rule.endpoint, view, said)
        for rule in app.url_map.iter_rules()
        if (said := operation_of(view := app.view_functions[rule.endpoint]))
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    return sorted(found, key=lambda route: TAGS.index(route.said.tag))


def _path(rule: Rule) -> str:
    def camel(match: re.Match[str]) -> str:
        first, *others = match[1].split("_")
        return "{" + first + "".join(map(str.capitalize, others)) + "}"

    return re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", camel, rule.rule)


def document(app: Flask) -> Schema:
    """The whole document, for this server's address. Made once for an application."""
    found: Schema | None = app.extensions.get("openapi")
    if found is None:
        found = app.extensions["openapi"] = _document(app)
    return found


def _document(app: Flask) -> Schema:
    found = routes(app)
    types: dict[tuple[str, Status | None], Any] = {(route.id, None): route.said.body for route in found}
    for route in found:
        types |= {(route.id, status): shape for status, shape in answer_types(route).items()}
    adapters = [(key, "validation", TypeAdapter(shape)) for key, shape in types.items() if shape is not None]
    schemas, shared = TypeAdapter.json_schemas(
        adapters,  # type: ignore[arg-type]
        ref_template="#/components/schemas/{model}",
        schema_generator=_JsonSchema,
    )
    by_key = {key: schema for (key, _), schema in schemas.items()}
    paths: dict[str, Schema] = {}
    for route in found:
        paths.setdefault(route.path, {})[route.method] = _described(route, by_key)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "Stoa", "version": "0.1.0", "description": DESCRIPTION},
        "servers": [{"url": guards.settings().base_url}],
        "components": {
            "schemas": {**components(), **shared.get("$defs", {})},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A personal key (cb-pat-…) or the command line's token",
                },
                "cookie": {"type": "apiKey", "in": "cookie", "name": guards.COOKIE},
            },
        },
        "paths": paths,
    }
    _link(whole)
    return whole


def _described(route: JsonRoute, schemas: dict[tuple[str, Status | None], Schema]) -> Schema:
    said = route.said
    summary, _, description = (inspect.getdoc(route.view) or "").partition("\n\n")
    told: Schema = {
        "tags": [said.tag],
        "summary": summary.removesuffix("."),
        "operationId": route.id,
        "security": SECURITY[said.caller],
        "responses": {
            str(status): _content(words, shape, schemas.get((route.id, status)))
            for status, (words, shape) in sorted(_answers(route).items(), key=lambda item: str(item[0]))
        },
    }
    if description:
        told["description"] = " ".join(description.split())
    named = {each["name"] for each in said.parameters if each["in"] == "path"}
    path = [
        parameter(name, "path", PARAMETERS.get(name, ""), required=True)
        for name in re.findall(r"{([^{}]+)}", route.path)
        if name not in named
    ]
    if path or said.parameters:
        told["parameters"] = [*path, *said.parameters]
    if said.body is not None:
        told["requestBody"] = {
            "required": True,
            "content": {said.body_kind: {"schema": schemas[route.id, None]}},
        }
        told["x-max-bytes"] = said.most_bytes or MOST_BYTES
    if route.limits:
        told["x-rate-limits"] = route.limits
    return told


def _content(words: str, shape: Any, schema: Schema | None) -> Schema:
    if schema is None:
        return {"description": words}
    kind = "text/plain" if shape is str else "application/json"
    return {"description": words, "content": {kind: {"schema": schema}}}


def answer_types(route: JsonRoute) -> dict[Status, Any]:
    """The type of the body by status."""
    return {status: shape for status, (_, shape) in _answers(route).items()}


def _answers(route: JsonRoute) -> dict[Status, tuple[str, Any]]:
    """What the route says it answers, and what every route of its kind may answer."""
    said, door = route.said, route.said.door
    found: dict[Status, tuple[str, Any]] = {}
    for status, words in said.answers.items():
        shape = door.body_error if status == 400 and said.body is not None else door.error
        found[status] = (words, shape) if isinstance(words, str) else words
    for status, words, shape in _of_its_kind(route):
        before = found.get(status)
        if before is None:
            found[status] = (words, shape)
        else:
            more = words[0].lower() + words[1:]
            found[status] = (
                f"{before[0]}; or {more}",
                before[1] if before[1] is shape else before[1] | shape,
            )
    return found


def _of_its_kind(route: JsonRoute) -> Iterator[tuple[int, str, Any]]:
    said, door = route.said, route.said.door
    if 400 not in said.answers and said.body is not None:
        yield 400, "The body cannot be used", door.body_error
    if 401 not in said.answers and said.caller != "anyone":
        key = "No key, or one that is unknown, expired or revoked"
        yield 401, key if said.caller == "key" else "Not signed in", door.error
    if route.endpoint not in guards.OPEN_TO_SUSPENDED:
        yield (
            403,
            "The account is suspended",
            SuspendedError if route.path.startswith("/api/") else door.error,
        )
    if said.caller.startswith("cookie") and route.method != "get":
        yield 403, "Another site caused the request", ApiError
    if route.limits:
        yield 429, f"More than {' or '.join(route.limits)}; Retry-After says how long", door.error
    if said.body is not None:
        most, least = said.most_bytes or MOST_BYTES, said.stranger_bytes or SMALL
        words = f"The body is larger than {most:,} bytes, or {least:,} from an unknown caller"
        yield 413, words, door.too_large
        words = "The Content-Encoding of the body is unknown; Accept-Encoding says which are known"
        yield 415, words, door.unknown_coding


class _JsonSchema(GenerateJsonSchema):
    """Numbers are numbers, absent is not null, and no title repeats a name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def encode_default(self, dft: Any) -> Any:
        return int(dft) if isinstance(dft, Decimal) else super().encode_default(dft)

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Schema:
        return {"type": "number"}


BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def _link(node: Any) -> None:
    """Name bounds as JSON Schema does, which pydantic leaves where a validator comes first, and put the schemas of
    `models/store/publishing/definition.py` where a type names one with `x-component`."""
    if isinstance(node, dict):
        for key, name in BOUNDS.items():
            if isinstance(node.get(key), int):
                node[name] = node.pop(key)
        if name := node.pop("x-component", None):
            node.clear()
            node["$ref"] = f"#/components/schemas/{name}"
        for each in node.values():
            _link(each)
    elif isinstance(node, list):
        for each in node:
            _link(each)


# -- where it is read ----------------------------------------------------------------------------------------


@bp.get("/api/openapi.json")
@Operation(tag="Server", answers={200: ("OpenAPI 3.1", dict[str, Any])}, door=door())
def openapi() -> Response:
    """This document."""
    response = jsonify(document(current_app))
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


@bp.get("/docs/api")
def page() -> Response:
    """The document as a page: every route, who may call it, what it takes and answers."""
    whole = document(current_app)
    tags: dict[str, list[dict[str, Any]]] = {}
    for route in routes(current_app):
        described = whole["paths"][route.path][route.method]
        tags.setdefault(route.said.tag, []).append(
            {
                "id": route.id,
                "method": route.method.upper(),
                "path": route.path,
                "auth": CALLERS[route.said.caller],
                "operation": described,
                "fields": _fields(described, whole["components"]["schemas"]),
            }
        )
    return render("docs/api.html", tags=tags, base_url=guards.settings().base_url, host=request.host)


def _fields(described: Schema, components: Schema) -> list[dict[str, Any]]:
    """The body's keys, one row each: name, type in words, whether required, what it is."""
    content: Schema = described.get("requestBody", {}).get("content", {})
    schema = next((_looked_up(each["schema"], components) for each in content.values()), {})
    rows = []
    for variant in schema.get("oneOf", [schema]):
        variant = _looked_up(variant, components)
        for name, item in variant.get("properties", {}).items():
            rows.append(
                {
                    "name": name,
                    "type": _type(item),
                    "required": name in variant.get("required", []),
                    "description": item.get("description", ""),
                    "variant": variant.get("properties", {}).get("action", {}).get("const", ""),
                }
            )
    return rows


def _looked_up(schema: Schema, components: Schema) -> Schema:
    found: Schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(item) for item in schema["anyOf"])
    kind = str(schema.get("type", "any"))
    return f"list of {_type(schema['items'])}s" if kind == "array" and "items" in schema else kind
