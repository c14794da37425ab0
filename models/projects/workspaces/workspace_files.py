"""Which files of a workspace are compared with others: the state that its client told last, or those of its head."""

from typing import NamedTuple

from models.core.db import db
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.snapshot import Snapshot
from models.projects.workspaces.workspace import Workspace


class WorkspaceFiles(NamedTuple):
    """The manifest of a workspace's files, and the snapshot that has the same; None for files that are in no snapshot."""

    manifest_hash: str
    snapshot_id: str | None


def compared_files(workspace: Workspace, *, include_dirty: bool = True) -> WorkspaceFiles | None:
    """The files of a workspace, with `include_dirty` also what is in no snapshot yet; None if it has none."""
    head = head_manifest(workspace.project_id, workspace.current_snapshot_id)
    dirty = workspace.current_manifest_hash if include_dirty else None
    if dirty not in (None, head):
        return WorkspaceFiles(str(dirty), None)
    return WorkspaceFiles(head, workspace.current_snapshot_id) if head is not None else None


def head_manifest(project_id: str, snapshot_id: str | None) -> str | None:
    """The hash of the manifest of a snapshot."""
    snapshot = db.session.get(Snapshot, (project_id, snapshot_id)) if snapshot_id is not None else None
    return snapshot.manifest_hash if snapshot else None


def as_file(entry: Entry | None) -> Entry | None:
    """The entry if it is a file."""
    return entry if entry is not None and entry.kind == "file" else None


def content_of(entry: Entry | None) -> str | None:
    """What an entry holds: the hash of a file, the target of a link; None for a directory or nothing."""
    if entry is None or entry.kind == "dir":
        return None
    return entry.hash if entry.kind == "file" else f"-> {entry.target}"
