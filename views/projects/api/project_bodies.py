"""Bodies and answers of the routes of projects, workspaces and snapshots, in the shapes of the fastest contract."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.projects import ActivityEvent, Project, Snapshot, Workspace, WorkspaceOperation
from models.projects.snapshots.snapshot_ids import second_text
from views.projects.api.drift_bodies import DriftObject, DriftSummary
from views.web.body import Body, Missing
from views.web.format import iso
from views.web.operation import ResponseModel

Intent = Literal[
    "startup",
    "personal_tool",
    "learning",
    "fun",
    "portfolio",
    "creative",
    "exploration",
    "open_source",
]


class NewProject(Body):
    name: str
    org_id: Missing[str] = Field(None, description="Id or slug of the organisation that owns it")


class ProjectChanges(Body):
    name: str


class BriefChange(Body):
    intent: str
    brief: dict[str, Any] = Field(description="Its `intent` is the same as the outer one")


class ProjectObject(ResponseModel):
    id: str
    owner_user_id: str | None = Field(description="Who made it")
    org_id: Missing[str] = Field(None, description="The organisation that owns it")
    name: str
    intent: str | None
    brief: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    last_snapshot_id: str | None
    main_workspace_id: str | None


class ProjectAnswer(ResponseModel):
    project: ProjectObject


class ProjectList(ResponseModel):
    projects: list[ProjectObject]


class LastActivity(ResponseModel):
    type: str
    created_at: datetime


class ProjectStatus(ResponseModel):
    last_snapshot_id: str | None
    updated_at: datetime
    last_activity: LastActivity | None


class BriefAnswer(ResponseModel):
    intent: str | None
    brief: dict[str, Any] | None


class EventObject(ResponseModel):
    id: str
    project_id: str
    workspace_id: str | None
    actor: str = Field(description="`cli`, `web` or `system`")
    type: str
    snapshot_id: str | None
    message: str | None
    created_at: datetime


class EventList(ResponseModel):
    events: list[EventObject]


class SnapshotObject(ResponseModel):
    id: str
    project_id: str
    workspace_id: str | None
    manifest_hash: str
    parent_snapshot_ids: list[str]
    source: str = Field(description="`cli`, `web`, `system` or `import`")
    summary: str | None
    created_at: datetime


class SnapshotDetail(SnapshotObject):
    """With what a client needs to check an id that it computed."""

    message: str | None
    agent: str | None
    author_name: str | None
    author_email: str | None
    client_created_at: datetime | None
    generation: int
    verified: bool = Field(description="The id is the hash of what the snapshot says")
    run_id: str | None = Field(description="The agent's run that made it")
    credits: int = Field(description="What of that run's cost the snapshot counts")


class SnapshotAnswer(ResponseModel):
    snapshot: SnapshotDetail


class SnapshotList(ResponseModel):
    snapshots: list[SnapshotObject]


class PushedSnapshot(ResponseModel):
    snapshot: SnapshotObject
    created: bool


class WorkspaceSnapshot(SnapshotObject):
    is_current: bool


class WorkspaceSnapshots(ResponseModel):
    snapshots: list[WorkspaceSnapshot]
    current_snapshot_id: str | None


class EmbeddedWorkspace(ResponseModel):
    id: str
    project_id: str
    name: str
    machine_id: str | None
    base_snapshot_id: str | None
    current_snapshot_id: str | None
    local_path: str | None
    last_seen_at: datetime | None
    created_at: datetime


class WorkspaceObject(EmbeddedWorkspace):
    current_manifest_hash: str | None
    merge_history: dict[str, Any] | None


class ListedWorkspace(WorkspaceObject):
    drift: DriftSummary | None = Field(description="The latest report of drift")


class WorkspaceAnswer(ResponseModel):
    workspace: WorkspaceObject


class WorkspaceWithDrift(ResponseModel):
    workspace: WorkspaceObject
    drift: DriftObject | None = Field(description="The latest report of drift")


class WorkspaceList(ResponseModel):
    workspaces: list[ListedWorkspace]


class InsightFigures(ResponseModel):
    last_merge_at: datetime | None
    last_deploy_at: datetime | None
    snapshots_since_last_merge: int | None
    snapshots_since_last_deploy: int | None


class ProjectDetail(ResponseModel):
    project: ProjectObject
    workspaces: list[EmbeddedWorkspace]
    snapshots: list[SnapshotObject] = Field(description="The newest 10")
    events: list[EventObject] = Field(description="The newest 20")
    snapshot_insights: InsightFigures


class OperationObject(ResponseModel):
    id: str
    project_id: str
    workspace_id: str
    version: int | None = Field(description="The workspace's version afterwards")
    kind: str = Field(
        description="`snapshot`, `manifest`, `set_main`, `restore`, `undo`, `sync`, `land` or `turn`"
    )
    actor: str
    user_id: str | None
    before_snapshot_id: str | None
    before_manifest_hash: str | None
    after_snapshot_id: str | None
    after_manifest_hash: str | None
    undoes: str | None = Field(description="The operation that it took back")
    cause: str | None = Field(description="The run or turn that caused it")
    cost: int = Field(description="Credits")
    created_at: datetime


class Success(ResponseModel):
    success: Literal[True]


def project_json(row: Project) -> dict[str, Any]:
    """A `ProjectObject`."""
    org = {"org_id": row.org_id} if row.org_id is not None else {}
    return {
        "id": row.id,
        "owner_user_id": row.created_by,
        **org,
        "name": row.name,
        "intent": row.intent,
        "brief": row.brief,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
        "last_snapshot_id": row.last_snapshot_id,
        "main_workspace_id": row.main_workspace_id,
    }


def event_json(row: ActivityEvent) -> dict[str, Any]:
    """An `EventObject`."""
    names = ("id", "project_id", "workspace_id", "actor", "type", "snapshot_id", "message")
    return {**{name: getattr(row, name) for name in names}, "created_at": iso(row.created_at)}


def snapshot_json(row: Snapshot, parent_ids: Sequence[str], *, full: bool = False) -> dict[str, Any]:
    """A `SnapshotObject` or, `full`, a `SnapshotDetail`. A computed id contains the client's time, so that is the time it was created."""
    own_time = second_text(row.client_created_at) if row.client_created_at else None
    found: dict[str, Any] = {
        **{name: getattr(row, name) for name in ("id", "project_id", "workspace_id", "manifest_hash")},
        "parent_snapshot_ids": list(parent_ids),
        "source": row.source,
        "summary": row.summary,
        "created_at": own_time if own_time and row.verified else iso(row.created_at),
    }
    if full:
        names = (
            "message",
            "agent",
            "author_name",
            "author_email",
            "generation",
            "verified",
            "run_id",
            "credits",
        )
        found |= {name: getattr(row, name) for name in names}
        found["client_created_at"] = own_time
    return found


def snapshots_json(rows: Sequence[Snapshot], parents: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """`SnapshotObject`s."""
    return [snapshot_json(row, parents[row.id]) for row in rows]


def workspace_json(row: Workspace, *, embedded: bool = False) -> dict[str, Any]:
    """A `WorkspaceObject`, or an `EmbeddedWorkspace`."""
    names = [
        "id",
        "project_id",
        "name",
        "machine_id",
        "base_snapshot_id",
        "current_snapshot_id",
        "local_path",
    ]
    if not embedded:
        names += ["current_manifest_hash", "merge_history"]
    return {
        **{name: getattr(row, name) for name in names},
        "last_seen_at": iso(row.last_seen_at),
        "created_at": iso(row.created_at),
    }


def operation_json(row: WorkspaceOperation) -> dict[str, Any]:
    """An `OperationObject`."""
    names = [name for name in OperationObject.model_fields if name != "created_at"]
    return {**{name: getattr(row, name) for name in names}, "created_at": iso(row.created_at)}
