"""`/v1/projects`: create, read, rename, delete and restore; brief, status and events (fastest contract 3.1, 3.2, 3.11)."""

import orjson
from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.core.db import db
from models.projects import project_editing
from models.projects.activity_log import events_of, last_event
from models.projects.project_access import own_project
from models.projects.project_documents import document_in, documents_in
from models.projects.snapshots.snapshot_making import parents_of, snapshots_of
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.api.project_bodies import (
    BriefAnswer,
    BriefChange,
    EventList,
    NewProject,
    ProjectAnswer,
    ProjectChanges,
    ProjectDetail,
    ProjectList,
    ProjectStatus,
    Success,
    event_json,
    project_json,
    snapshots_json,
    workspace_json,
)
from views.projects.api.project_documents_bodies import DocumentContent, DocumentsList, documents_json
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    NOT_YOURS,
    ORG,
    PROJECT_ID,
    WRONG,
    bp,
    chosen_account,
    clamped_limit,
    project_caller,
)
from views.web.body import read
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, query

MAX_PROJECTS = 1_000
LIMIT = query("limit", "At most 100; 20 by default")


@bp.post("/projects")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ORG],
    body=NewProject,
    answers={
        201: ("The project", ProjectAnswer),
        **NOT_YOURS,
        **WRONG,
        409: "The account has as many projects as it may (`PROJECT_LIMIT`)",
    },
    door=DOOR,
)
def create_project() -> ResponseReturnValue:
    """Create a project."""
    caller = project_caller()
    body = read(NewProject)
    project = project_editing.create_project(caller, chosen_account(caller, body.org_id), body.name)
    db.session.commit()
    return jsonify(project=project_json(project)), 201


@bp.get("/projects")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[ORG],
    answers={200: ("The last changed first", ProjectList), **NOT_YOURS},
    door=DOOR,
)
def list_projects() -> Response:
    """List the projects of the account."""
    caller = project_caller()
    rows = project_editing.projects_of(caller, chosen_account(caller), MAX_PROJECTS)
    return jsonify(projects=[project_json(row) for row in rows])


@bp.get("/projects/<project_id>")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("The project, its workspaces, newest snapshots and events", ProjectDetail), **NOT_YOURS},
    door=DOOR,
)
def get_project(project_id: str) -> Response:
    """Get a project with its workspaces, snapshots and events."""
    project = own_project(project_caller(), project_id)
    newest = snapshots_of(project.id, 10)
    merged = project_editing.insights(project)
    return jsonify(
        project=project_json(project),
        workspaces=[workspace_json(row, embedded=True) for row in workspaces_of(project.id)],
        snapshots=snapshots_json(newest, parents_of(project.id, [row.id for row in newest])),
        events=[event_json(row) for row in events_of(project.id, 20)],
        snapshot_insights={
            "last_merge_at": iso(merged.last_merge_at),
            "last_deploy_at": iso(merged.last_deploy_at),
            "snapshots_since_last_merge": merged.snapshots_since_last_merge,
            "snapshots_since_last_deploy": merged.snapshots_since_last_deploy,
        },
    )


@bp.patch("/projects/<project_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID],
    body=ProjectChanges,
    answers={200: ("The project", ProjectAnswer), **NOT_YOURS, **WRONG},
    door=DOOR,
)
def rename_project(project_id: str) -> Response:
    """Rename a project."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    project = project_editing.rename_project(caller, project_id, read(ProjectChanges).name)
    db.session.commit()
    return jsonify(project=project_json(project))


@bp.delete("/projects/<project_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID],
    answers={200: ("It is deleted", Success), **NOT_YOURS},
    door=DOOR,
)
def delete_project(project_id: str) -> Response:
    """Delete a project.

    It can be restored for STOA_DELETED_PROJECT_DAYS (30) days. In an organisation only owners and admins delete projects.
    """
    project_editing.delete_project(project_caller(), project_id)
    db.session.commit()
    return jsonify(success=True)


@bp.post("/projects/<project_id>/restore")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID],
    answers={200: ("The project", ProjectAnswer), **NOT_YOURS},
    door=DOOR,
)
def restore_project(project_id: str) -> Response:
    """Restore a deleted project."""
    project = project_editing.restore_project(project_caller(), project_id)
    db.session.commit()
    return jsonify(project=project_json(project))


@bp.get("/projects/<project_id>/status")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("Its last snapshot and event", ProjectStatus), **NOT_YOURS},
    door=DOOR,
)
def project_status(project_id: str) -> Response:
    """Get the status of a project."""
    project = own_project(project_caller(), project_id)
    last = last_event(project.id)
    return jsonify(
        last_snapshot_id=project.last_snapshot_id,
        updated_at=iso(project.updated_at),
        last_activity={"type": last.type, "created_at": iso(last.created_at)} if last else None,
    )


@bp.get("/projects/<project_id>/events")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, LIMIT],
    answers={200: ("The newest first", EventList), **NOT_YOURS, 422: "`limit` is no number"},
    door=DOOR,
)
def project_events(project_id: str) -> Response:
    """List what happened in a project."""
    project = own_project(project_caller(), project_id)
    return jsonify(events=[event_json(row) for row in events_of(project.id, clamped_limit(20, 100))])


@bp.get("/projects/<project_id>/brief")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("Intent and brief", BriefAnswer), **NOT_YOURS},
    door=DOOR,
)
def get_brief(project_id: str) -> Response:
    """Get what a project is for."""
    project = own_project(project_caller(), project_id)
    return jsonify(intent=project.intent, brief=project.brief)


@bp.patch("/projects/<project_id>/brief")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID],
    body=BriefChange,
    answers={200: ("Intent and brief", BriefAnswer), **NOT_YOURS, **WRONG},
    door=DOOR,
)
def set_brief(project_id: str) -> Response:
    """Say what a project is for."""
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    body = read(BriefChange)
    size = len(orjson.dumps(body.brief))
    project = project_editing.set_brief(caller, project_id, body.intent, body.brief, size)
    db.session.commit()
    return jsonify(intent=project.intent, brief=project.brief)


@bp.get("/projects/<project_id>/docs")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("By workspace, `main` first", DocumentsList), **NOT_YOURS},
    door=DOOR,
)
def project_documents(project_id: str) -> Response:
    """List the documents in the workspaces of a project: Markdown, text, README and the like."""
    return jsonify(documents_json(documents_in(own_project(project_caller(), project_id))))


@bp.get("/projects/<project_id>/docs/content")
@Operation(
    tag="Projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        PROJECT_ID,
        query("workspace", "The id of the workspace", required=True),
        query("path", "The path of the document", required=True),
    ],
    answers={
        200: ("The document", DocumentContent),
        **NOT_YOURS,
        422: "A parameter is missing",
        500: "The manifest cannot be read (`PARSE_ERROR`)",
        503: "The file storage is unavailable",
    },
    door=DOOR,
)
def project_document(project_id: str) -> Response:
    """Read a document of a workspace."""
    project = own_project(project_caller(), project_id)
    workspace, path = request.args.get("workspace", ""), request.args.get("path", "")
    found = document_in(project, workspace, path)
    return jsonify(
        content=found.content,
        path=path,
        workspace_id=found.workspace.id,
        workspace_name=found.workspace.name,
        size=found.size,
    )
