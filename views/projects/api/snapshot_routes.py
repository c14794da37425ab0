"""Snapshots: push, list, read, and the merge base of two (fastest contract 3.6, 4.5)."""

from datetime import UTC, datetime

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.projects.project_access import own_project, own_snapshot
from models.projects.snapshots.merge_base import merge_base
from models.projects.snapshots.snapshot_making import (
    NewSnapshot,
    parents_of,
    push_snapshot,
    snapshot_in,
    snapshots_of,
)
from models.projects.workspaces.head_moves import Mover
from views.assistants.api.assistant_caller import expected_version
from views.projects.api.project_bodies import (
    PushedSnapshot,
    SnapshotAnswer,
    SnapshotList,
    snapshot_json,
    snapshots_json,
)
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    IF_MATCH,
    NOT_YOURS,
    PROJECT_ID,
    WRONG,
    ProjectError,
    bp,
    clamped_limit,
    error_body,
    project_caller,
)
from views.web.body import Body, Missing, read
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, path, query

SNAPSHOT_ID = path("snapshotId", "The id of the snapshot")


class SnapshotPush(Body):
    manifest_hash: Missing[str] = Field(None, description="A manifest that is stored already")
    snapshot_id: str | None = Field(None, description="The client's id; by default the server makes one")
    parent_snapshot_ids: list[str] | None = Field(
        None, max_length=1_000, description="The first is the mainline"
    )
    workspace_id: str | None = Field(None, description="The workspace whose head moves there")
    source: str | None = Field(None, description="`cli` (default), `web`, `system` or `import`")
    summary: str | None = None
    message: str | None = None
    agent: str | None = Field(None, description="The coding agent that made the changes")
    run_id: str | None = Field(
        None,
        description="The agent's run that made the changes: one that you started and the account of the project pays. The snapshot"
        " names it, and takes the credits of it and its sub-runs that no snapshot took before",
    )
    author_name: str | None = None
    author_email: str | None = None
    created_at: str | None = Field(
        None, description="RFC 3339 in UTC, to the second; with it, an id of 64 digits is verified"
    )


class MergeBaseAnswer(ResponseModel):
    merge_base: str | None = Field(description="The id of the snapshot, or null")


@bp.post("/projects/<project_id>/snapshots")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Snapshots",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, IF_MATCH],
    body=SnapshotPush,
    answers={
        200: ("The project has it already", PushedSnapshot),
        201: ("The snapshot", PushedSnapshot),
        **NOT_YOURS,
        **WRONG,
        409: (
            "The project has another snapshot with this id (`CONFLICT`). Or the workspace moved meanwhile (`VERSION_CONFLICT`): the"
            " snapshot `details.snapshot_id` is stored, and the head stays",
            ProjectError,
        ),
        422: "A field is missing or wrong, the manifest is not stored (`MANIFEST_NOT_FOUND`), or you have no such run"
        " (`RUN_NOT_FOUND`)",
    },
    door=DOOR,
)
def push(project_id: str) -> ResponseReturnValue:
    """Push a snapshot, and move the head of its workspace there.

    Safe to repeat with an id. Parents must be pushed first.
    """
    caller = project_caller()
    own_project(caller, project_id, "edit_projects")
    new = _new(read(SnapshotPush))
    mover = Mover(caller.user_id, "cli" if new.source == "import" else new.source)
    made = push_snapshot(caller, project_id, new, mover)
    db.session.commit()
    if made.lost_to is not None:
        message = "The snapshot is stored, but the workspace moved meanwhile: its head stays where it is."
        details = {"version": made.lost_to, "snapshot_id": made.snapshot.id}
        response = error_body(409, "VERSION_CONFLICT", message, details)
        response.headers["ETag"] = f'"{made.lost_to}"'
        return response
    body = jsonify(snapshot=snapshot_json(made.snapshot, made.parent_ids), created=made.created)
    return body, 201 if made.created else 200


@bp.get("/projects/<project_id>/snapshots")
@Operation(
    tag="Snapshots",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, query("limit", "At most 100; 50 by default")],
    answers={200: ("The newest first", SnapshotList), **NOT_YOURS, 422: "`limit` is no number"},
    door=DOOR,
)
def list_snapshots(project_id: str) -> Response:
    """List the snapshots of a project."""
    project = own_project(project_caller(), project_id)
    rows = snapshots_of(project.id, clamped_limit(50, 100))
    return jsonify(snapshots=snapshots_json(rows, parents_of(project.id, [row.id for row in rows])))


@bp.get("/projects/<project_id>/merge-base")
@Operation(
    tag="Snapshots",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        PROJECT_ID,
        query("one", "The id of a snapshot", required=True),
        query("other", "The id of another", required=True),
    ],
    answers={200: ("The common ancestor that is nearest to both", MergeBaseAnswer), **NOT_YOURS},
    door=DOOR,
)
def get_merge_base(project_id: str) -> Response:
    """Find the merge base of two snapshots."""
    project = own_project(project_caller(), project_id)
    ids = [request.args.get(name, "") for name in ("one", "other")]
    if any(snapshot_in(project.id, id) is None for id in ids):
        raise NotFound("The project has no such snapshot.")
    base = merge_base(project.id, *ids)
    return jsonify(merge_base=base.id if base else None)


@bp.get("/snapshots/<snapshot_id>")
@Operation(
    tag="Snapshots",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[SNAPSHOT_ID],
    answers={200: ("The snapshot", SnapshotAnswer), **NOT_YOURS},
    door=DOOR,
)
def get_snapshot(snapshot_id: str) -> Response:
    """Get a snapshot.

    With the author and time that the client sent, so that it can check the id.
    """
    project, snapshot = own_snapshot(project_caller(), snapshot_id)
    parents = parents_of(project.id, [snapshot.id])[snapshot.id]
    return jsonify(snapshot=snapshot_json(snapshot, parents, full=True))


def _new(body: SnapshotPush) -> NewSnapshot:
    return NewSnapshot(
        manifest_hash=body.manifest_hash or "",
        id=body.snapshot_id or None,
        parent_ids=body.parent_snapshot_ids or (),
        workspace_id=body.workspace_id,
        source=body.source or "cli",
        summary=body.summary,
        message=body.message,
        agent=body.agent,
        run_id=body.run_id or None,
        author_name=body.author_name,
        author_email=body.author_email,
        created_at=_moment(body.created_at) if body.created_at else None,
        expected=expected_version(),
    )


def _moment(text: str) -> datetime:
    """A time in UTC; what is less than a second is cut. Raises Invalid."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise Invalid("'created_at' must be a time such as 2026-01-31T12:00:00Z.") from None
