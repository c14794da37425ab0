"""The table of next steps: what would bring a project on, each with its reason (fastest contract 3.13)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base
from models.projects.project import one_of
from models.projects.project_ids import new_id

STEP_CATEGORIES = ("feature", "validation", "launch", "technical", "user_research")
EFFORTS = ("small", "medium", "large")
STEP_STATUSES = ("pending", "started", "completed", "dismissed")
MAX_STEP_TITLE, MAX_STEP_TEXT = 140, 1_000


class NextStep(Base):
    """A proposal. `model` names who wrote it: a model, or null for the rules. `title_key` is the title in lower case: a project has each
    step once, also one that was dismissed. `priority` is 1 for the highest to 3."""

    __tablename__ = "next_step"
    __table_args__ = (
        CheckConstraint(one_of("category", STEP_CATEGORIES), name="category_known"),
        CheckConstraint(f"((effort IS NULL) OR {one_of('effort', EFFORTS)})", name="effort_known"),
        CheckConstraint(one_of("status", STEP_STATUSES), name="status_known"),
        CheckConstraint("((priority >= 1) AND (priority <= 3))", name="priority_range"),
        CheckConstraint("((helpful_count >= 0) AND (not_helpful_count >= 0))", name="counts_not_negative"),
        CheckConstraint(
            f"((title <> ''::text) AND (length(title) <= {MAX_STEP_TITLE}))", name="title_length"
        ),
        Index("idx_next_step_title", "project_id", "title_key", unique=True),
        Index("idx_next_step_project", "project_id", "generated_at", "id"),
        Index("idx_next_step_status", "project_id", "status"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    title: Mapped[str]
    title_key: Mapped[str]
    description: Mapped[str | None]
    rationale: Mapped[str | None]
    category: Mapped[str] = mapped_column(server_default=text("'feature'::text"))
    priority: Mapped[int] = mapped_column(server_default=text("2"))
    effort: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=text("'pending'::text"))
    helpful_count: Mapped[int] = mapped_column(server_default=text("0"))
    not_helpful_count: Mapped[int] = mapped_column(server_default=text("0"))
    model: Mapped[str | None]
    generated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    acted_on_at: Mapped[datetime | None]
