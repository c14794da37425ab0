"""Passkeys (WebAuthn credentials): a second way to sign in, without e-mail. The table stores public keys only."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, Text, delete, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.credentials import NAME_LENGTH, lock_browser
from models.accounts.sessions import Session
from models.accounts.users import OAuthAccount, User
from models.core.db import NEW_ID, NOW, Base, BigInt, db
from models.core.errors import Conflict, Invalid, NotFound

MOST_PASSKEYS = 20
"""Passkeys of one user."""


class Passkey(Base):
    """A user's credential at an authenticator: a phone, a security key or a password manager."""

    __tablename__ = "passkey"

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), index=True)
    credential_id: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    """COSE key."""
    sign_count: Mapped[int] = mapped_column(BigInt)
    """Signatures as the authenticator counts them; 0 for those that do not count."""
    transports: Mapped[list[str]] = mapped_column(ARRAY(Text))
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    last_used_at: Mapped[datetime | None]
    last_used_ip: Mapped[str | None]


class SpentChallenge(Base):
    """A challenge that was answered: a repetition of the answer is refused until it expires."""

    __tablename__ = "spent_challenge"

    challenge_hash: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)


def passkeys_of(user: User) -> Sequence[Passkey]:
    """The user's passkeys, newest first."""
    query = select(Passkey).where(Passkey.user_id == user.id)
    return db.session.scalars(query.order_by(Passkey.created_at.desc(), Passkey.id)).all()


def own_passkey(user: User, id: str) -> Passkey:
    """The user's passkey with this id. Raises NotFound, also for another user's."""
    query = select(Passkey).where(Passkey.id == id, Passkey.user_id == user.id)
    row = None if "\x00" in id else db.session.scalars(query).one_or_none()
    if row is None:
        raise NotFound("This passkey does not exist.")
    return row


def checked_name(name: str) -> str:
    """A name for a passkey, stripped. Raises Invalid with field `name`."""
    name = name.strip()
    problem = None
    if not name:
        problem = "Enter a name, so that you recognise it later."
    elif len(name) > NAME_LENGTH or not name.isprintable():
        problem = f"Use at most {NAME_LENGTH} ordinary characters."
    if problem:
        raise Invalid(problem, fields={"name": problem})
    return name


def rename_passkey(user: User, id: str, name: str) -> tuple[str, Passkey]:
    """Rename the user's passkey. Returns its former name and the row. Flushes. Raises NotFound, Invalid."""
    row = own_passkey(user, id)
    former, row.name = row.name, checked_name(name)
    db.session.flush()
    return former, row


def remove_passkey(user: User, id: str, *, by: Session) -> Passkey:
    """Remove the user's passkey: it no longer signs them in. Their sessions stay. Flushes. Returns the deleted row.

    Locks the user's row. Raises NotFound, Forbidden (`lock_browser`), and Conflict for the last way to sign in.
    """
    lock_browser(by)
    lock_ways(user)
    row = own_passkey(user, id)
    keep_a_way(user)
    db.session.delete(row)
    db.session.flush()
    return row


def lock_ways(user: User) -> None:
    """Lock the user's row, which serialises changes of the ways to sign in."""
    db.session.execute(select(User.id).where(User.id == user.id).with_for_update())


def keep_a_way(user: User) -> None:
    """Raise Conflict if the user could not sign in without one of their identities or passkeys. Needs `lock_ways`.

    A link by e-mail is a way to sign in only if the address was verified.
    """
    if user.email_verified is not None:
        return
    counts = [select(func.count()).where(table.user_id == user.id) for table in (OAuthAccount, Passkey)]
    if sum(db.session.scalar(count) or 0 for count in counts) == 1:
        raise Conflict("This is the only way you can sign in. Sign in once by e-mail link, then remove it.")


def forget_challenges(now: datetime) -> None:
    """Delete spent challenges that expired. Idempotent."""
    db.session.execute(delete(SpentChallenge).where(SpentChallenge.expires_at < now))
