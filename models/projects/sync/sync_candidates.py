"""The workspaces of a project that main can be merged into: whether main moved on, and the preview that waits."""

from typing import NamedTuple

from sqlalchemy import select

from models.core.db import db, now
from models.projects.project import Project
from models.projects.sync.sync_preview import SyncPreview
from models.projects.workspaces.overlap_tables import ChangeIndex
from models.projects.workspaces.workspace import Workspace


class SyncCandidate(NamedTuple):
    """A workspace beside the main one. `behind`: main has moved since the workspace left it. `preview_id`: the newest open preview of the
    person."""

    workspace: Workspace
    behind: bool
    preview_id: str | None


def sync_candidates(project: Project, user_id: str) -> list[SyncCandidate]:
    """All workspaces but the main one, the last seen first."""
    main = db.session.get(Workspace, project.main_workspace_id) if project.main_workspace_id else None
    head = main.current_snapshot_id if main is not None else None
    query = (
        select(Workspace, ChangeIndex)
        .outerjoin(ChangeIndex, ChangeIndex.workspace_id == Workspace.id)
        .where(Workspace.project_id == project.id, Workspace.deleted_at.is_(None))
        .order_by(Workspace.last_seen_at.desc().nulls_last(), Workspace.id)
    )
    previews = _open_previews(project.id, user_id)
    found = []
    for workspace, index in db.session.execute(query):
        if workspace.id == project.main_workspace_id:
            continue
        behind = head is not None and (index is None or index.base_snapshot_id != head)
        found.append(SyncCandidate(workspace, behind, previews.get(workspace.id)))
    return found


def _open_previews(project_id: str, user_id: str) -> dict[str, str]:
    """The newest open preview of each workspace; of those that a person prepared."""
    query = select(SyncPreview.workspace_id, SyncPreview.id).where(
        SyncPreview.project_id == project_id,
        SyncPreview.user_id == user_id,
        SyncPreview.state == "open",
        SyncPreview.expires_at > now(),
    )
    return {row[0]: row[1] for row in db.session.execute(query.order_by(SyncPreview.created_at))}
