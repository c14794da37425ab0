"""Changes of a user's e-mail address: a link to the new address confirms it, once, within an hour.

The table stores the SHA-256 of the link's token. The link works only in a browser where its user is signed in: somebody else
who has the new address could otherwise sign in with it.
"""

import hmac
import secrets
from datetime import datetime, timedelta

from sqlalchemy import ForeignKey, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.credentials import hash_token, lock_browser
from models.accounts.sessions import Session
from models.accounts.signing_in import by_email, clean_email
from models.accounts.users import SERVICE_DOMAIN, User
from models.core import jobs
from models.core.db import NOW, Base, db
from models.core.errors import Conflict, Invalid

LIFETIME = timedelta(hours=1)
TAKEN = "Another account has this address."


class EmailChange(Base):
    """The change that a user requested last."""

    __tablename__ = "email_change"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    token_hash: Mapped[str]
    email: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime] = mapped_column(index=True)


def request_change(user: User, text: str, *, by: Session, now: datetime) -> tuple[str, EmailChange]:
    """Store a change to the address `text`, instead of an earlier one. Returns the raw token of its link. Flushes.

    Raises Invalid with field `email`, also for the address of another account, and Forbidden (`lock_browser`).
    """
    email = clean_email(text)
    problem = None
    if email == user.email:
        problem = "This is your address already."
    elif email.endswith(f"@{SERVICE_DOMAIN}"):
        problem = "Nobody receives e-mail at this address."
    elif by_email(email) is not None:
        problem = TAKEN
    if problem:
        raise Invalid(problem, fields={"email": problem})
    lock_browser(by)
    cancel_change(user)
    token = secrets.token_urlsafe(32)
    row = EmailChange(
        user_id=user.id, token_hash=hash_token(token), email=email, created_at=now, expires_at=now + LIFETIME
    )
    db.session.add(row)
    db.session.flush()
    return token, row


def pending_change(user: User, now: datetime) -> EmailChange | None:
    """The user's change that waits for its confirmation, or None."""
    query = select(EmailChange).where(EmailChange.user_id == user.id, EmailChange.expires_at > now)
    return db.session.scalars(query).one_or_none()


def find_change(user: User, token: str, now: datetime) -> EmailChange | None:
    """The user's change with this link, or None. Does not use it."""
    row = pending_change(user, now)
    return row if row and hmac.compare_digest(row.token_hash, hash_token(token)) else None


def cancel_change(user: User) -> None:
    """Forget the user's change, if any: its link stops working. Idempotent."""
    # serialises requests of one user, and with a confirmation
    db.session.execute(select(User.id).where(User.id == user.id).with_for_update())
    db.session.execute(delete(EmailChange).where(EmailChange.user_id == user.id))


def confirm_change(user: User, token: str, *, by: Session, now: datetime) -> str | None:
    """Give the user the address that the link confirms. Returns the former one, None for a link that is not valid. Flushes.

    Locks the user's row, so of concurrent requests one changes it. Sessions and identities stay. Raises Conflict if another
    account got the address meanwhile, and Forbidden (`lock_browser`).
    """
    lock_browser(by)
    db.session.refresh(user, with_for_update=True)
    row = find_change(user, token, now)
    if row is None:
        return None
    former, user.email, user.email_verified = user.email, row.email, now
    db.session.delete(row)
    try:
        db.session.flush()
    except IntegrityError:
        raise Conflict(TAKEN) from None
    jobs.enqueue(jobs.send_customer_email, user_id=user.id)
    return former


def delete_expired_changes(now: datetime) -> None:
    """Delete changes that expired. Idempotent."""
    db.session.execute(delete(EmailChange).where(EmailChange.expires_at < now))
