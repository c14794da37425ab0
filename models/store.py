"""The agent store: publishers and the versions of the agents they publish."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.db import NOW, Base


class Publisher(Base):
    """Who publishes agents: a user or an organisation, exactly one of them."""

    __tablename__ = "publisher"
    __table_args__ = (
        CheckConstraint(
            "(((user_id IS NOT NULL) AND (org_id IS NULL)) OR ((user_id IS NULL) AND (org_id IS NOT NULL)))",
            name="single_owner",
        ),
        Index("idx_publisher_user", "user_id"),
        Index("idx_publisher_org", "org_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str | None]
    verified: Mapped[bool] = mapped_column(server_default=text("false"))
    bio: Mapped[str | None]
    avatar_url: Mapped[str | None]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    org_id: Mapped[str | None] = mapped_column(ForeignKey("org.id", ondelete="NO ACTION"))
    created_by: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())


class AgentConfig(Base):
    """One published version of an agent. `major`, `minor`, `patch` come from `version` (contract C.1)."""

    __tablename__ = "agent_config"
    __table_args__ = (Index("idx_agent_config_publisher", "publisher_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    publisher_id: Mapped[str] = mapped_column(
        ForeignKey("publisher.id", ondelete="NO ACTION"), primary_key=True
    )
    major: Mapped[int | None] = mapped_column(
        Computed("(split_part(version, '.'::text, 1))::integer", persisted=True)
    )
    minor: Mapped[int | None] = mapped_column(
        Computed("(split_part(version, '.'::text, 2))::integer", persisted=True)
    )
    patch: Mapped[int | None] = mapped_column(
        Computed("(split_part(version, '.'::text, 3))::integer", persisted=True)
    )
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())
