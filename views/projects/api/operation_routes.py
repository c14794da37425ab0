"""Operations of workspaces: the list of all moves, and undo of any of them."""

from typing import Any, Literal

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.projects.project_access import own_project, own_workspace
from models.projects.snapshots.manifest_text import Entry
from models.projects.workspaces.head_moves import operations_page
from models.projects.workspaces.operation_undo import preview_undo, undo_operation
from models.projects.workspaces.workspace import WorkspaceOperation
from views.assistants.api.assistant_caller import expected_version
from views.projects.api.project_bodies import OperationObject, operation_json
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    IF_MATCH,
    NOT_YOURS,
    PROJECT_ID,
    WORKSPACE_ID,
    WRONG,
    bp,
    clamped_limit,
    cli_mover,
    project_caller,
)
from views.web.body import Body, parse, read_json
from views.web.guards import key_caller, limiter
from views.web.keyset import cursor, cursor_text
from views.web.operation import Operation, ResponseModel, path, query

PAGE, MAX_PAGE = 50, 100
OPERATION_ID = path("operationId", "The id of the operation")
PAGE_PARAMETERS = [
    query("limit", f"At most {MAX_PAGE}; {PAGE} by default"),
    query("cursor", "`next_cursor` of the previous page"),
]
IMPOSSIBLE = "It cannot be undone: the bytes of a state are not stored, or the main workspace changed since"


class OperationList(ResponseModel):
    operations: list[OperationObject]
    next_cursor: str | None


class UndoneEntry(ResponseModel):
    path: str
    action: Literal["restore", "remove"]
    kind: str | None
    hash: str | None
    conflict: bool = Field(description="It changed since the operation: it needs a decision")


class UndoPreview(ResponseModel):
    operation: OperationObject
    exact: bool = Field(description="Nothing came after: the workspace goes back to where it was")
    changes: list[UndoneEntry]
    conflicts: list[str]


class UndoRequest(Body):
    decisions: dict[str, Any] = Field(
        default_factory=dict, description="For each conflict, by path: `keep` what is there, or `undo` it"
    )


class UndoAnswer(ResponseModel):
    operation: OperationObject


@bp.get("/projects/<project_id>/operations")
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, *PAGE_PARAMETERS],
    answers={200: ("The newest first", OperationList), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def project_operations(project_id: str) -> Response:
    """List every move of a head in a project."""
    return _page(own_project(project_caller(), project_id).id, None)


@bp.get("/workspaces/<workspace_id>/operations")
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[WORKSPACE_ID, *PAGE_PARAMETERS],
    answers={200: ("The newest first", OperationList), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def workspace_operations(workspace_id: str) -> Response:
    """List every move of a workspace's head."""
    project, workspace = own_workspace(project_caller(), workspace_id)
    return _page(project.id, workspace.id)


@bp.get("/workspaces/<workspace_id>/operations/<operation_id>/undo")
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[WORKSPACE_ID, OPERATION_ID],
    answers={200: ("What it would change", UndoPreview), **NOT_YOURS, 409: IMPOSSIBLE},
    door=DOOR,
)
def undo_preview(workspace_id: str, operation_id: str) -> Response:
    """Preview the undo of an operation; changes nothing."""
    plan = preview_undo(project_caller(), workspace_id, operation_id)
    conflicts = set(plan.conflicts)
    return jsonify(
        operation=operation_json(plan.operation),
        exact=plan.exact,
        changes=[_undone(path, entry, path in conflicts) for path, entry in plan.changes.items()],
        conflicts=plan.conflicts,
    )


@bp.post("/workspaces/<workspace_id>/operations/<operation_id>/undo")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID, OPERATION_ID, IF_MATCH],
    body=UndoRequest,
    answers={
        200: ("The new operation", UndoAnswer),
        **NOT_YOURS,
        **WRONG,
        409: f"Files changed since (`UNDO_CONFLICT`): `details.conflicts` need decisions. Or the workspace moved meanwhile. {IMPOSSIBLE}",
        413: "The account stores as many bytes as it may (`QUOTA_EXCEEDED`)",
    },
    door=DOOR,
)
def undo(workspace_id: str, operation_id: str) -> Response:
    """Undo any operation, also an old one, by a new operation.

    Takes back what the operation changed, and keeps what came after. It costs nothing.
    """
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    body = parse(UndoRequest, read_json() if request.content_length else {})
    done = undo_operation(
        caller,
        workspace_id,
        operation_id,
        cli_mover(caller),
        decisions=body.decisions,
        expected=expected_version(),
    )
    db.session.commit()
    return jsonify(operation=operation_json(done))


def _page(project_id: str, workspace_id: str | None) -> Response:
    limit = clamped_limit(PAGE, MAX_PAGE)
    rows = operations_page(project_id, limit + 1, workspace_id=workspace_id, before=cursor("cursor"))
    page: list[WorkspaceOperation] = list(rows[:limit])
    more = len(rows) > limit
    return jsonify(
        operations=[operation_json(row) for row in page],
        next_cursor=cursor_text(page[-1].created_at, page[-1].id) if more else None,
    )


def _undone(path: str, entry: Entry | None, conflict: bool) -> dict[str, Any]:
    return {
        "path": path,
        "action": "remove" if entry is None else "restore",
        "kind": entry.kind if entry else None,
        "hash": entry.hash if entry else None,
        "conflict": conflict,
    }
