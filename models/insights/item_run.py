"""The table of runs that mend action items: attempts in a scratch copy of a workspace, their checks, and the patch that results
(fastest contract 3.13, 4.9)."""

from collections.abc import Mapping
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

RUN_STATUSES = ("queued", "running", "paused", "ready", "failed", "applied")
ACTIVE_RUNS = ("queued", "running", "paused")
_ACTIVE = "(status = ANY (ARRAY['queued'::text, 'running'::text, 'paused'::text]))"
MAX_ATTEMPTS = 3
MAX_REPORT, MAX_SUMMARY, SUMMARY_LINES = 20_000, 800, 3
ATTEMPT: Mapping[str, Any] = {
    "kind": "agent",
    "number": 1,
    "state": "working",
    "turn_id": None,
    "base_manifest_hash": None,
    "manifest_hash": None,
    "checks": [],
    "hosts": [],
    "tests_touched": [],
    "outside": [],
    "problem": "",
    "report": "",
    "credits": 0,
    "restarts": 0,
}
"""What an attempt has. `kind`: what an `agent` did, or a `rebase`, a merge with newer files that is checked again. Each of its `checks` names the
`tree_hash` that it ran on; `hosts` are those that an install asked for; `outside` are changed files that the item does not name."""


class ActionItemRun(Base):
    """A run. It works on the files `base_manifest_hash` of its workspace, which do not move; `result_manifest_hash` are the files after the
    attempt that is kept: of a ready or applied run what is applied, of a failed one what the last attempt left.

    `status`: `queued` → `running` → `ready` or `failed`; `ready` → `applied`. Without credits `running` → `paused`, until somebody lets it go on;
    `error` says why. A rebase brings a `ready` one back to `running`, on a new base. `verified` says of a ready or applied one whether checks
    proved it: if not, `doubts` says why. `attempts` are objects as `ATTEMPT`, oldest first; their `state` is `working`, `checking`, `passed`,
    `failed` or `lost`. `checks` are those of the last attempt. `turn_id` is the turn that drives it, `conversation_id` the one that its agent
    works in. `budget` is the most that all attempts may spend together and `credits` what they spent, in credits. `ours`: it failed on our
    side, so `returned` credits are given back, None until that is done.
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
        CheckConstraint(
            "((status = ANY (ARRAY['paused'::text, 'failed'::text])) = (error IS NOT NULL))",
            name="failed_says_why",
        ),
        CheckConstraint(f"({_ACTIVE} = (completed_at IS NULL))", name="completed_at_set"),
        CheckConstraint("((NOT ours) OR (status = 'failed'::text))", name="ours_failed"),
        CheckConstraint("((returned IS NULL) OR (ours AND (returned >= 0)))", name="returned_of_ours"),
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
            postgresql_where=text(_ACTIVE),
        ),
        Index(
            "idx_action_item_run_owed",
            "completed_at",
            postgresql_where=text("(ours AND (returned IS NULL))"),
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
    ours: Mapped[bool] = mapped_column(server_default=text("false"))
    returned: Mapped[int | None] = mapped_column(BigInt)
    operation_id: Mapped[str | None] = mapped_column(
        ForeignKey("workspace_operation.id", ondelete="SET NULL")
    )
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)

    @property
    def active(self) -> bool:
        """Whether it waits, works or is paused."""
        return self.status in ACTIVE_RUNS


name_manifests(ActionItemRun, ActionItemRun.base_manifest_hash)
name_manifests(ActionItemRun, ActionItemRun.result_manifest_hash)
