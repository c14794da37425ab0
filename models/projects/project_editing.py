"""Making, renaming, deleting and restoring projects, their intent and brief, and figures about their snapshots (contract 3.1, 3.2)."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import func, select

from models.core.db import db, extension, now
from models.core.errors import Conflict, Invalid
from models.ledger import Account, lock_account
from models.orgs import record_org
from models.projects.activity_log import add_event, last_event
from models.projects.project import INTENTS, Project
from models.projects.project_access import ProjectCaller, check_project_role, own_project
from models.projects.snapshots.snapshot import Snapshot

MAX_NAME = 200
MAX_BRIEF = 64 << 10
"""Bytes of a brief as JSON."""


class SnapshotInsights(NamedTuple):
    """When the project was last merged and last deployed, and how many snapshots came after each; None without one."""

    last_merge_at: datetime | None
    snapshots_since_last_merge: int | None
    last_deploy_at: datetime | None = None
    snapshots_since_last_deploy: int | None = None


_last_deploys: list[Callable[[str], datetime | None]] = []


def register_last_deploy(function: Callable[[str], datetime | None]) -> None:
    """Let a later room say when a project was last deployed."""
    _last_deploys.append(function)


def create_project(caller: ProjectCaller, account: Account, name: str) -> Project:
    """Make a project in an account of the caller. Locks the account, flushes. Raises Invalid (422), Conflict (409) when the account has as
    many as it may, NotFound, Forbidden."""
    check_project_role(caller, account.id, "edit_projects")
    name = plain_text(name)
    lock_account(account)
    count = select(func.count()).where(Project.account_id == account.id, Project.deleted_at.is_(None))
    most = extension("settings").stoa_projects_per_account
    if (db.session.scalar(count) or 0) >= most:
        raise Conflict(f"This account may have {most:,} projects. Delete one first.", code="project_limit")
    moment = now()
    project = Project(
        account_id=account.id, created_by=caller.user_id, name=name, created_at=moment, updated_at=moment
    )
    db.session.add(project)
    db.session.flush()
    add_event(project.id, "project.created", "web", caller.user_id)
    _record(project, "project.created")
    return project


def projects_of(caller: ProjectCaller, account: Account, limit: int) -> Sequence[Project]:
    """The projects of an account, the last changed first. Raises NotFound, Forbidden."""
    check_project_role(caller, account.id, "see_projects")
    query = select(Project).where(Project.account_id == account.id, Project.deleted_at.is_(None))
    return db.session.scalars(query.order_by(Project.updated_at.desc(), Project.id.desc()).limit(limit)).all()


def rename_project(caller: ProjectCaller, id: str, name: str) -> Project:
    """Give a project another name. Raises Invalid (422), NotFound, Forbidden."""
    project = own_project(caller, id, "edit_projects", lock=True)
    project.name, project.updated_at = plain_text(name), now()
    db.session.flush()
    return project


def delete_project(caller: ProjectCaller, id: str) -> Project:
    """Take a project out of all lists. It can be restored until it is purged. Idempotent. Raises NotFound, Forbidden."""
    project = own_project(caller, id, "manage_projects", lock=True)
    project.deleted_at = now()
    db.session.flush()
    _record(project, "project.deleted")
    return project


def restore_project(caller: ProjectCaller, id: str) -> Project:
    """Take back a deletion. Idempotent. Raises NotFound, Forbidden."""
    project = own_project(caller, id, "manage_projects", lock=True, deleted=True)
    if project.deleted_at is not None:
        project.deleted_at, project.updated_at = None, now()
        db.session.flush()
        _record(project, "project.restored")
    return project


def set_brief(caller: ProjectCaller, id: str, intent: str, brief: dict[str, Any], size: int) -> Project:
    """Say what the project is for. `size` is that of the brief as JSON. Raises Invalid (422), NotFound, Forbidden."""
    project = own_project(caller, id, "edit_projects", lock=True)
    if intent not in INTENTS:
        raise Invalid(f"'intent' must be one of {', '.join(INTENTS)}.")
    if brief.get("intent") != intent:
        raise Invalid("'brief.intent' must be the same as 'intent'.")
    if size > MAX_BRIEF:
        raise Invalid(f"The brief is larger than {MAX_BRIEF >> 10} KiB. Shorten it.")
    project.intent, project.brief, project.updated_at = intent, brief, now()
    db.session.flush()
    return project


def insights(project: Project) -> SnapshotInsights:
    """Figures about the snapshots of a project."""
    merged = last_event(project.id, "merge.completed")
    at = merged.created_at if merged else None
    deployed = next(filter(None, (function(project.id) for function in _last_deploys)), None)
    return SnapshotInsights(at, _snapshots_since(project, at), deployed, _snapshots_since(project, deployed))


def _snapshots_since(project: Project, moment: datetime | None) -> int | None:
    if moment is None:
        return None
    later = select(func.count()).where(Snapshot.project_id == project.id, Snapshot.created_at > moment)
    return db.session.scalar(later) or 0


def due_projects(moment: datetime, days: int) -> Sequence[str]:
    """The ids of projects that were deleted so many days ago."""
    query = select(Project.id).where(Project.deleted_at < moment - timedelta(days=days)).limit(100)
    return db.session.scalars(query).all()


def plain_text(text: str, *, what: str = "name") -> str:
    """A name without spaces around it. Raises Invalid (422)."""
    text = text.strip()
    if not text or len(text) > MAX_NAME:
        raise Invalid(
            f"Enter a {what} of 1 to {MAX_NAME} characters.", fields={what: f"1 to {MAX_NAME} characters"}
        )
    return text


def _record(project: Project, action: str) -> None:
    if project.org_id is not None:
        record_org(project.org_id, action, project.id, after={"name": project.name})
