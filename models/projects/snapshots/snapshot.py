"""Tables of snapshots and their parents: the history of a project (fastest contract 3.6, 4.1)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt
from models.projects.project import one_of

SOURCES = ("cli", "web", "system", "import")


class Snapshot(Base):
    """The whole file tree of a project at one time; never changed. The id may be the client's, unique in its project.

    `generation` is 1 for a root, else one more than the greatest of its parents. `client_created_at` is the time that the client put
    into an id that it computed, to the second; `verified` whether the id is the hash of what the row says (contract 4.2).
    `run_id` is the agent's run that made it, `credits` what that cost (`snapshot_run_costs.py`).
    """

    __tablename__ = "snapshot"
    __table_args__ = (
        CheckConstraint("((id <> ''::text) AND (length(id) <= 128))", name="id_length"),
        CheckConstraint(one_of("source", SOURCES), name="source_known"),
        CheckConstraint("(generation > 0)", name="generation_positive"),
        CheckConstraint("(credits >= 0)", name="credits_not_negative"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="snapshot_workspace_fk",
            ondelete="NO ACTION",
            use_alter=True,
        ),
        Index("idx_snapshot_project", "project_id", "created_at", "id"),
        Index("idx_snapshot_workspace", "workspace_id", "created_at"),
        Index("idx_snapshot_id", "id"),
        Index("idx_snapshot_created_by", "created_by"),
        Index("idx_snapshot_run", "run_id", "created_at", postgresql_where=text("(run_id IS NOT NULL)")),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[str | None]
    manifest_hash: Mapped[str]
    generation: Mapped[int]
    source: Mapped[str]
    summary: Mapped[str | None]
    message: Mapped[str | None]
    agent: Mapped[str | None]
    author_name: Mapped[str | None]
    author_email: Mapped[str | None]
    client_created_at: Mapped[datetime | None]
    verified: Mapped[bool]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("agent_run.id", ondelete="SET NULL"))
    credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class SnapshotParent(Base):
    """An edge of the history. The parent with `ord` 0 is the mainline."""

    __tablename__ = "snapshot_parent"
    __table_args__ = (
        CheckConstraint("(ord >= 0)", name="ord_not_negative"),
        CheckConstraint("(parent_id <> child_id)", name="not_its_own"),
        ForeignKeyConstraint(
            ["project_id", "child_id"],
            ["snapshot.project_id", "snapshot.id"],
            name="snapshot_parent_child_fk",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["project_id", "parent_id"],
            ["snapshot.project_id", "snapshot.id"],
            name="snapshot_parent_parent_fk",
            ondelete="NO ACTION",
        ),
        Index("idx_snapshot_parent_unique", "project_id", "child_id", "parent_id", unique=True),
        Index("idx_snapshot_parent_parent", "project_id", "parent_id"),
    )

    project_id: Mapped[str] = mapped_column(primary_key=True)
    child_id: Mapped[str] = mapped_column(primary_key=True)
    ord: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent_id: Mapped[str]
