"""Who signs in: an outside identity or a proven e-mail address becomes a user, the same one each time.

A user is found by the outside identity (`account`), else by the *verified* e-mail address, else made. An address
that nobody proved joins nothing and makes nobody: only the link mailed to it for exactly this identity does
(`join_identity`).
"""

import unicodedata
from dataclasses import dataclass
from datetime import datetime

from blinker import Signal
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from models.accounts import bans
from models.accounts.sessions import Session
from models.accounts.users import OAuthAccount, User
from models.core.db import db
from models.core.errors import Conflict, Invalid

# A private network may well live in `.local`, and the demo lives in `.invalid`.
SPECIAL_USE_DOMAIN_NAMES.clear()


signed_up = Signal()
"""Sent in the transaction that makes a new user, with the user, `free_credits` and `now`: the ledger gives the first credits."""


SUBJECT_LENGTH = (
    600  # an OpenID subject has at most 255 characters, and its issuer's address stands before it
)
TEXT_LENGTH = 1000


@dataclass(frozen=True)
class Identity:
    """What an outside provider says of somebody. `subject` is the provider's own unchanging id, `login` the name
    they are called by there.

    Raises Invalid, with status 400, for what cannot be kept or shown: text that is none, is too long, or holds
    control characters, and a subject that says nothing.
    """

    provider: str
    subject: str
    email: str
    verified: bool
    name: str | None = None
    login: str | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        _check_text("user id", self.subject, SUBJECT_LENGTH)
        _check_text("e-mail address", self.email, TEXT_LENGTH)
        for what, text in (("name", self.name), ("user name", self.login), ("picture", self.image)):
            _check_text(what, "" if text is None else text, TEXT_LENGTH)
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
    """The address in the form addresses are kept and compared in. Raises Invalid with field `email`."""
    try:
        checked = validate_email(text.strip(), check_deliverability=False, globally_deliverable=False)
    except EmailNotValidError:
        sentence = "Enter an address like name@example.org."
        raise Invalid(sentence, fields={"email": sentence}) from None
    return checked.normalized.lower()


def by_email(email: str) -> User | None:
    """The user with this (clean) address."""
    return db.session.scalars(select(User).where(User.email == email)).one_or_none()


def by_identity(identity: Identity) -> User | None:
    """The user this outside identity already signs in."""
    return db.session.scalars(
        select(User)
        .join(OAuthAccount, OAuthAccount.user_id == User.id)
        .where(
            OAuthAccount.provider == identity.provider,
            OAuthAccount.provider_account_id == identity.subject,
        )
    ).one_or_none()


def sign_in_proven(
    email: str, now: datetime, *, free_credits: int, name: str | None = None
) -> tuple[User, bool]:
    """The user whose (clean) address was just proved, made when missing, and whether they are new.

    A new user gets the signup grant of `free_credits`. Two first sign-ins at once make one user: the unique address decides. A row
    that held the address without proof changes hands: identities and sessions from before are removed, since
    whoever made them never showed the address to be theirs. Flushes.
    """
    user, new = _find_or_make(email, now, name=name, free_credits=free_credits)
    if user.email_verified is None:
        db.session.execute(delete(OAuthAccount).where(OAuthAccount.user_id == user.id))
        db.session.execute(
            delete(Session).where(Session.user_id == user.id).execution_options(synchronize_session=False)
        )
        user.email_verified = now
        db.session.flush()
    return user, new


def sign_in_identity(identity: Identity, now: datetime, *, free_credits: int) -> tuple[User, bool] | None:
    """The user of an outside identity, and whether they are new; None when its address must be proved first.

    A known identity is its user, whatever its address says today. An unknown one joins the user with the same
    address, or makes one, only if the provider verified the address and all of it is ASCII. Flushes.
    """
    user = by_identity(identity)
    if user is not None:
        return user, False
    # Other letters are made alike here (the Kelvin sign is a K) and may be another's address at the provider.
    if not (identity.verified and identity.email.isascii()):
        return None
    user, new = sign_in_proven(
        clean_email(identity.email), now, free_credits=free_credits, name=identity.name
    )
    attach(user, identity)
    return user, new


def join_identity(email: str, identity: Identity, now: datetime, *, free_credits: int) -> tuple[User, bool]:
    """Join an outside identity to the user of the (clean) address that its own link just proved; the user, made when
    missing, and whether they are new.

    Raises Conflict when the identity signs in somebody else already, AccountSuspended for a banned user. Flushes.
    """
    user, new = sign_in_proven(email, now, free_credits=free_credits, name=identity.name)
    bans.refuse(user)
    attach(user, identity)
    return user, new


def attach(user: User, identity: Identity) -> None:
    """Let an outside identity sign in `user` from now on. The provider's tokens are not kept: nothing needs them.

    Idempotent. Raises Conflict when it signs in somebody else already, also when they were faster by a moment.
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
    """Make a user for an operator, who vouches for the (clean) address. Raises Conflict when it is taken."""
    user, new = _find_or_make(email, now, name=name, free_credits=free_credits)
    if not new:
        raise Conflict(f"{email} already has an account: {user.id}.")
    user.email_verified = now
    db.session.flush()
    return user


def _find_or_make(email: str, now: datetime, *, name: str | None, free_credits: int) -> tuple[User, bool]:
    user = by_email(email)
    if user is not None:
        return user, False
    made = db.session.scalars(
        insert(User)
        .values(email=email, name=name, email_verified=now, created_at=now)
        .on_conflict_do_nothing(index_elements=[User.email])
        .returning(User)
    ).one_or_none()
    if made is None:
        # Somebody was faster: their transaction has ended, or the insert would still wait.
        user = by_email(email)
        if user is None:
            raise Conflict("This address was just in use. Try again.")
        return user, False
    signed_up.send(made, free_credits=free_credits, now=now)
    return made, True
