"""`/api/v1/tools` and `/api/v1/tool-secrets`: what assistants may call, and the secrets that are sent with it."""

from datetime import datetime
from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.assistants import Tool, ToolSecret, tool_registry, tool_secrets
from models.core.db import db
from views.assistants.api.assistant_bodies import STRICT
from views.assistants.api.assistant_caller import (
    DOOR,
    LIMIT,
    ORG,
    assistant_caller,
    moment_text,
)
from views.assistants.api.assistant_routes import WRONG, bp
from views.web.body import Body, Int32, Missing, read
from views.web.guards import key_caller, limiter
from views.web.operation import Answers, Operation, ResponseModel, path

TOOL_ID = path("id", "The id, `tool_…`")
SECRET_NAME = path("name", "The name of the secret")
ERRORS: Answers = {
    403: "Only owners and admins manage the tools and secrets of an organisation",
    404: "The account has no such tool or secret, or you belong to no such organisation",
}
TAKEN = "The name is taken, or the account has too many"


class ToolChanges(Body):
    """Omitted keys stay."""

    model_config = STRICT

    name: Missing[str] = Field(None, description="At most 64 letters, digits, _ and -")
    description: Missing[str] = Field(None, description="Tells the model when to call it")
    parameters: Missing[dict[str, Any]] = Field(None, description="JSON Schema of its arguments, an object")
    url: Missing[str] = Field(None, description="Its https:// address, on the public internet")
    method: Missing[str] = Field(
        None, description="POST (by default), PUT, PATCH: arguments as JSON; GET, DELETE: as query"
    )
    headers: Missing[dict[str, Any]] = Field(
        None, description="The name of a secret by the header that carries it"
    )
    timeout_seconds: Missing[Int32] = Field(None, description="1 to 120; 30 by default")
    retries: Missing[Int32] = Field(
        None, description="0 to 3, after no answer, 429, 502, 503 or 504; 0 by default"
    )

    def fields(self) -> dict[str, Any]:
        """The sent fields."""
        return {
            name: getattr(self, name) for name in ToolChanges.model_fields if name in self.model_fields_set
        }


class NewTool(ToolChanges):
    name: str = Field(description="At most 64 letters, digits, _ and -")
    url: str = Field(description="Its https:// address, on the public internet")


class NewToolSecret(Body):
    model_config = STRICT

    name: str = Field(description="At most 64 letters, digits, _ . and -")
    host: str = Field(description="The only host that it is sent to, such as api.example.com")
    value: str = Field(
        description="The value of the header, such as `Bearer …`. Stored encrypted, and never shown"
    )


class ToolAnswer(ResponseModel):
    id: str
    name: str
    description: str
    parameters: dict[str, Any]
    url: str
    method: str
    headers: dict[str, str]
    timeout_seconds: int
    retries: int
    created_by: str | None
    created_at: datetime
    updated_at: datetime


class ToolList(ResponseModel):
    data: list[ToolAnswer]


class ToolSecretAnswer(ResponseModel):
    name: str
    host: str
    hint: str = Field(description="Its last four characters; empty for a short one")
    created_by: str | None
    created_at: datetime


class ToolSecretList(ResponseModel):
    data: list[ToolSecretAnswer]


class ToolRemoved(ResponseModel):
    deleted: bool


@bp.get("/api/v1/tools")
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_READ,
    parameters=[ORG],
    answers={200: ("By name", ToolList), **ERRORS},
    door=DOOR,
)
def list_tools() -> ResponseReturnValue:
    """List the registered tools of the account."""
    return jsonify(data=[_tool_json(row) for row in tool_registry.tools(*assistant_caller())])


@bp.post("/api/v1/tools")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ORG],
    body=NewTool,
    answers={201: ("The tool", ToolAnswer), **ERRORS, 409: TAKEN, 422: WRONG},
    door=DOOR,
)
def add_a_tool() -> ResponseReturnValue:
    """Register a tool that this server calls for assistants.

    Redirects are not followed. The model sees at most 64,000 characters of an answer.
    """
    caller = assistant_caller()
    row = tool_registry.add_tool(*caller, read(NewTool).fields())
    db.session.commit()
    return jsonify(_tool_json(row)), 201


@bp.get("/api/v1/tools/<id>")
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_READ,
    parameters=[TOOL_ID, ORG],
    answers={200: ("The tool", ToolAnswer), **ERRORS},
    door=DOOR,
)
def get_tool(id: str) -> ResponseReturnValue:
    """Get a registered tool."""
    return jsonify(_tool_json(tool_registry.tool(*assistant_caller(), id)))


@bp.patch("/api/v1/tools/<id>")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[TOOL_ID, ORG],
    body=ToolChanges,
    answers={200: ("The tool", ToolAnswer), **ERRORS, 409: TAKEN, 422: WRONG},
    door=DOOR,
)
def change_a_tool(id: str) -> ResponseReturnValue:
    """Change a registered tool, for all assistants that name it."""
    caller = assistant_caller()
    tool_registry.tool(*caller, id)
    row = tool_registry.change_tool(*caller, id, read(ToolChanges).fields())
    db.session.commit()
    return jsonify(_tool_json(row))


@bp.delete("/api/v1/tools/<id>")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[TOOL_ID, ORG],
    answers={200: ("Removed", ToolRemoved), **ERRORS},
    door=DOOR,
)
def remove_a_tool(id: str) -> ResponseReturnValue:
    """Remove a registered tool: assistants that name it do without."""
    tool_registry.remove_tool(*assistant_caller(), id)
    db.session.commit()
    return jsonify(deleted=True)


@bp.get("/api/v1/tool-secrets")
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_READ,
    parameters=[ORG],
    answers={200: ("By name, without the values", ToolSecretList), **ERRORS},
    door=DOOR,
)
def list_tool_secrets() -> ResponseReturnValue:
    """List the secrets of tools and MCP servers, by name, host and last four characters."""
    return jsonify(data=[_secret_json(row) for row in tool_secrets.tool_secrets(*assistant_caller())])


@bp.post("/api/v1/tool-secrets")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[ORG],
    body=NewToolSecret,
    answers={201: ("The secret, without its value", ToolSecretAnswer), **ERRORS, 409: TAKEN, 422: WRONG},
    door=DOOR,
)
def add_tool_secret() -> ResponseReturnValue:
    """Store a secret for the headers of tools and MCP servers.

    It is sent to its host only, and never shown again. To change it, remove it and add another.
    """
    caller = assistant_caller()
    body = read(NewToolSecret)
    row = tool_secrets.add_secret(*caller, body.name, body.host, body.value)
    db.session.commit()
    return jsonify(_secret_json(row)), 201


@bp.delete("/api/v1/tool-secrets/<name>")
@limiter.limit(LIMIT, key_func=key_caller)
@Operation(
    tag="Tools",
    caller="key",
    scope=scopes.AGENTS_WRITE,
    parameters=[SECRET_NAME, ORG],
    answers={200: ("Removed", ToolRemoved), **ERRORS},
    door=DOOR,
)
def remove_tool_secret(name: str) -> ResponseReturnValue:
    """Remove a secret: tools that name it fail from now on."""
    tool_secrets.remove_secret(*assistant_caller(), name)
    db.session.commit()
    return jsonify(deleted=True)


def _tool_json(row: Tool) -> dict[str, Any]:
    names = (
        "id",
        "name",
        "description",
        "parameters",
        "url",
        "method",
        "headers",
        "timeout_seconds",
        "retries",
    )
    return {
        **{name: getattr(row, name) for name in names},
        "created_by": row.created_by,
        "created_at": moment_text(row.created_at),
        "updated_at": moment_text(row.updated_at),
    }


def _secret_json(row: ToolSecret) -> dict[str, Any]:
    return {
        "name": row.name,
        "host": row.host,
        "hint": row.hint,
        "created_by": row.created_by,
        "created_at": moment_text(row.created_at),
    }
