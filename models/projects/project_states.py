"""The files of a project at one place: of a workspace as it is now, or of any snapshot."""

from dataclasses import dataclass

from models.core.errors import NotFound
from models.projects.project import Project
from models.projects.snapshots.manifest_store import manifest_row
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.snapshots.stored_objects import Manifest
from models.projects.workspaces.workspace import Workspace
from models.projects.workspaces.workspace_editing import workspaces_of


@dataclass(frozen=True)
class ProjectState:
    """Either of `workspace` and `snapshot`, neither of a project without both. `manifest` is None if nothing is stored."""

    workspace: Workspace | None
    snapshot: Snapshot | None
    manifest: Manifest | None

    @property
    def tree(self) -> str | None:
        """The hash of its tree; None without files, or if they cannot be read."""
        return self.manifest.tree_hash if self.manifest else None


def state_of(project: Project, *, workspace_id: str = "", snapshot_id: str = "") -> ProjectState:
    """The files of a snapshot or of a workspace; of the main workspace, else of the newest snapshot, if neither is given. Raises NotFound."""
    if snapshot_id:
        snapshot = snapshot_in(project.id, snapshot_id)
        if snapshot is None:
            raise NotFound("The project has no such snapshot.")
        return ProjectState(None, snapshot, manifest_row(project.account_id, snapshot.manifest_hash))
    chosen = workspace_id or project.main_workspace_id
    workspace = next((each for each in workspaces_of(project.id) if each.id == chosen), None)
    if workspace is None and workspace_id:
        raise NotFound("The project has no such workspace.")
    if workspace is not None and (hash := _hash_of(project, workspace)):
        return ProjectState(workspace, None, manifest_row(project.account_id, hash))
    if workspace is None and project.last_snapshot_id:
        return state_of(project, snapshot_id=project.last_snapshot_id)
    return ProjectState(workspace, None, None)


def tree_of(project: Project, snapshot: Snapshot | None) -> str | None:
    """The tree of a snapshot; None without one, or if its files cannot be read."""
    row = manifest_row(project.account_id, snapshot.manifest_hash) if snapshot else None
    return row.tree_hash if row else None


def snapshot_with(project: Project, snapshot_id: str | None, tree: str) -> str | None:
    """This snapshot, if its files are those of the tree: a workspace may have moved on from its snapshot."""
    snapshot = snapshot_in(project.id, snapshot_id) if snapshot_id else None
    return snapshot.id if snapshot is not None and tree_of(project, snapshot) == tree else None


def _hash_of(project: Project, workspace: Workspace) -> str | None:
    if workspace.current_manifest_hash:
        return workspace.current_manifest_hash
    head = snapshot_in(project.id, workspace.current_snapshot_id) if workspace.current_snapshot_id else None
    return head.manifest_hash if head else None
