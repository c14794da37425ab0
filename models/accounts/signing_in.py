"""Sign-in: maps an external identity or a verified e-mail address to a user.

A user is found by external identity (table `account`), else by *verified* e-mail address, else created. An unknown
identity with an unverified address creates no user and connects to none: its address first gets a link for exactly
this identity (`join_identity`).
"""

import unicodedata
from dataclasses import dataclass
from datetime import datetime

from blinker import Signal
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from models.accounts import bans
from models.accounts.passkeys import Passkey
from models.accounts.sessions import Session
from models.accounts.users import OAuthAccount, User
from models.core.db import db
from models.core.errors import Conflict, Invalid

# Private networks use `.local`, and the demo uses `.invalid`.
SPECIAL_USE_DOMAIN_NAMES.clear()


signed_up = Signal()
"""Sent with a new user, `free_credits` and `now`, in the same transaction. The ledger grants the sign-up credits."""


# An OpenID subject has at most 255 characters and is prefixed with its issuer's URL.
MAX_SUBJECT_LENGTH = 600
MAX_TEXT_LENGTH = 1000


@dataclass(frozen=True)
class Identity:
    """A user's profile at an external provider. `subject` is the provider's permanent id, `login` the user name there.

    Raises Invalid (400) for a value that is not text, is too long or contains control characters, or a blank subject.
    """

    provider: str
    subject: str
    email: str
    verified: bool
    name: str | None = None
    login: str | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        _check_text("user id", self.subject, MAX_SUBJECT_LENGTH)
        _check_text("e-mail address", self.email, MAX_TEXT_LENGTH)
        for what, text in (("name", self.name), ("user name", self.login), ("picture", self.image)):
            _check_text(what, "" if text is None else text, MAX_TEXT_LENGTH)
        if not self.subject.strip():
            raise _unusable("user id", "is missing")


def _check_text(what: str, text: object, length: int) -> None:
    if not isinstance(text, str):
        raise _unusable(what, "is not text")
    if len(text) > length:
        raise _unusable(what, f"has more than {length} characters")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise _unusable(what, "contains control characters")


def _unusable(what: str, reason: str) -> Invalid:
    return Invalid(f"The provider sent a {what} that {reason}.".replace("a e-", "an e-"), status=400)


def clean_email(text: str) -> str:
    """Validate and normalise an address for storage and comparison. Raises Invalid with field `email`."""
    try:
        checked = validate_email(text.strip(), check_deliverability=False, globally_deliverable=False)
    except EmailNotValidError:
        message = "Enter an address like name@example.org."
        raise Invalid(message, fields={"email": message}) from None
    return checked.normalized.lower()


def by_email(email: str) -> User | None:
    """Return the user with this normalised address, or None."""
    return db.session.scalars(select(User).where(User.email == email)).one_or_none()


def by_identity(identity: Identity) -> User | None:
    """Return the user connected to this external identity, or None."""
    return db.session.scalars(
        select(User)
        .join(OAuthAccount, OAuthAccount.user_id == User.id)
        .where(
            OAuthAccount.provider == identity.provider,
            OAuthAccount.provider_account_id == identity.subject,
        )
    ).one_or_none()


def sign_in_verified_email(
    email: str, now: datetime, *, free_credits: int, name: str | None = None
) -> tuple[User, bool]:
    """Return the user of a normalised address that was just verified, created if missing, and whether they are new.

    A new user gets a sign-up grant of `free_credits` credits. Concurrent first sign-ins create one user, because the
    address is unique. If the existing user's address was never verified, their identities, passkeys and sessions are deleted:
    their owner had not proved control of the address. Flushes.
    """
    user, new = _find_or_create(email, now, name=name, free_credits=free_credits)
    if user.email_verified is None:
        for way in (OAuthAccount, Passkey):
            db.session.execute(delete(way).where(way.user_id == user.id))
        db.session.execute(
            delete(Session).where(Session.user_id == user.id).execution_options(synchronize_session=False)
        )
        user.email_verified = now
        db.session.flush()
    return user, new


def sign_in_identity(identity: Identity, now: datetime, *, free_credits: int) -> tuple[User, bool] | None:
    """Return the user of an external identity and whether they are new; None if its address must be verified.

    A known identity maps to its user, whatever its address is now. An unknown one is connected to the user with the
    same address, created if missing, only if the provider verified the address and it is ASCII. Flushes.
    """
    user = by_identity(identity)
    if user is not None:
        return user, False
    # Normalisation maps other letters to ASCII (the Kelvin sign to K), which may be another user's address.
    if not (identity.verified and identity.email.isascii()):
        return None
    user, new = sign_in_verified_email(
        clean_email(identity.email), now, free_credits=free_credits, name=identity.name
    )
    attach(user, identity)
    return user, new


def join_identity(email: str, identity: Identity, now: datetime, *, free_credits: int) -> tuple[User, bool]:
    """Connect an external identity to the user of the normalised address that its link verified.

    Returns the user, created if missing, and whether they are new. Raises Conflict when the identity is connected to
    another user, AccountSuspended for a banned user. Flushes.
    """
    user, new = sign_in_verified_email(email, now, free_credits=free_credits, name=identity.name)
    bans.raise_if_banned(user)
    attach(user, identity)
    return user, new


def attach(user: User, identity: Identity) -> None:
    """Connect an external identity to `user`. The provider's tokens are not stored. Idempotent; flushes.

    Raises Conflict when the identity is connected to another user, including by a concurrent request.
    """
    values = {
        "user_id": user.id,
        "type": "oauth" if identity.provider == "github" else "oidc",
        "provider": identity.provider,
        "provider_account_id": identity.subject,
    }
    db.session.execute(insert(OAuthAccount).values(values).on_conflict_do_nothing())
    owner = by_identity(identity)
    if owner is None or owner.id != user.id:
        raise Conflict("This outside identity already signs in another account. Nothing was changed.")
    user.name = user.name or identity.name
    user.image = user.image or identity.image
    db.session.flush()


def create(email: str, now: datetime, *, free_credits: int, name: str | None = None) -> User:
    """Create a user for an operator; the normalised address counts as verified. Raises Conflict when it is taken."""
    user, new = _find_or_create(email, now, name=name, free_credits=free_credits)
    if not new:
        raise Conflict(f"{email} already has an account: {user.id}.")
    user.email_verified = now
    db.session.flush()
    return user


def _find_or_create(email: str, now: datetime, *, name: str | None, free_credits: int) -> tuple[User, bool]:
    user = by_email(email)
    if user is not None:
        return user, False
    created = db.session.scalars(
        insert(User)
        .values(email=email, name=name, email_verified=now, created_at=now)
        .on_conflict_do_nothing(index_elements=[User.email])
        .returning(User)
    ).one_or_none()
    if created is None:
        # A concurrent transaction inserted the user and has ended: the insert above waited for it.
        user = by_email(email)
        if user is None:
            raise Conflict("This address was just in use. Try again.")
        return user, False
    signed_up.send(created, free_credits=free_credits, now=now)
    return created, True
