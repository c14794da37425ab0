"""Reading the audit log: filtered pages, exports, and the end of entries whose retention has passed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.engine import Engine

from models.core.audit_log import AuditLog
from models.core.db import db

EXPORT_COLUMNS = (
    *("id", "at", "organisation", "actor", "actor_id", "action", "subject"),
    *("before", "after", "ip", "request_id"),
)
BATCH = 1_000
RECENT = 5_000
EXPIRED_AT_ONCE = 5_000


@dataclass(frozen=True)
class AuditFilter:
    """Which entries: of one organisation, or (None) of all. Empty texts match everything.

    `action` is a whole action ("member.added") or its noun ("member"); `actor` an e-mail address, name or user id;
    `since <= at < until`.
    """

    org_id: str | None
    actor: str = ""
    action: str = ""
    subject: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter in SQL."""
        found: list[ColumnElement[bool]] = []
        if self.org_id is not None:
            found.append(AuditLog.org_id == self.org_id)
        if self.actor:
            found.append(
                or_(func.lower(AuditLog.actor) == self.actor.lower(), AuditLog.actor_id == self.actor)
            )
        if self.action:
            found.append(
                or_(AuditLog.action == self.action, func.starts_with(AuditLog.action, f"{self.action}."))
            )
        if self.subject:
            found.append(AuditLog.subject == self.subject)
        if self.since:
            found.append(AuditLog.at >= self.since)
        if self.until:
            found.append(AuditLog.at < self.until)
        return found


def entries(filter: AuditFilter, *, before: int | None, limit: int) -> tuple[Sequence[AuditLog], int | None]:
    """At most `limit` entries with an id below `before`, newest first, and the `before` of the next page or None."""
    query = select(AuditLog).where(*filter.conditions()).order_by(AuditLog.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(AuditLog.id < before)
    rows = db.session.scalars(query).all()
    return rows[:limit], rows[limit - 1].id if len(rows) > limit else None


def actions(org_id: str) -> Sequence[str]:
    """The actions in the organisation's latest `RECENT` entries, by name."""
    latest = (
        select(AuditLog.action).where(AuditLog.org_id == org_id).order_by(AuditLog.id.desc()).limit(RECENT)
    )
    found = latest.subquery()
    return db.session.scalars(select(found.c.action).distinct().order_by(found.c.action)).all()


def exported_entries(filter: AuditFilter) -> Iterator[dict[str, Any]]:
    """All entries, newest first, as mappings of `EXPORT_COLUMNS`.

    Reads batches, each on a connection of its own that is returned before the batch is yielded: a slow client holds none,
    and memory stays constant. Needs the application context only when called.
    """
    return _batches(db.engine, filter)


def _batches(engine: Engine, filter: AuditFilter) -> Iterator[dict[str, Any]]:
    before: int | None = None
    while True:
        query = (
            select(AuditLog.__table__).where(*filter.conditions()).order_by(AuditLog.id.desc()).limit(BATCH)
        )
        with engine.connect() as connection:
            rows = connection.execute(query if before is None else query.where(AuditLog.id < before)).all()
        for row in rows:
            yield {**row._mapping, "organisation": row.org_id}
        if len(rows) < BATCH:
            return
        before = rows[-1].id


def changes(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """What differs between two states: (name, old, new), by name; None for what was not there. States that are no
    mappings are compared as a whole, with an empty name."""
    if not isinstance(before or {}, Mapping) or not isinstance(after or {}, Mapping):
        return [("", before, after)] if before != after else []
    old, new = before or {}, after or {}
    names = [*old, *(name for name in new if name not in old)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def expire(org_id: str, days: int, now: datetime) -> int:
    """Remove up to `EXPIRED_AT_ONCE` entries of the organisation that are older than its retention of `days`; returns how
    many. The trigger of the table checks every one of them against the stored retention. Flushes."""
    old = (
        select(AuditLog.id)
        .where(AuditLog.org_id == org_id, AuditLog.at < now - timedelta(days=days))
        .order_by(AuditLog.id)
        .limit(EXPIRED_AT_ONCE)
    )
    removed = delete(AuditLog).where(AuditLog.id.in_(old.scalar_subquery())).returning(AuditLog.id)
    return len(db.session.scalars(removed.execution_options(synchronize_session=False)).all())
