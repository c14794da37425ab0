"""The OpenAPI 3.1 document, generated from the `Operation` of each JSON route."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify
from flask_limiter.util import get_qualified_name
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema
from werkzeug.routing import Rule

from models.store.publishing.definition_schema import components
from views.web import guards
from views.web.body import ANONYMOUS_BYTES
from views.web.error_bodies import ApiError, SuspendedError, door
from views.web.fast_path import MAX_BODY_BYTES
from views.web.operation import Operation, Status, operation_of, parameter

bp = Blueprint("docs", __name__)

Schema = dict[str, Any]

TAGS = {
    "Gateway": "Model calls: chat completions, models, and what limits a key",
    "Responses": "OpenAI's Responses API: create, continue, read and compact responses, and WebSockets",
    "Conversations": "OpenAI's Conversations API: create and read conversations that responses continue",
    "Assistants API": "OpenAI's Assistants API, for clients that were written for it: assistants, threads, messages",
    "Assistants API runs": "Runs of OpenAI's Assistants API, their steps and events",
    "Embeddings and media": "Embeddings, ranking, moderation, plain completions, images, speech and transcription",
    "Search and feedback": "Search the web and documentation; feedback, and what else Codebuff's clients send",
    "Coding clients": "What Claude Code asks beside model calls: usage, managed settings, telemetry",
    "Provider keys": "Your own keys at providers, which pay for your calls",
    "Files": "Documents: upload, read, search and cite them",
    "Assistants": "Saved assistants and their versions; publish and import them",
    "Tools": "Tools that assistants call, and the secrets that are sent to them",
    "Projects": "Code bases: projects, their briefs, documents, variables and events",
    "Workspaces": "Working copies of projects, and the operations that move them",
    "Snapshots": "The history of projects",
    "Project drift": "How workspaces differ from each other, and who changes the same files",
    "Project sync": "Merge the main workspace of a project into another one, with a preview and decisions",
    "Project conversations": "Conversations with agents about a workspace: prompts, events, questions, timeline",
    "Insights": "What to do next in projects: action items, next steps and decisions",
    "Atlas": "The map of a project: its parts, what depends on what, search, symbols and diagrams",
    "Item runs": "Let agents mend action items in a scratch copy, with checks, and apply their patches",
    "Files of projects": "The bytes of projects: files and manifests, one at a time or in batches",
    "Runners": "Programs on machines of your own that take work: restore a tree, run commands at it, return what changed",
    "Deployments": "Deploy snapshots of projects, follow them, roll back, and how workspaces deploy",
    "Infrastructure": "What projects need and have at providers, and the credentials of providers",
    "Devices": "Sign-in of clients of projects, by a code or with Google",
    "Runs": "Agent runs: start, steps, finish, cost",
    "Threads": "Threads and their messages: read, write, search, export",
    "Links to threads": "Links that show a thread to whoever has them, and copies of what they show",
    "Turns": "Answers in threads: begin, watch, stop and resume them",
    "Usage": "Balance and usage of an account",
    "Store": "Browse agents, their versions and statistics",
    "Publishing": "Validate and publish agents; withdraw and deprecate versions",
    "Publishers": "Publisher profiles and their organisations",
    "Organisations": "Organisations, their settings and repositories",
    "Members": "Members, roles and invitations of an organisation",
    "Teams and keys": "Teams, API keys and service accounts of an organisation",
    "Organisation usage": "An organisation's usage, alerts, audit log and seats",
    "Credits": "Buy credits, automatic top-up, referrals",
    "Plans": "Plans and subscriptions",
    "Accounts": "The signed-in account, its sessions and older API keys",
    "API keys": "API keys with scopes and limits, managed by a key",
    "Sign-in": "Sign-in of browsers and command lines",
    "Operators": "Organisations, traces and evaluation results of the server, for its operators",
    "Server": "Health, metrics and this document",
}
"""The areas of the API and what they hold, in display order."""
DESCRIPTION = (
    "Bodies are read as JSON whatever their content type, and may be compressed with gzip, deflate, br or zstd. Unknown keys"
    " are ignored. Credits are integers; 1 credit = 1 US cent. Timestamps are UTC."
)
SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "anyone": [],
    "key": [{"key": []}],
    "cookie": [{"cookie": []}],
    "cookie or key": [{"cookie": []}, {"key": []}],
}
PARAMETERS = {
    "runId": "The run id returned by START",
    "conversationId": "The conversation's id, `conv_…`",
    "assistantId": "The assistant's id, `agnt_…`",
    "threadId": "The thread's id, `thrd_…`",
    "messageId": "The message's id, `msg_…`",
    "stepId": "The step's id, `step_…`",
    "publisher": "The publisher's id",
    "agent": "The agent's id",
    "version": "For example 1.0.0",
}
"""Default descriptions of path parameters."""


@dataclass(frozen=True)
class JsonRoute:
    """One operation: method, path and view."""

    method: str
    path: str
    endpoint: str
    view: Any
    operation: Operation

    @property
    def id(self) -> str:
        """Its `operationId`."""
        return re.sub("[{}]", "", re.sub("[/-]", "_", f"{self.method}_{self.path}"))

    @property
    def limits(self) -> list[str]:
        """Its rate limits, such as `30 per 1 minute`."""
        limits = guards.limiter.limit_manager.decorated_limits(get_qualified_name(self.view))
        return [str(each.limit) for each in limits]


def routes(app: Flask) -> list[JsonRoute]:
    """All documented operations, by tag."""
    found = [
        JsonRoute(method.lower(), _path(rule), rule.endpoint, view, operation)
        for rule in app.url_map.iter_rules()
        if not rule.websocket  # it has one for other requests too
        if (operation := operation_of(view := app.view_functions[rule.endpoint]))
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]
    return sorted(found, key=lambda route: list(TAGS).index(route.operation.tag))


def _path(rule: Rule) -> str:
    def camel(match: re.Match[str]) -> str:
        first, *others = match[1].split("_")
        return "{" + first + "".join(map(str.capitalize, others)) + "}"

    return re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", camel, rule.rule)


def document(app: Flask) -> Schema:
    """The OpenAPI document of this server, generated once per application."""
    found: Schema | None = app.extensions.get("openapi")
    if found is None:
        found = app.extensions["openapi"] = _document(app)
    return found


def _document(app: Flask) -> Schema:
    found = routes(app)
    types: dict[tuple[str, Status | None], Any] = {(route.id, None): route.operation.body for route in found}
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
        paths.setdefault(route.path, {})[route.method] = _operation_object(route, by_key)
    result = {
        "openapi": "3.1.0",
        "info": {"title": "Stoa", "version": "0.1.0", "description": DESCRIPTION},
        "servers": [{"url": guards.settings().base_url}],
        "components": {
            "schemas": {**components(), **shared.get("$defs", {})},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (sk_live_…, sk_test_… or cb-pat-…) or a command line token",
                },
                "cookie": {"type": "apiKey", "in": "cookie", "name": guards.COOKIE},
            },
        },
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
    }
    _link(result)
    return result


def _operation_object(route: JsonRoute, schemas: dict[tuple[str, Status | None], Schema]) -> Schema:
    operation = route.operation
    summary, _, details = (inspect.getdoc(route.view) or "").partition("\n\n")
    described: Schema = {
        "tags": [operation.tag],
        "summary": summary.removesuffix("."),
        "operationId": route.id,
        "security": SECURITY[operation.caller],
        "responses": {
            str(status): _content(description, shape, schemas.get((route.id, status)))
            for status, (description, shape) in sorted(_answers(route).items(), key=lambda item: str(item[0]))
        },
    }
    if details:
        described["description"] = " ".join(details.split())
    if operation.scope:
        described["x-scope"] = operation.scope
    documented = {each["name"] for each in operation.parameters if each["in"] == "path"}
    path = [
        parameter(name, "path", PARAMETERS.get(name, ""), required=True)
        for name in re.findall(r"{([^{}]+)}", route.path)
        if name not in documented
    ]
    if path or operation.parameters:
        described["parameters"] = [*path, *operation.parameters]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {operation.body_kind: {"schema": schemas[route.id, None]}},
        }
        described["x-max-bytes"] = operation.max_bytes or MAX_BODY_BYTES
    if route.limits:
        described["x-rate-limits"] = route.limits
    return described


def _content(description: str, shape: Any, schema: Schema | None) -> Schema:
    if schema is None:
        return {"description": description}
    kind = "text/plain" if shape is str else "application/json"
    return {"description": description, "content": {kind: {"schema": schema}}}


def answer_types(route: JsonRoute) -> dict[Status, Any]:
    """The body type by status."""
    return {status: shape for status, (_, shape) in _answers(route).items()}


def _answers(route: JsonRoute) -> dict[Status, tuple[str, Any]]:
    """The documented responses of the route, and those common to routes of its kind."""
    operation, door = route.operation, route.operation.door
    found: dict[Status, tuple[str, Any]] = {}
    for status, documented in operation.answers.items():
        shape = door.body_error if status == 400 and operation.body is not None else door.error
        found[status] = (documented, shape) if isinstance(documented, str) else documented
    for status, description, shape in _common_answers(route):
        present = found.get(status)
        if present is None:
            found[status] = (description, shape)
        else:
            more = description[0].lower() + description[1:]
            found[status] = (
                f"{present[0]}; or {more}",
                present[1] if present[1] is shape else present[1] | shape,
            )
    return found


def _common_answers(route: JsonRoute) -> Iterator[tuple[int, str, Any]]:
    operation, door = route.operation, route.operation.door
    if 400 not in operation.answers and operation.body is not None:
        yield 400, "Invalid body", door.body_error
    if 401 not in operation.answers and operation.caller != "anyone":
        key = "Missing, unknown, expired or revoked API key"
        yield 401, key if operation.caller == "key" else "Not signed in", door.error
    if route.endpoint not in guards.OPEN_TO_SUSPENDED:
        yield (
            403,
            "The account is suspended",
            SuspendedError if route.path.startswith("/api/") and not door.suspended else door.error,
        )
    if operation.scope:
        if 429 not in operation.answers:
            yield 429, "Too many attempts with unknown API keys; see Retry-After", door.error
        yield 403, "The API key lacks the scope, or may not be used from this address", door.error
    if operation.caller.startswith("cookie") and route.method != "get":
        yield 403, "The request is cross-site, or the cookie holds a key of an organisation", ApiError
    if route.limits:
        yield 429, f"Rate limit exceeded ({' or '.join(route.limits)}); see Retry-After", door.error
    if operation.body is not None:
        limit, anonymous = operation.max_bytes or MAX_BODY_BYTES, operation.anonymous_bytes or ANONYMOUS_BYTES
        description = f"The body is larger than {limit:,} bytes, or {anonymous:,} if unauthenticated"
        yield 413, description, door.too_large
        description = "Unsupported Content-Encoding; Accept-Encoding lists the supported ones"
        yield 415, description, door.unsupported_encoding


class _JsonSchema(GenerateJsonSchema):
    """JSON Schema without titles and null defaults; decimals are numbers."""

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
    """Rename bounds to JSON Schema keywords, which pydantic leaves if a validator comes first, and replace `x-component` by a
    reference to a schema of `models/store/publishing/definition.py`."""
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


# -- routes --------------------------------------------------------------------------------------------------


@bp.get("/api/openapi.json")
@Operation(tag="Server", answers={200: ("OpenAPI 3.1", dict[str, Any])}, door=door())
def openapi() -> Response:
    """The OpenAPI document."""
    response = jsonify(document(current_app))
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cache-Control"] = "public, max-age=300"
    return response
