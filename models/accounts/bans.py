"""Bans: the account of a banned person is nobody's to every door, until an operator lifts the ban.

The check stands where a credential is looked up and where one is made, so that no route has to think of it. Model calls
have their own in `gateway_admit`. What was published stays: taking it out of the store is `store/takedowns.py`.
"""

from datetime import datetime

from sqlalchemy import delete, func, select, update

from models.accounts.sessions import LoginLink, Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Forbidden, Invalid

REASON_LENGTH = 500


class AccountSuspended(Forbidden):
    """The credential, or who signs in, belongs to a banned account. `session` is the credential's row, if there is one."""

    code = "account_suspended"

    def __init__(self, user: User, session: Session | None = None) -> None:
        self.reason = user.banned_reason
        self.session = session
        super().__init__(
            f"Your account has been suspended. Reason: {self.reason}"
            if self.reason
            else "Your account has been suspended."
        )


def refuse(user: User, session: Session | None = None) -> None:
    """Raise AccountSuspended if the user is banned."""
    if user.banned:
        raise AccountSuspended(user, session)


def ban(user: User, reason: str | None, now: datetime) -> bool:
    """Ban the account, or change the reason; whether that changed anything. Idempotent; flushes.

    From the commit on none of its credentials is worth anything at any door, and links mailed to it are used up. Calls
    in flight end as they were admitted and are billed; runs that are running stay so. Raises Invalid for a reason that
    is longer than 500 characters or has control characters.
    """
    reason = _line(reason)
    if user.banned and reason in (None, user.banned_reason):
        return False
    user.banned, user.banned_reason = True, reason
    db.session.execute(
        update(LoginLink)
        .where(LoginLink.email == user.email, LoginLink.used_at.is_(None))
        .values(used_at=now)
    )
    db.session.flush()
    return True


def unban(user: User) -> bool:
    """Lift the ban; whether there was one. Browsers must sign in again; keys and command lines work again. Flushes."""
    if not user.banned:
        return False
    user.banned, user.banned_reason = False, None
    db.session.execute(
        delete(Session)
        .where(Session.user_id == user.id, Session.type == "web")
        .execution_options(synchronize_session=False)
    )
    db.session.flush()
    return True


def credentials_of(user: User, now: datetime) -> dict[str, int]:
    """How many live credentials the user has, by type (`web`, `cli`, `pat`)."""
    rows = db.session.execute(
        select(Session.type, func.count().label("live"))
        .where(Session.user_id == user.id, Session.expires > now)
        .group_by(Session.type)
    )
    return {"web": 0, "cli": 0, "pat": 0} | {row.type: row.live for row in rows}


def _line(reason: str | None) -> str | None:
    words = " ".join((reason or "").split())
    if len(words) > REASON_LENGTH or not words.isprintable():
        raise Invalid(f"Give a reason of at most {REASON_LENGTH} characters, without control characters.")
    return words or None
