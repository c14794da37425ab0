"""Removes projects that were deleted long enough ago, with their workspaces, snapshots and operations."""

from collections.abc import Sequence

from blinker import Signal
from sqlalchemy import delete, update

from models.core.db import db
from models.projects.environment import EnvironmentVariable
from models.projects.project import ActivityEvent, Project
from models.projects.snapshots.snapshot import Snapshot, SnapshotParent
from models.projects.sync.sync_preview import SyncPreview
from models.projects.workspaces.drift_report import DriftReport
from models.projects.workspaces.overlap_tables import ChangeIndex, WorkspaceChange
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

projects_forgetting = Signal()
"""Sent with the ids of projects that are about to be deleted for good, in that transaction."""


def forget_projects(ids: Sequence[str]) -> None:
    """Delete these projects for good; the next collection of garbage removes bytes that nothing else names. Flushes."""
    if not ids:
        return
    projects_forgetting.send(ids)
    pointers = update(Project).where(Project.id.in_(ids))
    db.session.execute(pointers.values(last_snapshot_id=None, main_workspace_id=None))
    db.session.execute(update(Snapshot).where(Snapshot.project_id.in_(ids)).values(workspace_id=None))
    for table in (
        ActivityEvent,
        EnvironmentVariable,
        DriftReport,
        WorkspaceChange,
        ChangeIndex,
        SyncPreview,
        WorkspaceOperation,
        Workspace,
        SnapshotParent,
        Snapshot,
    ):
        db.session.execute(delete(table).where(table.project_id.in_(ids)))
    db.session.execute(delete(Project).where(Project.id.in_(ids)))
