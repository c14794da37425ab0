"""`/v1/projects/{id}/env-vars`: environment variables of a project (fastest contract 3.3)."""

from datetime import datetime
from typing import Any

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.core.strict_models import InvalidBody
from models.projects import environment
from models.projects.environment import NewVariable
from models.projects.project_access import own_project
from views.projects.api.project_bodies import Success
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    NOT_YOURS,
    PROJECT_ID,
    WRONG,
    bp,
    project_caller,
)
from views.web.body import Body, Missing, parse, read
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, path, query

WORKSPACE = query(
    "workspace_id", "A workspace of the project: the values that it has instead of the project's"
)
TOO_MANY = "The project has as many variables as it may"


class VariableBody(Body):
    key: str
    value: str
    is_secret: Missing[bool] = Field(None, description="By default as it was, false for a new one")


class VariablesBody(Body):
    variables: list[Any] = Field(description="Each with `key`, `value` and `is_secret`")


class VariableObject(ResponseModel):
    id: str
    project_id: str
    workspace_id: str | None = Field(description="The workspace that has this value; null for all")
    key: str
    value: str = Field(description="Of a secret `****` and its last four characters")
    is_secret: bool
    created_at: datetime
    updated_at: datetime


class VariableList(ResponseModel):
    variables: list[VariableObject]


class PlainVariable(ResponseModel):
    key: str
    value: str
    is_secret: bool


class PlainVariables(ResponseModel):
    variables: list[PlainVariable]


class VariablesSet(Success):
    count: int
    skipped: list[str] = Field(description="Keys that are no names")


@bp.get("/projects/<project_id>/env-vars")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, WORKSPACE],
    answers={200: ("By key", VariableList), **NOT_YOURS},
    door=DOOR,
)
def list_variables(project_id: str) -> Response:
    """List the environment variables of a project, without the values of secrets.

    With `workspace_id` those of a workspace: its own values, and the project's where it has none.
    """
    return jsonify(
        variables=[
            {
                "id": each.row.id,
                "project_id": each.row.project_id,
                "workspace_id": each.row.workspace_id,
                "key": each.row.key,
                "value": each.shown,
                "is_secret": each.row.is_secret,
                "created_at": iso(each.row.created_at),
                "updated_at": iso(each.row.updated_at),
            }
            for each in environment.variables_of(project_caller(), project_id, _scope())
        ]
    )


@bp.post("/projects/<project_id>/env-vars")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, WORKSPACE],
    body=VariableBody,
    answers={200: ("It is set", Success), **NOT_YOURS, **WRONG, 409: TOO_MANY},
    door=DOOR,
)
def set_variable(project_id: str) -> Response:
    """Set an environment variable."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    body = read(VariableBody)
    new = NewVariable(body.key, body.value, body.is_secret)
    environment.set_variable(caller, project_id, new, _scope())
    db.session.commit()
    return jsonify(success=True)


@bp.put("/projects/<project_id>/env-vars")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, WORKSPACE],
    body=VariablesBody,
    answers={200: ("How many were set", VariablesSet), **NOT_YOURS, **WRONG, 409: TOO_MANY},
    door=DOOR,
)
def set_variables(project_id: str) -> Response:
    """Set several environment variables; others stay."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    sent = read(VariablesBody).variables
    if len(sent) > environment.MAX_VARIABLES:
        raise Invalid(f"Set at most {environment.MAX_VARIABLES} variables.")
    new = [_variable(each, number) for number, each in enumerate(sent)]
    skipped = environment.set_variables(caller, project_id, new, _scope())
    db.session.commit()
    return jsonify(success=True, count=len(new) - len(skipped), skipped=skipped)


@bp.delete("/projects/<project_id>/env-vars/<key>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, path("key", "The name of the variable"), WORKSPACE],
    answers={200: ("It is gone", Success), **NOT_YOURS},
    door=DOOR,
)
def remove_variable(project_id: str, key: str) -> Response:
    """Remove an environment variable."""
    environment.remove_variable(project_caller(), project_id, key, _scope())
    db.session.commit()
    return jsonify(success=True)


@bp.get("/projects/<project_id>/env-vars/values")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, WORKSPACE],
    answers={
        200: ("By key, secrets too", PlainVariables),
        **NOT_YOURS,
        409: "A value cannot be read any more (`VARIABLE_UNREADABLE`)",
    },
    door=DOOR,
)
def variable_values(project_id: str) -> Response:
    """Read the values of the environment variables, for a deployment.

    In an organisation only owners and admins read them.
    """
    found = environment.plain_variables(project_caller(), project_id, _scope())
    response = jsonify(
        variables=[
            {"key": each.row.key, "value": each.value, "is_secret": each.row.is_secret} for each in found
        ]
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def _scope() -> str | None:
    return request.args.get("workspace_id") or None


def _variable(value: Any, number: int) -> NewVariable:
    try:
        body = parse(VariableBody, value)
    except InvalidBody as error:
        raise Invalid(f"'variables[{number}]': {error.issues[0]['message']}.") from None
    return NewVariable(body.key, body.value, body.is_secret)
