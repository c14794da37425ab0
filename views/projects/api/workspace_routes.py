"""`/v1/workspaces` and those of a project: create, read, change, heartbeat, current manifest, main, restore (fastest contract 3.5)."""

from flask import Response, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.projects.project_access import own_project, own_workspace
from models.projects.snapshots.snapshot_making import parents_of, snapshots_of
from models.projects.workspaces import workspace_editing
from models.projects.workspaces.drift_report import latest_reports, reports_of
from views.assistants.api.assistant_caller import expected_version
from views.projects.api.drift_bodies import drift_summary, report_json
from views.projects.api.project_bodies import (
    Success,
    WorkspaceAnswer,
    WorkspaceList,
    WorkspaceSnapshots,
    WorkspaceWithDrift,
    snapshots_json,
    workspace_json,
)
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    IF_MATCH,
    NOT_YOURS,
    PROJECT_ID,
    STALE,
    WORKSPACE_ID,
    WRONG,
    ProjectError,
    bp,
    clamped_limit,
    cli_mover,
    project_caller,
    with_version,
)
from views.web.body import Body, Missing, read
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, query

LIMIT = query("limit", "At most 100; 50 by default")


class NewWorkspace(Body):
    name: str
    machine_id: str | None = None
    base_snapshot_id: str | None = Field(None, description="The snapshot that it starts from")
    local_path: str | None = None


class WorkspaceChanges(Body):
    """Omitted keys stay."""

    name: Missing[str] = None
    machine_id: str | None = None
    local_path: str | None = None


class ManifestChange(Body):
    manifest_hash: Missing[str] = None
    previous_manifest_hash: str | None = Field(None, description="The one that the client saw last")


class SnapshotChoice(Body):
    snapshot_id: Missing[str] = None


class HeartbeatAnswer(Success):
    last_seen_at: str


class ManifestMoved(ResponseModel):
    updated: bool
    current_manifest_hash: str | None
    conflict: Missing[bool] = None


class MainAnswer(Success):
    main_workspace_id: str


class RestoredAnswer(Success):
    restored_snapshot_id: str


@bp.post("/projects/<project_id>/workspaces")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID],
    body=NewWorkspace,
    answers={
        201: ("The workspace; the first of a project is its main one", WorkspaceAnswer),
        **NOT_YOURS,
        **WRONG,
        409: "The name is taken (`WORKSPACE_NAME_TAKEN`), or there are too many (`WORKSPACE_LIMIT`)",
    },
    door=DOOR,
)
def create_workspace(project_id: str) -> ResponseReturnValue:
    """Register a working copy of a project."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    body = read(NewWorkspace)
    workspace = workspace_editing.create_workspace(
        caller,
        project_id,
        body.name,
        machine_id=body.machine_id,
        base_snapshot_id=body.base_snapshot_id,
        local_path=body.local_path,
    )
    db.session.commit()
    return with_version(jsonify(workspace=workspace_json(workspace)), workspace), 201


@bp.get("/projects/<project_id>/workspaces")
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("The newest first", WorkspaceList), **NOT_YOURS},
    door=DOOR,
)
def list_workspaces(project_id: str) -> Response:
    """List the workspaces of a project."""
    project = own_project(project_caller(), project_id)
    rows = workspace_editing.workspaces_of(project.id)
    latest = latest_reports([row.id for row in rows])
    return jsonify(
        workspaces=[{**workspace_json(row), "drift": drift_summary(latest.get(row.id))} for row in rows]
    )


@bp.get("/workspaces/<workspace_id>")
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[WORKSPACE_ID],
    answers={200: ("The workspace", WorkspaceWithDrift), **NOT_YOURS},
    door=DOOR,
)
def get_workspace(workspace_id: str) -> Response:
    """Get a workspace.

    The header ETag has its version.
    """
    _, workspace = own_workspace(project_caller(), workspace_id)
    latest = next(iter(reports_of(workspace.id, 1)), None)
    drift = report_json(latest) if latest else None
    return with_version(jsonify(workspace=workspace_json(workspace), drift=drift), workspace)


@bp.patch("/workspaces/<workspace_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID, IF_MATCH],
    body=WorkspaceChanges,
    answers={
        200: ("The workspace", WorkspaceAnswer),
        **NOT_YOURS,
        **WRONG,
        409: "The name is taken, or the workspace moved meanwhile",
    },
    door=DOOR,
)
def change_workspace(workspace_id: str) -> Response:
    """Change the name, machine or path of a workspace."""
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    body = read(WorkspaceChanges)
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    workspace = workspace_editing.edit_workspace(caller, workspace_id, changes, expected_version())
    db.session.commit()
    return with_version(jsonify(workspace=workspace_json(workspace)), workspace)


@bp.delete("/workspaces/<workspace_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    answers={200: ("It is deleted", Success), **NOT_YOURS, 409: "It is the main workspace (`CONFLICT`)"},
    door=DOOR,
)
def delete_workspace(workspace_id: str) -> Response:
    """Delete a workspace; its snapshots stay."""
    workspace_editing.delete_workspace(project_caller(), workspace_id)
    db.session.commit()
    return jsonify(success=True)


@bp.post("/workspaces/<workspace_id>/heartbeat")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    answers={200: ("When it was seen", HeartbeatAnswer), **NOT_YOURS},
    door=DOOR,
)
def heartbeat(workspace_id: str) -> Response:
    """Say that a workspace is in use."""
    workspace = workspace_editing.beat(project_caller(), workspace_id)
    db.session.commit()
    return jsonify(success=True, last_seen_at=iso(workspace.last_seen_at))


@bp.post("/workspaces/<workspace_id>/current-manifest")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID, IF_MATCH],
    body=ManifestChange,
    answers={
        200: ("The workspace has these files", ManifestMoved),
        **NOT_YOURS,
        **WRONG,
        409: ("The workspace has other files than the client saw", ManifestMoved),
    },
    door=DOOR,
)
def current_manifest(workspace_id: str) -> ResponseReturnValue:
    """Say what files a workspace has, if nobody else did meanwhile.

    Succeeds if it has no manifest yet, or that of `previous_manifest_hash`. The tree of who comes too late is kept as a snapshot, which
    the event `workspace.out_of_date` names.
    """
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    body = read(ManifestChange)
    moved = workspace_editing.move_manifest(
        caller,
        workspace_id,
        body.manifest_hash or "",
        body.previous_manifest_hash,
        cli_mover(caller),
        expected_version(),
    )
    db.session.commit()
    conflict = {} if moved.moved else {"conflict": True}
    response = jsonify(
        updated=moved.moved, current_manifest_hash=moved.workspace.current_manifest_hash, **conflict
    )
    return with_version(response, moved.workspace), 200 if moved.moved else 409


@bp.post("/workspaces/<workspace_id>/set-as-main")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    answers={200: ("It is the main workspace", MainAnswer), **NOT_YOURS},
    door=DOOR,
)
def set_as_main(workspace_id: str) -> Response:
    """Make a workspace the one that others are compared with."""
    caller = project_caller()
    workspace = workspace_editing.set_main(caller, workspace_id, cli_mover(caller))
    db.session.commit()
    return jsonify(success=True, main_workspace_id=workspace.id)


@bp.get("/workspaces/<workspace_id>/snapshots")
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[WORKSPACE_ID, LIMIT],
    answers={
        200: ("All of the project, the newest first", WorkspaceSnapshots),
        **NOT_YOURS,
        422: "`limit` is no number",
    },
    door=DOOR,
)
def workspace_snapshots(workspace_id: str) -> Response:
    """List the snapshots of a workspace's project, and which is current."""
    project, workspace = own_workspace(project_caller(), workspace_id)
    rows = snapshots_of(project.id, clamped_limit(50, 100))
    current = workspace.current_snapshot_id
    listed = snapshots_json(rows, parents_of(project.id, [row.id for row in rows]))
    return jsonify(
        snapshots=[{**each, "is_current": each["id"] == current} for each in listed],
        current_snapshot_id=current,
    )


@bp.post("/workspaces/<workspace_id>/sync/undo")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Workspaces",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID, IF_MATCH],
    body=SnapshotChoice,
    answers={
        200: ("The workspace has the snapshot", RestoredAnswer),
        **NOT_YOURS,
        **WRONG,
        400: ("`snapshot_id` is missing (`MISSING_SNAPSHOT_ID`)", ProjectError),
        **STALE,
    },
    door=DOOR,
)
def restore_snapshot(workspace_id: str) -> Response:
    """Move a workspace to any snapshot of its project."""
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    id = read(SnapshotChoice).snapshot_id
    if not id:
        raise Invalid("'snapshot_id' is missing.", code="missing_snapshot_id", status=400)
    workspace = workspace_editing.restore_snapshot(
        caller, workspace_id, id, cli_mover(caller), expected_version()
    )
    db.session.commit()
    return with_version(jsonify(success=True, restored_snapshot_id=id), workspace)
