"""Tables of projects and of what happened in them (fastest contract 3.1, 3.11)."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base
from models.projects.project_ids import new_id

INTENTS = (
    "startup",
    "personal_tool",
    "learning",
    "fun",
    "portfolio",
    "creative",
    "exploration",
    "open_source",
)
ACTORS = ("cli", "web", "system")
MAX_CHECK_HOSTS = 20


def one_of(column: str, words: tuple[str, ...]) -> str:
    """The condition that a column is one of these words, as PostgreSQL prints it."""
    listed = ", ".join(f"'{word}'::text" for word in words)
    return f"({column} = ANY (ARRAY[{listed}]))"


class Project(Base):
    """A code base of a person's or an organisation's account. `last_snapshot_id` is the newest snapshot pushed, `main_workspace_id` the
    workspace that others are compared with. `check_hosts` are those that checks may fetch packages from (`models/runners/check_hosts.py`). A deleted
    project can be restored until it is purged."""

    __tablename__ = "project"
    __table_args__ = (
        CheckConstraint("((name <> ''::text) AND (length(name) <= 200))", name="name_length"),
        CheckConstraint(f"((intent IS NULL) OR {one_of('intent', INTENTS)})", name="intent_known"),
        CheckConstraint("((brief IS NULL) OR (jsonb_typeof(brief) = 'object'::text))", name="brief_object"),
        CheckConstraint(f"(cardinality(check_hosts) <= {MAX_CHECK_HOSTS})", name="check_hosts_few"),
        # between tables that name each other
        ForeignKeyConstraint(
            ["id", "last_snapshot_id"],
            ["snapshot.project_id", "snapshot.id"],
            name="project_last_snapshot_fk",
            ondelete="NO ACTION",
            use_alter=True,
        ),
        ForeignKeyConstraint(
            ["id", "main_workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="project_main_workspace_fk",
            ondelete="NO ACTION",
            use_alter=True,
        ),
        Index("idx_project_list", "account_id", "updated_at", "id"),
        Index("idx_project_created_by", "created_by"),
        Index("idx_project_deleted", "deleted_at", postgresql_where=text("(deleted_at IS NOT NULL)")),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_account.id", ondelete="CASCADE"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    name: Mapped[str]
    intent: Mapped[str | None]
    brief: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    check_hosts: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    last_snapshot_id: Mapped[str | None]
    main_workspace_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]

    @property
    def org_id(self) -> str | None:
        """The organisation that owns it; None for a person's own."""
        return None if self.account_id == self.created_by else self.account_id


class ActivityEvent(Base):
    """Something that happened in a project. `actor` is the kind of client; `user_id` the person behind it."""

    __tablename__ = "activity_event"
    __table_args__ = (
        CheckConstraint(one_of("actor", ACTORS), name="actor_known"),
        Index("idx_activity_event_project", "project_id", "created_at", "id"),
        Index("idx_activity_event_user", "user_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str | None]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    actor: Mapped[str]
    type: Mapped[str]
    snapshot_id: Mapped[str | None]
    message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
