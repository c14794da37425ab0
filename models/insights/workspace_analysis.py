"""The table of analyses: what of a workspace was looked at last, and whether a job waits to do it again."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base


class WorkspaceAnalysis(Base):
    """The last analysis of a workspace. `manifest_hash` are the files that were analysed, `rules` the version of the rules, `files` how many
    were read, `problems` sentences about what was left out; `sandboxed`: ruff and lizard ran in a sandbox, not only with limits.
    `queued_at` is set while a job waits."""

    __tablename__ = "workspace_analysis"
    __table_args__ = (
        CheckConstraint("((files >= 0) AND (milliseconds >= 0))", name="counts_not_negative"),
        CheckConstraint("((manifest_hash IS NULL) = (analysed_at IS NULL))", name="analysed_or_not"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="workspace_analysis_workspace_fk",
            ondelete="CASCADE",
        ),
        Index("idx_workspace_analysis_project", "project_id"),
    )

    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    queued_at: Mapped[datetime | None]
    manifest_hash: Mapped[str | None]
    rules: Mapped[int] = mapped_column(server_default=text("0"))
    analysed_at: Mapped[datetime | None]
    files: Mapped[int] = mapped_column(server_default=text("0"))
    milliseconds: Mapped[int] = mapped_column(server_default=text("0"))
    sandboxed: Mapped[bool] = mapped_column(server_default=text("false"))
    problems: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
