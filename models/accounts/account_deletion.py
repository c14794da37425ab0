"""Deletion of a user's own account: for 14 days a sign-in takes it back, then a job erases what is personal.

The row of the user stays without name and address, because the ledger, payments and published agents refer to it. Other rooms say
by `deletion_blocking` what stands against a deletion, and do their part by `account_deleted` and `account_erasing`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from blinker import Signal
from sqlalchemy import delete, select, update

from models.accounts import credentials
from models.accounts.api_keys import ApiKey
from models.accounts.data_exports import DataExport
from models.accounts.email_changes import EmailChange, cancel_change
from models.accounts.passkeys import Passkey
from models.accounts.sessions import LoginLink, Session
from models.accounts.users import EncryptedApiKey, OAuthAccount, User, VerificationToken
from models.core.audit_log import record
from models.core.db import db
from models.core.errors import Conflict

GRACE = timedelta(days=14)
ERASED_NAME = "Deleted account"
ERASED_DOMAIN = "deleted-account.invalid"
"""Domain of the addresses of erased accounts. Nobody receives mail there or signs in with one."""

deletion_blocking = Signal()
"""Sent with a user; receivers return a list of `DeletionBlock`."""
account_deleted = Signal()
"""Sent with a user, whose row is locked, and `now` when the grace begins. Receivers may raise Conflict."""
account_erasing = Signal()
"""Sent with a user, whose row is locked, right before their own rows are erased."""


class DeletionBlock(NamedTuple):
    """What must be settled before the account can be deleted; `org` is the slug of the organisation that it is about."""

    reason: str
    org: str | None = None


def deletion_blocks(user: User) -> list[DeletionBlock]:
    """What stands against the deletion of the account."""
    return [block for _, blocks in deletion_blocking.send(user) for block in blocks]


def delete_account(user: User, *, by: Session, now: datetime) -> None:
    """Begin the grace: every session, key, sign-in link and export of the user ends at once, for good. Locks the user's browser sessions and
    row, flushes.

    Raises Forbidden (`lock_browser`), and Conflict for what stands against it.
    """
    credentials.lock_browser(by, to_end=True)
    db.session.refresh(user, with_for_update={"key_share": True})
    if blocks := deletion_blocks(user):
        raise Conflict(blocks[0].reason)
    user.deleted_at = now
    account_deleted.send(user, now=now)
    cancel_change(user)
    _end_credentials(user, now)
    db.session.flush()


def due_for_erasure(now: datetime) -> Sequence[str]:
    """The ids of users whose grace is over."""
    query = select(User.id).where(User.deleted_at <= now - GRACE, User.erased_at.is_(None))
    return db.session.scalars(query).all()


def erase_user(user_id: str, now: datetime) -> str | None:
    """Erase what is personal of a user whose grace is over. Returns their former address; None if they signed in meanwhile or are
    erased. Locks the user's row, flushes. Idempotent. Ledger, payments, audit log and published versions stay."""
    due = select(User).where(User.id == user_id, User.deleted_at <= now - GRACE, User.erased_at.is_(None))
    user = db.session.scalars(
        due.with_for_update(key_share=True).execution_options(populate_existing=True)
    ).one_or_none()
    if user is None:
        return None
    account_erasing.send(user, now=now)
    _end_credentials(user, now)
    for table in (OAuthAccount, Passkey, EmailChange, EncryptedApiKey, DataExport):
        db.session.execute(delete(table).where(table.user_id == user.id))
    db.session.execute(delete(ApiKey).where(ApiKey.user_id == user.id, ApiKey.org_id.is_(None)))
    db.session.execute(delete(LoginLink).where(LoginLink.email == user.email))
    db.session.execute(delete(VerificationToken).where(VerificationToken.identifier == user.email))
    former, user.email = user.email, f"{user.id}@{ERASED_DOMAIN}"
    user.name, user.email_verified, user.erased_at = ERASED_NAME, None, now
    user.password = user.image = user.handle = user.discord_id = user.referral_code = user.time_zone = None
    user.theme, user.number_language = "system", "en"
    record("user.erased", user.id, actor="system")
    db.session.flush()
    return former


def _end_credentials(user: User, now: datetime) -> None:
    for kind in ("web", "cli", "pat"):
        credentials.revoke_all(user, kind)
    unused = update(LoginLink).where(LoginLink.email == user.email, LoginLink.used_at.is_(None))
    db.session.execute(unused.values(used_at=now))
    # a job removes their files
    db.session.execute(delete(DataExport).where(DataExport.user_id == user.id))
