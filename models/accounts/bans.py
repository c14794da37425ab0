"""Bans: a banned user's credentials are rejected everywhere until an operator lifts the ban.

The check runs wherever a credential is looked up or created, so routes need none of their own. `gateway_admit` checks
model calls. Published agents stay in the store; `store/publishing/takedowns.py` removes them.
"""

from datetime import datetime

from sqlalchemy import delete, func, select, update

from models.accounts.sessions import LoginLink, Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Forbidden, Invalid

MAX_REASON_LENGTH = 500


class AccountSuspended(Forbidden):
    """The user who authenticates or signs in is banned. `session` is the credential's row, if there is one."""

    code = "account_suspended"

    def __init__(self, user: User, session: Session | None = None) -> None:
        self.reason = user.banned_reason
        self.session = session
        super().__init__(
            f"Your account has been suspended. Reason: {self.reason}"
            if self.reason
            else "Your account has been suspended."
        )


def raise_if_banned(user: User, session: Session | None = None) -> None:
    """Raise AccountSuspended if the user is banned."""
    if user.banned:
        raise AccountSuspended(user, session)


def ban(user: User, reason: str | None, now: datetime) -> bool:
    """Ban the user or change the reason. Returns whether anything changed. Idempotent; flushes.

    Once committed, every credential of the user is rejected and unused sign-in links are invalid. Calls in flight
    finish and are billed; running runs keep their status. Raises Invalid for a reason longer than 500 characters or
    with control characters.
    """
    reason = _clean_reason(reason)
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
    """Lift the ban. Returns whether there was one. Flushes.

    API keys and command line sessions work again; browser sessions are deleted, so browsers must sign in again.
    """
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
    """Count the user's unexpired credentials by type (`web`, `cli`, `pat`)."""
    rows = db.session.execute(
        select(Session.type, func.count().label("live"))
        .where(Session.user_id == user.id, Session.expires > now)
        .group_by(Session.type)
    )
    return {"web": 0, "cli": 0, "pat": 0} | {row.type: row.live for row in rows}


def _clean_reason(reason: str | None) -> str | None:
    text = " ".join((reason or "").split())
    if len(text) > MAX_REASON_LENGTH or not text.isprintable():
        raise Invalid(f"Give a reason of at most {MAX_REASON_LENGTH} characters, without control characters.")
    return text or None
