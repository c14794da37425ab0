"""What users say about answers and about the product, for operators (contract A.5)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Select, delete, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import NEW_ID, NOW, Base, db
from models.core.personal_export import add_csv, batches

CATEGORIES = ("good_result", "bad_result", "app_bug", "other")
KINDS = ("message", "general")
PAGE = 50


class Feedback(Base):
    """One message of a user's. `message_id` is the answer that it is about; `client_id` the client's own id, once a user."""

    __tablename__ = "feedback"
    __table_args__ = (
        CheckConstraint(
            "(category = ANY (ARRAY['good_result'::text, 'bad_result'::text, 'app_bug'::text, 'other'::text]))",
            name="category_known",
        ),
        Index("idx_feedback_created", "created_at", "id"),
        Index("idx_feedback_category", "category", "created_at", "id"),
        Index("idx_feedback_user", "user_id", "created_at"),
        Index(
            "idx_feedback_client_id",
            "user_id",
            "client_id",
            unique=True,
            postgresql_where=text("(client_id IS NOT NULL)"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    category: Mapped[str]
    message_id: Mapped[str | None]
    text: Mapped[str]
    source: Mapped[str | None]
    client_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


@dataclass(frozen=True, slots=True)
class FeedbackListed:
    """Feedback and who gave it."""

    feedback: Feedback
    user: User


def record_feedback(
    user_id: str,
    *,
    category: str,
    text: str,
    message_id: str | None = None,
    source: str | None = None,
    client_id: str | None = None,
) -> None:
    """Store feedback, once for each `client_id` of the user."""
    values = {
        "user_id": user_id,
        "category": category,
        "message_id": message_id,
        "text": text,
        "source": source,
        "client_id": client_id,
    }
    db.session.execute(insert(Feedback).values(values).on_conflict_do_nothing())


def feedback_page(
    category: str = "", after: tuple[datetime, str] | None = None
) -> tuple[list[FeedbackListed], tuple[datetime, str] | None]:
    """Feedback, newest first, of one category if given, and the key of the next page."""
    query = select(Feedback, User).join(User, User.id == Feedback.user_id)
    if category:
        query = query.where(Feedback.category == category)
    if after is not None:
        query = query.where(tuple_(Feedback.created_at, Feedback.id) < tuple_(*after))
    query = query.order_by(Feedback.created_at.desc(), Feedback.id.desc()).limit(PAGE + 1)
    rows = [FeedbackListed(*row) for row in db.session.execute(query)]
    last = rows[PAGE - 1].feedback if len(rows) > PAGE else None
    return rows[:PAGE], (last.created_at, last.id) if last else None


def feedback_counts(since: datetime) -> dict[str, int]:
    """Feedback since `since`, by category."""
    query = select(Feedback.category, func.count()).where(Feedback.created_at >= since)
    return {row[0]: row[1] for row in db.session.execute(query.group_by(Feedback.category))}


@account_erasing.connect
def _erase(user: User, *, now: datetime) -> None:
    db.session.execute(delete(Feedback).where(Feedback.user_id == user.id))


def _exported(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        *(Feedback.id, Feedback.created_at, Feedback.category, Feedback.message_id, Feedback.text)
    ).where(Feedback.user_id == user_id)
    return batches(query, Feedback.id)


add_csv(
    "feedback.csv",
    "What you said about answers and about the product.",
    {
        "id": "its id",
        "created_at": "when you sent it",
        "category": "what it is",
        "message_id": "the answer that it is about",
        "text": "what you wrote",
    },
    _exported,
)
