"""The table of runs that mend action items: attempts in a scratch copy of a workspace, their checks, and the patch that results
(fastest contract 3.13, 4.9)."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt
from models.projects.project import one_of
from models.projects.snapshots.blob_garbage import name_manifests
from models.runners.workplace import LEVELS

RUN_STATUSES = ("queued", "running", "ready", "failed", "applied")
ACTIVE_RUNS = ("queued", "running")
MAX_ATTEMPTS = 3
MAX_REPORT, MAX_SUMMARY, SUMMARY_LINES = 20_000, 800, 3


class ActionItemRun(Base):
    """A run. It works on the files `base_manifest_hash` of its workspace, which do not move; `result_manifest_hash` are the files after the
    attempt that is kept: of a ready or applied run what is applied, of a failed one what the last attempt left.

    `status`: `queued` → `running` → `ready` or `failed`; `ready` → `applied`. `verified` says of a ready or applied one whether checks
    proved it: if not, `doubts` says why. `attempts` are objects, oldest first: `number`, `state` (`working`, `checking`, `passed`, `failed`,
    `lost`), `turn_id`, `manifest_hash`, `checks`, `tests_touched`, `problem`, `report`, `restarts`. `checks` are those of the last attempt.
    `turn_id` is the turn that drives it, `conversation_id` the one that its agent works in. `budget` is the most that all attempts may spend
    together and `credits` what they spent, in credits.
    """

    __tablename__ = "action_item_run"
    __table_args__ = (
        CheckConstraint(one_of("status", RUN_STATUSES), name="status_known"),
        CheckConstraint(one_of("level", LEVELS), name="level_known"),
        CheckConstraint(
            f"((max_attempts >= 1) AND (max_attempts <= {MAX_ATTEMPTS}) AND (attempt_count >= 0) AND (attempt_count <= max_attempts))",
            name="attempts_range",
        ),
        CheckConstraint("((budget > 0) AND (credits >= 0))", name="credits_range"),
        CheckConstraint("(jsonb_typeof(attempts) = 'array'::text)", name="attempts_list"),
        CheckConstraint(
            "((status = ANY (ARRAY['ready'::text, 'applied'::text])) = (verified IS NOT NULL))",
            name="verified_when_ready",
        ),
        CheckConstraint(
            "((verified IS NULL) OR (result_manifest_hash IS NOT NULL))", name="ready_has_result"
        ),
        CheckConstraint("((status = 'failed'::text) = (error IS NOT NULL))", name="failed_says_why"),
        CheckConstraint(
            "((status = ANY (ARRAY['queued'::text, 'running'::text])) = (completed_at IS NULL))",
            name="completed_at_set",
        ),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="action_item_run_workspace_fk",
            ondelete="CASCADE",
        ),
        Index(
            "idx_action_item_run_one_active",
            "action_item_id",
            unique=True,
            postgresql_where=text("(status = ANY (ARRAY['queued'::text, 'running'::text]))"),
        ),
        Index("idx_action_item_run_item", "action_item_id", "created_at", "id"),
        Index("idx_action_item_run_project", "project_id", "status", "created_at"),
        Index("idx_action_item_run_workspace", "workspace_id", "created_at"),
        Index("idx_action_item_run_user", "user_id"),
        Index("idx_action_item_run_turn", "turn_id"),
        Index("idx_action_item_run_operation", "operation_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=text("(gen_random_uuid())::text"))
    action_item_id: Mapped[str] = mapped_column(ForeignKey("action_item.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    status: Mapped[str] = mapped_column(server_default=text("'queued'::text"))
    level: Mapped[str]
    model: Mapped[str | None]
    allow_test_changes: Mapped[bool] = mapped_column(server_default=text("false"))
    max_attempts: Mapped[int] = mapped_column(server_default=text("3"))
    attempt_count: Mapped[int] = mapped_column(server_default=text("0"))
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    base_snapshot_id: Mapped[str | None]
    base_manifest_hash: Mapped[str]
    result_manifest_hash: Mapped[str | None]
    verified: Mapped[bool | None]
    doubts: Mapped[str | None]
    tests_touched: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    checks: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB(none_as_null=True))
    summary: Mapped[str | None]
    report: Mapped[str | None]
    error_code: Mapped[str | None]
    error: Mapped[str | None]
    conversation_id: Mapped[str | None]
    turn_id: Mapped[str | None] = mapped_column(ForeignKey("turn.id", ondelete="SET NULL"))
    budget: Mapped[int] = mapped_column(BigInt)
    credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    operation_id: Mapped[str | None] = mapped_column(
        ForeignKey("workspace_operation.id", ondelete="SET NULL")
    )
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)

    @property
    def active(self) -> bool:
        """Whether it waits or works."""
        return self.status in ACTIVE_RUNS


name_manifests(ActionItemRun, ActionItemRun.base_manifest_hash)
name_manifests(ActionItemRun, ActionItemRun.result_manifest_hash)
