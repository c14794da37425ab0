"""Submissions of forms: each changes something once, and a repetition gets the response of the first.

A submission is claimed in the transaction of its change, so it exists if and only if the change does.
"""

from datetime import datetime, timedelta

from sqlalchemy import Index, delete, select, text, update
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, db

RESPONSE_KEPT = timedelta(minutes=5)
"""A response may contain a secret that is shown once, so it is soon deleted."""

CLAIM = text("""
INSERT INTO form_submission (id, endpoint, started_at, expires_at)
SELECT :id, :endpoint, :moment, :expires_at WHERE pg_try_advisory_xact_lock(hashtextextended('form ' || :id, 0))
ON CONFLICT (id) DO UPDATE
    SET started_at = excluded.started_at, expires_at = excluded.expires_at, finished_at = NULL, response = NULL
    WHERE form_submission.expires_at <= excluded.started_at
RETURNING id
""")


class FormSubmission(Base):
    """A form as it was sent by one session: `id` is a hash of its token, fields, address and sender. `response` is encrypted,
    null if unknown, too long to keep, or deleted. After `expires_at` the same submission acts again."""

    __tablename__ = "form_submission"
    __table_args__ = (
        Index("idx_form_submission_expiry", "expires_at"),
        Index("idx_form_submission_response", "finished_at", postgresql_where=text("response IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    response: Mapped[str | None]


def claim(id: str, endpoint: str, moment: datetime, expires_at: datetime) -> bool:
    """Claim a submission for the current transaction; False if another has it, or had it and it has not expired.

    Takes an advisory lock until the transaction ends, without waiting for it.
    """
    values = {"id": id, "endpoint": endpoint, "moment": moment, "expires_at": expires_at}
    return db.session.execute(CLAIM, values).first() is not None


def find_submission(id: str, moment: datetime) -> FormSubmission | None:
    """A submission that was committed and has not expired."""
    query = select(FormSubmission).where(FormSubmission.id == id, FormSubmission.expires_at > moment)
    return db.session.scalars(query, execution_options={"populate_existing": True}).one_or_none()


def finish(
    id: str, claimed_at: datetime, response: str | None, moment: datetime, expires_at: datetime
) -> None:
    """Store the response of the submission claimed at that time; does nothing if that transaction did not commit."""
    db.session.execute(
        update(FormSubmission)
        .where(FormSubmission.id == id, FormSubmission.started_at == claimed_at)
        .values(response=response, finished_at=moment, expires_at=expires_at)
    )


def release(id: str, claimed_at: datetime) -> None:
    """Let the submission claimed at that time be repeated, because it was rejected."""
    db.session.execute(
        delete(FormSubmission).where(FormSubmission.id == id, FormSubmission.started_at == claimed_at)
    )


def forget_submissions(moment: datetime) -> None:
    """Delete the responses that are no longer replayed, and expired submissions."""
    db.session.execute(
        update(FormSubmission)
        .where(FormSubmission.response.is_not(None), FormSubmission.finished_at < moment - RESPONSE_KEPT)
        .values(response=None)
    )
    db.session.execute(delete(FormSubmission).where(FormSubmission.expires_at < moment))
