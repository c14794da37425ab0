"""Operator data: the audit log and evaluation results."""

from datetime import datetime
from typing import Any

from sqlalchemy import Identity, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, BigInt, db


class AuditLog(Base):
    """One audited action, with the state before and after. The database rejects UPDATE and DELETE."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("idx_audit_log_actor", "actor_id", "id"),
        Index("idx_audit_log_subject", "subject", "id"),
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
        )
    )


class GitEvalResults(Base):
    """The result of one evaluation over a set of commits."""

    __tablename__ = "git_eval_results"

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    cost_mode: Mapped[str | None]
    reasoner_model: Mapped[str | None]
    agent_model: Mapped[str | None]
    # `metadata` is reserved by SQLAlchemy's declarative base.
    details: Mapped[Any] = mapped_column("metadata", JSONB(none_as_null=True), nullable=True)
    cost: Mapped[int] = mapped_column(server_default=text("0"))
    is_public: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
