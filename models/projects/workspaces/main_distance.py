"""How far each workspace of a project is from its main one, in figures that a list can show: from the index of changes, no files are read."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import and_, func, select

from models.core.db import db
from models.projects.project import Project
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.stored_objects import Manifest
from models.projects.workspaces.overlap_index import BEHIND
from models.projects.workspaces.overlap_tables import ChangeIndex, WorkspaceChange
from models.projects.workspaces.workspace import Workspace

NO_FILES = ""


class MainDistance(NamedTuple):
    """`state` is `main` for the main workspace itself, `same` for one with the same files, `behind` for one that changed nothing while
    main moved, `changed`, `empty` for one without files, or `unknown` if files cannot be read. `changed` counts the files that the
    workspace changed since it left main, `contested` those of them that main changed otherwise."""

    state: str
    changed: int = 0
    contested: int = 0


def main_distances(project: Project) -> Mapping[str, MainDistance]:
    """The distance of each workspace, by id; those with files are `unknown` without a main workspace. One statement."""
    contested = (
        select(WorkspaceChange.workspace_id, func.count().label("number"))
        .where(WorkspaceChange.project_id == project.id, BEHIND)
        .group_by(WorkspaceChange.workspace_id)
        .subquery()
    )
    head = and_(Snapshot.project_id == Workspace.project_id, Snapshot.id == Workspace.current_snapshot_id)
    hash = func.coalesce(Workspace.current_manifest_hash, Snapshot.manifest_hash)
    stored = and_(Manifest.account_id == project.account_id, Manifest.hash == hash)
    query = (
        select(Workspace.id, hash.label("hash"), Manifest.tree_hash, ChangeIndex, contested.c.number)
        .outerjoin(Snapshot, head)
        .outerjoin(Manifest, stored)
        .outerjoin(ChangeIndex, ChangeIndex.workspace_id == Workspace.id)
        .outerjoin(contested, contested.c.workspace_id == Workspace.id)
        .where(Workspace.project_id == project.id, Workspace.deleted_at.is_(None))
    )
    rows = db.session.execute(query).all()
    main = next((row for row in rows if row.id == project.main_workspace_id), None)
    tree = None if main is None else main.tree_hash if main.hash else NO_FILES
    return {
        row.id: MainDistance("main")
        if row.id == project.main_workspace_id
        else _distance(row.hash, row.tree_hash, tree, row.ChangeIndex, row.number or 0)
        for row in rows
    }


def _distance(
    hash: str | None, own: str | None, main: str | None, index: ChangeIndex | None, contested: int
) -> MainDistance:
    if hash is None:
        return MainDistance("empty")
    if own is None or main is None or index is None or index.state == "unreadable":
        return MainDistance("unknown")
    if own == main:
        return MainDistance("same")
    return MainDistance("changed" if index.changed else "behind", index.changed, contested)
