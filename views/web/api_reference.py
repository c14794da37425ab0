"""The API reference: an overview with a search, and a page for each area."""

from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, current_app, request

from models.accounts.scopes import scope_words
from models.core.errors import NotFound
from views.web import guards
from views.web.api_examples import curl, example_of, pretty
from views.web.htmx import render
from views.web.openapi import TAGS, JsonRoute, Schema, bp, document, routes
from views.web.operation import Operation

CALLERS = {
    "anyone": "none",
    "key": "API key",
    "cookie": "browser session",
    "cookie or key": "browser session or API key",
}
MAX_QUERY = 100
"""Characters of a search."""


@dataclass(frozen=True)
class BodyField:
    """A key of a request body. `variant`: the value of `action` that it belongs to, for bodies of several forms."""

    name: str
    type: str
    required: bool
    description: str
    variant: str


@dataclass(frozen=True)
class RouteReference:
    """What the reference shows of a route. `operation` is its OpenAPI object; `response` an example of its successful response,
    None if that is no JSON; `text` is what the search looks in."""

    id: str
    method: str
    path: str
    tag: str
    auth: str
    operation: Schema
    fields: list[BodyField]
    request: str
    response: str | None
    text: str


def area_slug(tag: str) -> str:
    """The last part of the address of an area's page."""
    return tag.lower().replace(" ", "-")


def reference(app: Flask) -> dict[str, list[RouteReference]]:
    """All routes by area, made once per application."""
    found: dict[str, list[RouteReference]] | None = app.extensions.get("api_reference")
    if found is None:
        result = document(app)
        found = {tag: [] for tag in TAGS}
        for route in routes(app):
            found[route.operation.tag].append(_reference(route, result))
        app.extensions["api_reference"] = found
    return found


def search_routes(app: Flask, query: str) -> list[RouteReference]:
    """The routes in which every word of `query` occurs; those with one in the path or summary first."""
    words = query.lower().split()
    found = [
        each for area in reference(app).values() for each in area if all(word in each.text for word in words)
    ]
    return sorted(found, key=lambda each: not any(word in _title(each) for word in words))


def _title(route: RouteReference) -> str:
    return f"{route.path} {route.operation['summary']}".lower()


def _reference(route: JsonRoute, result: Schema) -> RouteReference:
    components = result["components"]["schemas"]
    described = result["paths"][route.path][route.method]
    body = _schema(described.get("requestBody", {}))
    fields = _fields(body, components)
    sent = (
        example_of(body, components, required_only=True)
        if body and route.operation.body_kind.endswith("json")
        else None
    )
    words = (
        described["summary"],
        described.get("description", ""),
        route.operation.tag,
        *(each.name for each in fields),
    )
    return RouteReference(
        id=route.id,
        method=route.method.upper(),
        path=route.path,
        tag=route.operation.tag,
        auth=_authentication(route.operation),
        operation=described,
        fields=fields,
        request=curl(route.method, route.path, route.operation.caller, result["servers"][0]["url"], sent),
        response=_response(described, components),
        text=" ".join((route.method, route.path, *words)).lower(),
    )


def _authentication(operation: Operation) -> str:
    scope = f", with the scope {scope_words(operation.scope)}" if operation.scope else ""
    return CALLERS[operation.caller] + scope


def _response(described: Schema, components: dict[str, Schema]) -> str | None:
    """An example of the first successful response with a JSON body."""
    for status, response in described["responses"].items():
        schema = response.get("content", {}).get("application/json", {}).get("schema")
        if status.startswith("2") and schema:
            return pretty(example_of(schema, components))
    return None


def _schema(content: Schema) -> Schema:
    """The schema of a request body."""
    return next((each["schema"] for each in content.get("content", {}).values()), {})


def _fields(schema: Schema, components: dict[str, Schema]) -> list[BodyField]:
    schema = _resolve(schema, components)
    found = []
    for variant in schema.get("oneOf", [schema]):
        variant = _resolve(variant, components)
        properties = variant.get("properties", {})
        for name, item in properties.items():
            required = name in variant.get("required", [])
            action = properties.get("action", {}).get("const", "")
            found.append(BodyField(name, _type(item), required, item.get("description", ""), action))
    return found


def _resolve(schema: Schema, components: dict[str, Schema]) -> Schema:
    return components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(_type(item) for item in schema["anyOf"])
    kind = str(schema.get("type", "any"))
    return f"list of {_type(schema['items'])}s" if kind == "array" and "items" in schema else kind


# -- pages ---------------------------------------------------------------------------------------------------


@bp.get("/docs/api")
def page() -> Response:
    """The overview: how to start, errors, the areas; with `q`, the routes that match."""
    query = request.args.get("q", "").strip()[:MAX_QUERY]
    return render(
        "docs/api.html",
        partial="docs/_results.html",
        query=query,
        found=search_routes(current_app, query) if query else None,
        **_context(),
    )


@bp.get("/docs/api/<area>")
def area(area: str) -> Response:
    """The routes of an area."""
    tag = next((tag for tag in TAGS if area_slug(tag) == area), None)
    if tag is None:
        raise NotFound("There is no such part of the API reference.")
    return render("docs/area.html", tag=tag, **_context())


def _context() -> dict[str, Any]:
    return {
        "areas": reference(current_app),
        "descriptions": TAGS,
        "slug": area_slug,
        "base_url": guards.settings().base_url,
    }
