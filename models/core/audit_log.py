"""The audit log: who did what, when, from where. The database refuses UPDATE and DELETE."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import Identity, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt, db, extension


class AuditLog(Base):
    """One audited action, with the state before and after. `org_id` is the organisation it happened in: no foreign key, the
    entry outlives it."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("idx_audit_log_actor", "actor_id", "id"),
        Index("idx_audit_log_subject", "subject", "id"),
        Index("idx_audit_log_org", "org_id", "id", postgresql_where=text("org_id IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    actor_id: Mapped[str | None]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    before: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    after: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    ip: Mapped[str | None]
    request_id: Mapped[str | None]
    org_id: Mapped[str | None]


class AuditActor(NamedTuple):
    """Who acts: an e-mail address or name, the user's id, the address and id of the request."""

    name: str
    id: str | None = None
    ip: str | None = None
    request_id: str | None = None


SYSTEM = AuditActor("system")
"""Jobs."""


def current_actor() -> AuditActor:
    """Who acts in the current request, as the doors determine it (`app.extensions["audit_actor"]`); else the system."""
    determine = cast(Callable[[], AuditActor], extension("audit_actor"))
    return determine()


def record(
    action: str,
    subject: str,
    *,
    actor: str,
    actor_id: str | None = None,
    before: Any = None,
    after: Any = None,
    ip: str | None = None,
    request_id: str | None = None,
    org_id: str | None = None,
) -> None:
    """Add an audit log entry to the current transaction. Never pass secrets."""
    db.session.add(
        AuditLog(
            actor_id=actor_id,
            actor=actor,
            action=action,
            subject=subject,
            before=before,
            after=after,
            ip=ip,
            request_id=request_id,
            org_id=org_id,
        )
    )
