"""Tables of what each workspace changed since it left the main one: the index that finds overlaps."""

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base
from models.projects.project import one_of

INDEX_STATES = ("complete", "cut", "unreadable")


class ChangeIndex(Base):
    """Up to which heads the changes of a workspace are known. `base_snapshot_id` is where it left the main workspace; without one its
    files are compared with those of the main workspace. `changed` counts all its changes, also those that a `cut` index leaves out;
    `unreadable`: the server cannot read the files of one of the two."""

    __tablename__ = "change_index"
    __table_args__ = (
        CheckConstraint(one_of("state", INDEX_STATES), name="state_known"),
        CheckConstraint("(changed >= 0)", name="changed_not_negative"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="change_index_workspace_fk",
            ondelete="CASCADE",
        ),
        *(
            ForeignKeyConstraint(
                ["project_id", f"{which}_snapshot_id"],
                ["snapshot.project_id", "snapshot.id"],
                name=f"change_index_{which}_snapshot_fk",
                ondelete="NO ACTION",
            )
            for which in ("base", "head", "main")
        ),
        Index("idx_change_index_project", "project_id"),
    )

    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    base_snapshot_id: Mapped[str | None]
    head_snapshot_id: Mapped[str | None]
    main_snapshot_id: Mapped[str | None]
    state: Mapped[str]
    changed: Mapped[int]


class WorkspaceChange(Base):
    """A file that a workspace changed. `base`, `own` and `main` say what is at the path in its base, in the workspace and in the main
    workspace: the hash of the file, or the target of the link; null for nothing. `path_key` is the start of the path's SHA-256, as
    paths are too long for an index. `told`: an event was written about the overlap that it has."""

    __tablename__ = "workspace_change"
    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="workspace_change_workspace_fk",
            ondelete="CASCADE",
        ),
        Index("idx_workspace_change_path", "project_id", "path_key"),
    )

    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    path_key: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    path: Mapped[str]
    base: Mapped[str | None]
    own: Mapped[str | None]
    main: Mapped[str | None]
    told: Mapped[bool] = mapped_column(server_default=text("false"))
