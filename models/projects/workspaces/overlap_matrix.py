"""Overlaps as a matrix of workspaces, and the paths of a part of it."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from models.core.db import db
from models.projects.project import Project
from models.projects.snapshots.stored_objects import among
from models.projects.workspaces.overlap_board import MAX_PATHS, contested_paths
from models.projects.workspaces.overlap_index import BEHIND
from models.projects.workspaces.overlap_tables import WorkspaceChange
from models.projects.workspaces.workspace import Workspace

MAX_WORKSPACES = 24
"""Workspaces of a matrix; each pair is compared."""


class OverlapMatrix(NamedTuple):
    """The workspaces with overlaps, those with the most first, and for each pair how many files they changed in different ways. `main`
    counts by workspace the files that the main one changed too. `more`: there are other workspaces with overlaps."""

    workspaces: list[Workspace]
    pairs: dict[frozenset[str], int]
    main: dict[str, int]
    more: bool

    def both(self, one: str, other: str) -> int:
        """How many files these two workspaces changed in different ways."""
        return self.pairs.get(frozenset((one, other)), 0)


def overlap_matrix(project: Project) -> OverlapMatrix:
    """The matrix of a project."""
    contested = contested_paths(project.id).subquery()
    involved = (
        select(WorkspaceChange.workspace_id)
        .join(contested, contested.c.path_key == WorkspaceChange.path_key)
        .where(WorkspaceChange.project_id == project.id)
        .group_by(WorkspaceChange.workspace_id)
        .order_by(func.count().desc(), WorkspaceChange.workspace_id)
    )
    ids = list(db.session.scalars(involved.limit(MAX_WORKSPACES + 1)))
    shown = ids[:MAX_WORKSPACES]
    named = select(Workspace).where(among(Workspace.id, shown), Workspace.deleted_at.is_(None))
    rows = {each.id: each for each in db.session.scalars(named)}
    workspaces = [rows[id] for id in shown if id in rows]
    return OverlapMatrix(
        workspaces, _pairs(project.id, shown), _behind(project.id, shown), len(ids) > len(shown)
    )


def overlapping_paths(
    project: Project, *, words: str = "", between: Sequence[str] = (), main: bool = False
) -> tuple[list[str], bool]:
    """The paths with overlaps, those of the most workspaces first, and whether there are more than `MAX_PATHS`. `words` are a part of the
    path, `between` the workspaces that both changed it; `main`: the main one too."""
    query = contested_paths(project.id, between, main)
    if words:
        query = query.where(WorkspaceChange.path.icontains(words, autoescape=True))
    path = func.min(WorkspaceChange.path)
    most = query.with_only_columns(path).order_by(func.count().desc(), path).limit(MAX_PATHS + 1)
    found = list(db.session.scalars(most))
    return found[:MAX_PATHS], len(found) > MAX_PATHS


def _pairs(project_id: str, ids: Sequence[str]) -> dict[frozenset[str], int]:
    one, other = aliased(WorkspaceChange), aliased(WorkspaceChange)
    query = (
        select(one.workspace_id, other.workspace_id, func.count())
        .join(other, (other.project_id == one.project_id) & (other.path_key == one.path_key))
        .where(one.project_id == project_id, one.workspace_id < other.workspace_id)
        .where(among(one.workspace_id, ids), among(other.workspace_id, ids))
        .where(one.own.is_distinct_from(other.own))
        .group_by(one.workspace_id, other.workspace_id)
    )
    return {frozenset(row[:2]): row[2] for row in db.session.execute(query)}


def _behind(project_id: str, ids: Sequence[str]) -> dict[str, int]:
    query = select(WorkspaceChange.workspace_id, func.count()).where(
        WorkspaceChange.project_id == project_id, among(WorkspaceChange.workspace_id, ids), BEHIND
    )
    return {row[0]: row[1] for row in db.session.execute(query.group_by(WorkspaceChange.workspace_id))}
