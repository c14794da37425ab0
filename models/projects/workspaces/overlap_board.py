"""Reads the index of changed paths: which files several workspaces changed in different ways, and who changed these files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Select, func, or_, select

from models.core.db import db
from models.projects.project import Project
from models.projects.snapshots.stored_objects import among, among_hashes
from models.projects.workspaces.overlap_index import BEHIND, path_key
from models.projects.workspaces.overlap_tables import ChangeIndex, WorkspaceChange
from models.projects.workspaces.workspace import Workspace

MAX_PATHS = 100
"""Paths that a board has, and that may be asked for at once."""


@dataclass(frozen=True, slots=True)
class IndexedWorkspace:
    """A workspace and what the index knows of it: `state` as of `ChangeIndex`, and the number of files that it changed."""

    workspace: Workspace
    state: str
    changed: int


@dataclass(frozen=True, slots=True)
class PathChange:
    """What a workspace did to a file: `added`, `modified` or `deleted`; the content that it has now."""

    workspace: Workspace
    change: str
    content: str | None


@dataclass(slots=True)
class PathOverlap:
    """A file and who changed it. `main_changed`: the main workspace too since one of these left it; `differs`: not all in the same way."""

    path: str
    changes: list[PathChange] = field(default_factory=list)
    main_changed: bool = False
    differs: bool = False


@dataclass(frozen=True, slots=True)
class OverlapBoard:
    """The overlaps of a project, those of the most workspaces first; `more`: there are others."""

    paths: list[PathOverlap]
    workspaces: list[IndexedWorkspace]
    more: bool


def overlap_board(project: Project, asked: Sequence[str] | None = None) -> OverlapBoard:
    """The files that workspaces changed in different ways; with `asked` (at most `MAX_PATHS`) who changed these, also a single one."""
    if asked is None:
        keys = _most_contested(project.id)
        more = len(keys) > MAX_PATHS
        keys = keys[:MAX_PATHS]
    else:
        keys, more = list(dict.fromkeys(path_key(path) for path in asked)), False
    indexed = _indexed(project)
    found = _overlaps(project.id, keys, {each.workspace.id: each.workspace for each in indexed})
    return OverlapBoard([found[key] for key in keys if key in found], indexed, more)


def contested_paths(project_id: str, between: Sequence[str] = (), main: bool = False) -> Select[str]:
    """The keys of the paths with overlaps, of all or between these workspaces."""
    versions = func.count(func.coalesce(WorkspaceChange.own, "").distinct())
    overlap: ColumnElement[bool] = func.bool_or(BEHIND) if main else versions > 1
    if not between:
        overlap = or_(versions > 1, func.bool_or(BEHIND))
    query = select(WorkspaceChange.path_key).where(WorkspaceChange.project_id == project_id)
    if between:
        query = query.where(among(WorkspaceChange.workspace_id, between))
    return query.group_by(WorkspaceChange.path_key).having(overlap)


def _most_contested(project_id: str) -> list[str]:
    """The keys of the paths that most workspaces changed, and one more than fit."""
    most = contested_paths(project_id).order_by(func.count().desc(), func.min(WorkspaceChange.path))
    return list(db.session.scalars(most.limit(MAX_PATHS + 1)))


def _indexed(project: Project) -> list[IndexedWorkspace]:
    query = (
        select(Workspace, ChangeIndex.state, ChangeIndex.changed)
        .outerjoin(ChangeIndex, ChangeIndex.workspace_id == Workspace.id)
        .where(Workspace.project_id == project.id, Workspace.deleted_at.is_(None))
        .order_by(Workspace.created_at, Workspace.id)
    )
    return [
        IndexedWorkspace(workspace, state or "complete", changed or 0)
        for workspace, state, changed in db.session.execute(query)
        if workspace.id != project.main_workspace_id
    ]


def _overlaps(
    project_id: str, keys: Iterable[str], workspaces: dict[str, Workspace]
) -> dict[str, PathOverlap]:
    names = ("workspace_id", "path_key", "path", "base", "own", "main")
    query = select(*(getattr(WorkspaceChange, name) for name in names)).where(
        WorkspaceChange.project_id == project_id, among_hashes(WorkspaceChange.path_key, keys)
    )
    found: dict[str, PathOverlap] = {}
    for row in db.session.execute(query.order_by(WorkspaceChange.path_key, WorkspaceChange.workspace_id)):
        if row.workspace_id not in workspaces:
            continue
        at = found.setdefault(row.path_key, PathOverlap(row.path))
        change = "deleted" if row.own is None else "added" if row.base is None else "modified"
        behind = row.main not in (row.base, row.own)
        at.main_changed = at.main_changed or row.main != row.base
        at.differs = at.differs or behind or any(each.content != row.own for each in at.changes[:1])
        at.changes.append(PathChange(workspaces[row.workspace_id], change, row.own))
    return found
