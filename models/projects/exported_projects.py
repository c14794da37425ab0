"""What an export of a user's data holds of their projects, and what the erasure of an account removes."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import db
from models.core.personal_export import add_csv, batches
from models.orgs import org_erased
from models.projects.project import Project
from models.projects.project_purge import forget_projects
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.stored_objects import Blob, Manifest, Pack, ProjectStorage, Tree


def _projects(user_id: str) -> Iterator[Mapping[str, Any]]:
    columns = Project.id, Project.name, Project.intent, Project.created_at, Project.updated_at
    query = select(*columns, Project.deleted_at).where(Project.account_id == user_id)
    return batches(query, Project.id)


def _snapshots(user_id: str) -> Iterator[Mapping[str, Any]]:
    columns = Snapshot.id, Snapshot.project_id, Snapshot.manifest_hash, Snapshot.source, Snapshot.message
    query = select(*columns, Snapshot.run_id, Snapshot.credits, Snapshot.created_at).where(
        Snapshot.project_id.in_(select(Project.id).where(Project.account_id == user_id))
    )
    return batches(query, Snapshot.project_id, Snapshot.id)


add_csv(
    "projects.csv",
    "Your projects. Those of organisations stay with them.",
    {
        "id": "its id",
        "name": "its name",
        "intent": "what it is for",
        "created_at": "when it was made",
        "updated_at": "when it changed last",
        "deleted_at": "when it was deleted",
    },
    _projects,
)
add_csv(
    "snapshots.csv",
    "Snapshots of your projects. Their files are at /v1/blobs/manifests/<manifest_hash>.",
    {
        "id": "its id",
        "project_id": "the project",
        "manifest_hash": "SHA-256 of the list of its files",
        "source": "what pushed it: cli, web, system or import",
        "message": "what was written about it",
        "run_id": "the agent's run that made it",
        "credits": "what of that run's cost it counts",
        "created_at": "when it was pushed",
    },
    _snapshots,
)


@account_erasing.connect
def _erase(user: User, *, now: datetime) -> None:
    forget_projects_of(user.id)


@org_erased.connect
def _erase_org(org_id: str) -> None:
    forget_projects_of(org_id)


def forget_projects_of(account_id: str) -> None:
    """The next collection of garbage removes the files of the packs."""
    forget_projects(db.session.scalars(select(Project.id).where(Project.account_id == account_id)).all())
    for table in (Blob, Pack, Tree, Manifest, ProjectStorage):
        db.session.execute(delete(table).where(table.account_id == account_id))
