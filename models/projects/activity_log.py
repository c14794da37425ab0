"""What happened in a project: events, newest first (fastest contract 3.11)."""

from collections.abc import Sequence

from sqlalchemy import select

from models.core.db import db, now
from models.projects.project import ActivityEvent


def add_event(
    project_id: str,
    type: str,
    actor: str,
    user_id: str | None,
    *,
    workspace_id: str | None = None,
    snapshot_id: str | None = None,
    message: str | None = None,
) -> None:
    """Record an event in the current transaction."""
    db.session.add(
        ActivityEvent(
            project_id=project_id,
            type=type,
            actor=actor,
            user_id=user_id,
            workspace_id=workspace_id,
            snapshot_id=snapshot_id,
            message=message,
            created_at=now(),
        )
    )


def events_of(project_id: str, limit: int) -> Sequence[ActivityEvent]:
    """The newest events of a project."""
    query = select(ActivityEvent).where(ActivityEvent.project_id == project_id)
    newest = query.order_by(ActivityEvent.created_at.desc(), ActivityEvent.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def last_event(project_id: str, type: str | None = None) -> ActivityEvent | None:
    """The newest event of a project, or of a type."""
    query = select(ActivityEvent).where(ActivityEvent.project_id == project_id)
    if type is not None:
        query = query.where(ActivityEvent.type == type)
    newest = query.order_by(ActivityEvent.created_at.desc(), ActivityEvent.id.desc())
    return db.session.scalars(newest.limit(1)).one_or_none()
