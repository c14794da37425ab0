"""Tables of the decisions that are looked for by themselves: what a project lets a model do for it, and what was looked at (fastest contract 4.8)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt
from models.projects.project import one_of

EXTRACTION_STATES = ("queued", "asking", "done")
MAX_DAILY_CREDITS, DAILY_CREDITS = 10_000, 20
MAX_MODEL_NAME = 200


class DecisionSetting(Base):
    """What a project lets a model do by itself. Without a row, and without `model`, only rules read its conversations. `daily_credits` is the
    most that the calls of a day (UTC) cost together."""

    __tablename__ = "decision_setting"
    __table_args__ = (
        CheckConstraint(
            f"((model IS NULL) OR ((model <> ''::text) AND (length(model) <= {MAX_MODEL_NAME})))",
            name="model_length",
        ),
        CheckConstraint(
            f"((daily_credits >= 1) AND (daily_credits <= {MAX_DAILY_CREDITS}))", name="daily_credits_range"
        ),
        Index("idx_decision_setting_changed_by", "changed_by"),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str | None]
    daily_credits: Mapped[int] = mapped_column(server_default=text(str(DAILY_CREDITS)))
    changed_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    changed_at: Mapped[datetime] = mapped_column(server_default=NOW)


class DecisionExtraction(Base):
    """A look at a conversation after its turn `turn_id`, which happens once. `queued` → `asking` (a model answers the call `request_id`) →
    `done`; without a model at once `done`. `most` is what the call may cost and `micro_credits` what it cost, in credits and millionths;
    `found` counts new proposals, `problem` says why no model read it."""

    __tablename__ = "decision_extraction"
    __table_args__ = (
        CheckConstraint(one_of("state", EXTRACTION_STATES), name="state_known"),
        CheckConstraint(
            "((most >= 0) AND (micro_credits >= 0) AND (found >= 0))", name="counts_not_negative"
        ),
        CheckConstraint("((model IS NULL) = (request_id IS NULL))", name="asked_with_model"),
        CheckConstraint("((state = 'done'::text) = (done_at IS NOT NULL))", name="done_at_set"),
        Index("idx_decision_extraction_project", "project_id", "queued_at"),
        Index("idx_decision_extraction_conversation", "conversation_id"),
    )

    turn_id: Mapped[str] = mapped_column(ForeignKey("turn.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversation.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(server_default=text("'queued'::text"))
    model: Mapped[str | None]
    request_id: Mapped[str | None]
    most: Mapped[int] = mapped_column(server_default=text("0"))
    micro_credits: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    found: Mapped[int] = mapped_column(server_default=text("0"))
    problem: Mapped[str | None]
    queued_at: Mapped[datetime] = mapped_column(server_default=NOW)
    asked_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]
