"""Projects: code bases of several people and agents, their snapshots, workspaces and the bytes of their files."""

from models.projects import environment, exported_projects
from models.projects.project import ActivityEvent, Project
from models.projects.project_access import ProjectCaller
from models.projects.snapshots.snapshot import Snapshot, SnapshotParent
from models.projects.snapshots.snapshot_run_costs import SnapshotRunCost
from models.projects.snapshots.stored_objects import Blob, Manifest, Pack, PartUpload, ProjectStorage, Tree
from models.projects.sync.sync_preview import SyncPreview
from models.projects.workspaces.drift_report import DriftReport
from models.projects.workspaces.overlap_tables import ChangeIndex, WorkspaceChange
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

__all__ = [
    "ActivityEvent",
    "Blob",
    "ChangeIndex",
    "DriftReport",
    "Manifest",
    "Pack",
    "PartUpload",
    "Project",
    "ProjectCaller",
    "ProjectStorage",
    "Snapshot",
    "SnapshotParent",
    "SnapshotRunCost",
    "SyncPreview",
    "Tree",
    "Workspace",
    "WorkspaceChange",
    "WorkspaceOperation",
    "environment",
    "exported_projects",
]
