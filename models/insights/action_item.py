"""The table of action items: what somebody should mend in a workspace, found by rules, sent by a client or written by hand
(fastest contract 3.13, 4.9)."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base
from models.projects.project import one_of
from models.projects.project_ids import new_id

STORED_TYPES = ("refactoring", "security", "test_coverage", "build_failure")
ITEM_TYPES = ("drift", *STORED_TYPES)
SEVERITIES = ("info", "warning", "critical")
ITEM_STATUSES = ("pending", "running", "ready", "applied", "dismissed", "resolved")
"""`resolved` [new]: an analysis no longer finds it."""
OPEN_STATUSES = ("pending", "running", "ready")
ITEM_SOURCES = ("analysis", "import", "manual")
MAX_TITLE, MAX_DESCRIPTION, MAX_PROMPT, MAX_REASON = 200, 4_000, 8_000, 500
MAX_FILES = 50


class ActionItem(Base):
    """Something to mend. `fingerprint` is what it is known by in its workspace: finding it again changes the row and makes no other.
    `rule` is what found it, as `ruff:S608`, and `analyser` who answers for it: a later analysis that no longer finds it resolves it.

    Life: `pending` → `running` → `ready` → `applied` by runs, a failure brings it back to `pending`; `dismissed` by a person is final;
    `resolved` begins anew when it is found again. Until `snoozed_until` lists leave it out. It is assigned to a person or to an agent of
    the store (`assigned_agent`), not both.
    """

    __tablename__ = "action_item"
    __table_args__ = (
        CheckConstraint(one_of("type", STORED_TYPES), name="type_known"),
        CheckConstraint(one_of("severity", SEVERITIES), name="severity_known"),
        CheckConstraint(one_of("status", ITEM_STATUSES), name="status_known"),
        CheckConstraint(one_of("source", ITEM_SOURCES), name="source_known"),
        CheckConstraint(
            f"((title <> ''::text) AND (length(title) <= {MAX_TITLE}))",
            name="title_length",
        ),
        CheckConstraint(
            "((fingerprint <> ''::text) AND (length(fingerprint) <= 200))", name="fingerprint_length"
        ),
        CheckConstraint("((assignee_id IS NULL) OR (assigned_agent IS NULL))", name="one_assignee"),
        CheckConstraint("((status = 'resolved'::text) = (resolved_at IS NOT NULL))", name="resolved_at_set"),
        CheckConstraint(
            "((status = 'dismissed'::text) OR (dismissed_reason IS NULL))", name="reason_of_dismissed"
        ),
        CheckConstraint("(jsonb_typeof(affected_files) = 'array'::text)", name="files_list"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="action_item_workspace_fk",
            ondelete="CASCADE",
        ),
        Index("idx_action_item_fingerprint", "workspace_id", "fingerprint", unique=True),
        Index("idx_action_item_project", "project_id", "status", "created_at", "id"),
        Index("idx_action_item_workspace", "workspace_id", "status"),
        Index("idx_action_item_assignee", "assignee_id"),
        Index(
            "idx_action_item_critical",
            "project_id",
            postgresql_where=text("((status = 'pending'::text) AND (severity = 'critical'::text))"),
        ),
        Index("idx_action_item_created_by", "created_by"),
        Index("idx_action_item_dismissed_by", "dismissed_by"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str]
    type: Mapped[str]
    severity: Mapped[str] = mapped_column(server_default=text("'info'::text"))
    title: Mapped[str]
    description: Mapped[str | None]
    affected_files: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    suggested_prompt: Mapped[str | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'::jsonb"))
    status: Mapped[str] = mapped_column(server_default=text("'pending'::text"))
    source: Mapped[str] = mapped_column(server_default=text("'analysis'::text"))
    analyser: Mapped[str]
    rule: Mapped[str]
    fingerprint: Mapped[str]
    assignee_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    assigned_agent: Mapped[str | None]
    snoozed_until: Mapped[datetime | None]
    dismissed_reason: Mapped[str | None]
    dismissed_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    resolved_at: Mapped[datetime | None]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
