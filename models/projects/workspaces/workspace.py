"""Tables of workspaces, and of the operations that moved their heads (fastest contract 3.5, 4.6)."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt
from models.projects.project import ACTORS, one_of
from models.projects.project_ids import new_id

OPERATIONS = (
    "snapshot",
    "manifest",
    "set_main",
    "restore",
    "undo",
    "sync",
    "land",
    "turn",
)


class Workspace(Base):
    """A working copy of a project. `base_snapshot_id` is where it was forked, `current_snapshot_id` its head, `current_manifest_hash` the
    state of its files, snapshot or not. Every move of one of the two raises `version` and writes a `WorkspaceOperation`."""

    __tablename__ = "workspace"
    __table_args__ = (
        CheckConstraint("((name <> ''::text) AND (length(name) <= 200))", name="name_length"),
        CheckConstraint("(version > 0)", name="version_positive"),
        *(
            ForeignKeyConstraint(
                ["project_id", f"{which}_snapshot_id"],
                ["snapshot.project_id", "snapshot.id"],
                name=f"workspace_{which}_snapshot_fk",
                ondelete="NO ACTION",
            )
            for which in ("base", "current")
        ),
        Index("idx_workspace_project_id", "project_id", "id", unique=True),
        Index("idx_workspace_list", "project_id", "created_at", "id"),
        Index(
            "idx_workspace_name",
            "project_id",
            text("lower(name)"),
            unique=True,
            postgresql_where=text("(deleted_at IS NULL)"),
        ),
        Index("idx_workspace_created_by", "created_by"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    name: Mapped[str]
    machine_id: Mapped[str | None]
    base_snapshot_id: Mapped[str | None]
    current_snapshot_id: Mapped[str | None]
    current_manifest_hash: Mapped[str | None]
    local_path: Mapped[str | None]
    last_seen_at: Mapped[datetime | None]
    merge_history: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]


class WorkspaceOperation(Base):
    """One move of a workspace's head or files, never changed: who did it, from where to where, and what it cost (credits).

    `version` is that of the workspace afterwards; null for `set_main`, which moves the project's pointer: its `detail` has both
    workspaces. `undoes` is the operation that an `undo` took back.
    """

    __tablename__ = "workspace_operation"
    __table_args__ = (
        CheckConstraint(one_of("kind", OPERATIONS), name="kind_known"),
        CheckConstraint(one_of("actor", ACTORS), name="actor_known"),
        CheckConstraint("((version IS NULL) = (kind = 'set_main'::text))", name="version_or_set_main"),
        CheckConstraint("((undoes IS NULL) OR (kind = 'undo'::text))", name="undo_undoes"),
        CheckConstraint("(cost >= 0)", name="cost_not_negative"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="workspace_operation_workspace_fk",
            ondelete="CASCADE",
        ),
        *(
            ForeignKeyConstraint(
                ["project_id", f"{which}_snapshot_id"],
                ["snapshot.project_id", "snapshot.id"],
                name=f"workspace_operation_{which}_snapshot_fk",
                ondelete="NO ACTION",
            )
            for which in ("before", "after")
        ),
        Index("idx_workspace_operation_version", "workspace_id", "version", unique=True),
        Index("idx_workspace_operation_project", "project_id", "created_at", "id"),
        Index("idx_workspace_operation_user", "user_id"),
        Index("idx_workspace_operation_undoes", "undoes"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str]
    version: Mapped[int | None]
    kind: Mapped[str]
    actor: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    before_snapshot_id: Mapped[str | None]
    before_manifest_hash: Mapped[str | None]
    after_snapshot_id: Mapped[str | None]
    after_manifest_hash: Mapped[str | None]
    undoes: Mapped[str | None] = mapped_column(ForeignKey("workspace_operation.id", ondelete="NO ACTION"))
    cause: Mapped[str | None]
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    cost: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
