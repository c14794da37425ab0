"""What the pages of projects list: projects with their counts, snapshots, events, and who and what their ids name."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from models.accounts.users import User
from models.core.db import db
from models.core.errors import NotFound
from models.ledger import Account
from models.projects.project import ActivityEvent, Project
from models.projects.project_access import ProjectCaller, check_project_role
from models.projects.project_ids import fits
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.stored_objects import among
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

MAX_SEARCH = 200
Before = tuple[datetime, str] | None
"""The time and id of the last row of the page before; None for the first page."""


class ListedProject(NamedTuple):
    """A project, how many workspaces it has, and the name of who made it; None for a former user."""

    project: Project
    workspaces: int
    maker: str | None


def projects_page(
    caller: ProjectCaller,
    account: Account,
    limit: int,
    *,
    words: str = "",
    only_deleted: bool = False,
    before: Before = None,
) -> list[ListedProject]:
    """The projects of an account whose name has the words, the last changed first; deleted ones the last deleted first. Raises NotFound,
    Forbidden."""
    check_project_role(caller, account.id, "see_projects")
    time: InstrumentedAttribute[Any] = Project.deleted_at if only_deleted else Project.updated_at
    query = select(Project).where(Project.account_id == account.id)
    query = query.where(Project.deleted_at.is_not(None) if only_deleted else Project.deleted_at.is_(None))
    if words:
        query = query.where(Project.name.icontains(words[:MAX_SEARCH], autoescape=True))
    if before is not None:
        query = query.where(tuple_(time, Project.id) < tuple_(*before))
    rows = db.session.scalars(query.order_by(time.desc(), Project.id.desc()).limit(limit)).all()
    counts = _workspace_counts([row.id for row in rows])
    names = people_of(row.created_by for row in rows)
    return [ListedProject(row, counts.get(row.id, 0), names.get(row.created_by or "")) for row in rows]


def snapshots_page(project_id: str, limit: int, before: Before = None) -> Sequence[Snapshot]:
    """The snapshots of a project, newest first, before the one with this time and id."""
    query = select(Snapshot).where(Snapshot.project_id == project_id)
    if before is not None:
        query = query.where(tuple_(Snapshot.created_at, Snapshot.id) < tuple_(*before))
    newest = query.order_by(Snapshot.created_at.desc(), Snapshot.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def events_page(project_id: str, limit: int, before: Before = None) -> Sequence[ActivityEvent]:
    """The events of a project, newest first, before the one with this time and id."""
    query = select(ActivityEvent).where(ActivityEvent.project_id == project_id)
    if before is not None:
        query = query.where(tuple_(ActivityEvent.created_at, ActivityEvent.id) < tuple_(*before))
    newest = query.order_by(ActivityEvent.created_at.desc(), ActivityEvent.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def snapshot_count(project_id: str) -> int:
    """How many snapshots a project has."""
    return db.session.scalar(select(func.count()).where(Snapshot.project_id == project_id)) or 0


def snapshots_named(project_id: str, ids: Iterable[str | None]) -> Mapping[str, Snapshot]:
    """Those of these snapshots that the project has, by id."""
    query = select(Snapshot).where(
        Snapshot.project_id == project_id, among(Snapshot.id, set(filter(None, ids)))
    )
    return {each.id: each for each in db.session.scalars(query)}


def workspaces_named(project_id: str, ids: Iterable[str | None]) -> Mapping[str, Workspace]:
    """Those of these workspaces that the project has or had, by id; deleted ones too."""
    query = select(Workspace).where(
        Workspace.project_id == project_id, among(Workspace.id, set(filter(None, ids)))
    )
    return {each.id: each for each in db.session.scalars(query)}


def main_first(project: Project, workspaces: Iterable[Workspace]) -> list[Workspace]:
    """The main workspace, then the others, those first that were seen last."""
    seen = sorted(workspaces, key=lambda each: each.last_seen_at or each.created_at, reverse=True)
    return sorted(seen, key=lambda each: each.id != project.main_workspace_id)


def undone_among(project_id: str, ids: Iterable[str]) -> frozenset[str]:
    """Those of these operations that a later one took back."""
    query = select(WorkspaceOperation.undoes).where(
        WorkspaceOperation.project_id == project_id, WorkspaceOperation.undoes.in_(set(ids))
    )
    return frozenset(filter(None, db.session.scalars(query)))


def people_of(ids: Iterable[str | None]) -> Mapping[str, str]:
    """The names of these users, by id."""
    wanted = set(filter(None, ids))
    if not wanted:
        return {}
    query = select(User.id, User.display_name).where(User.id.in_(wanted))
    return {row[0]: row[1] for row in db.session.execute(query)}


def operation_in(project: Project, id: str) -> WorkspaceOperation:
    """An operation of the project. Raises NotFound."""
    found = db.session.get(WorkspaceOperation, id) if fits(id) else None
    if found is None or found.project_id != project.id:
        raise NotFound("The project has no such operation.")
    return found


def _workspace_counts(project_ids: Sequence[str]) -> dict[str, int]:
    query = select(Workspace.project_id, func.count()).where(
        Workspace.project_id.in_(project_ids), Workspace.deleted_at.is_(None)
    )
    return {row[0]: row[1] for row in db.session.execute(query.group_by(Workspace.project_id))}
