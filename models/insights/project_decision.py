"""The table of decisions of projects: proposals with the words that they come from, and what a person made of them (fastest contract 3.13)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base
from models.projects.project import one_of
from models.projects.project_ids import new_id

DECISION_CATEGORIES = ("architecture", "scope", "tech_choice", "approach", "process", "product")
DECISION_STATES = ("proposed", "accepted", "rejected", "superseded")
FOUND_BY = ("rules", "model", "person")
MAX_DECISION, MAX_RATIONALE, MAX_QUOTE = 240, 1_000, 600


class ProjectDecision(Base):
    """A decision. `quote` are words of the message `message_id` that say it; for those that a person wrote there is none. `decision_key`
    is the decision in lower case: a project has each once, so a rejected one is not proposed again. `found_by` says who read it out of the
    message, `model` which model. `superseded_by_id` is the accepted decision that took its place. `decided_at` is the time of the message.
    """

    __tablename__ = "project_decision"
    __table_args__ = (
        CheckConstraint(
            f"((category IS NULL) OR {one_of('category', DECISION_CATEGORIES)})", name="category_known"
        ),
        CheckConstraint(one_of("state", DECISION_STATES), name="state_known"),
        CheckConstraint(one_of("found_by", FOUND_BY), name="found_by_known"),
        CheckConstraint(
            f"((decision <> ''::text) AND (length(decision) <= {MAX_DECISION}))", name="decision_length"
        ),
        CheckConstraint("((found_by = 'person'::text) OR (quote IS NOT NULL))", name="quoted"),
        CheckConstraint("((found_by = 'model'::text) = (model IS NOT NULL))", name="model_named"),
        CheckConstraint(
            "((superseded_by_id IS NULL) OR (state = 'superseded'::text))", name="superseded_by_another"
        ),
        CheckConstraint("(superseded_by_id <> id)", name="not_by_itself"),
        Index("idx_project_decision_key", "project_id", "decision_key", unique=True),
        Index("idx_project_decision_project", "project_id", "decided_at", "id"),
        Index(
            "idx_project_decision_proposed", "project_id", postgresql_where=text("(state = 'proposed'::text)")
        ),
        Index("idx_project_decision_superseded_by", "superseded_by_id"),
        Index("idx_project_decision_message", "message_id"),
        Index("idx_project_decision_reviewed_by", "reviewed_by"),
        Index("idx_project_decision_conversation", "conversation_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    conversation_id: Mapped[str | None] = mapped_column(ForeignKey("conversation.id", ondelete="SET NULL"))
    message_id: Mapped[str | None] = mapped_column(ForeignKey("thread_message.id", ondelete="SET NULL"))
    decision: Mapped[str]
    decision_key: Mapped[str]
    rationale: Mapped[str | None]
    category: Mapped[str | None]
    quote: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default=text("'proposed'::text"))
    superseded_by_id: Mapped[str | None] = mapped_column(
        ForeignKey("project_decision.id", ondelete="SET NULL")
    )
    found_by: Mapped[str]
    model: Mapped[str | None]
    reviewed_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    reviewed_at: Mapped[datetime | None]
    decided_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
