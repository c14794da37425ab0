"""Affiliate handles: the short link of a referral code, and the higher limit that comes with it (contract 3.9)."""

import re
from collections.abc import Collection

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, Invalid
from models.ledger.credit_operations import call_function

AFFILIATE_LIMIT = 500
"""How many people an affiliate may refer (contract 3.1)."""

HANDLE = re.compile(r"[a-zA-Z0-9_]{3,20}")

_CONTRACT = """
api docs hackathon login onboard payment-change payment-success pricing privacy-policy referrals subscription terms-of-service
usage affiliates discord ingest admin auth user profile settings support help contact root codebuff manicode status healthz
"""
_LIKELY = """
about assistants atlas billing blog conversations dashboard deployments evals insights invites logout org organizations orgs
plans projects security signin signup stoa store subscribe teams unsubscribe verify
"""
RESERVED = frozenset(f"{_CONTRACT} {_LIKELY}".split())
"""Handles that no user can have: those of the contract, and names that may become paths of this server."""


def set_handle(user_id: str, text: str, *, taken: Collection[str] = ()) -> str:
    """Set the user's handle, which is final, and raise their referral limit to AFFILIATE_LIMIT. Returns it in lower case.

    `taken` are the first path segments of this server's URLs. Of concurrent calls for one handle or one user, one succeeds.
    Locks the user's account. Raises Invalid with field `handle`; Conflict for a user who has a handle.
    """
    handle = text.strip().lower()
    if not handle:
        raise _invalid("Enter a handle.")
    if not HANDLE.fullmatch(handle):
        raise _invalid("Use 3 to 20 letters (a–z), digits and underscores.")
    if handle in RESERVED or handle in taken:
        raise _invalid("This handle is reserved. Choose another one.")
    call_function("SELECT credit_account_lock(:user, NULL)", user=user_id)
    naming = (
        update(User)
        .where(User.id == user_id, User.handle.is_(None))
        .values(handle=handle, referral_limit=func.greatest(User.referral_limit, AFFILIATE_LIMIT))
        .returning(User.id)
        .execution_options(synchronize_session=False)
    )
    try:
        with db.session.begin_nested():
            named = db.session.scalars(naming).one_or_none()
    except IntegrityError:
        raise _invalid("This handle is taken. Choose another one.") from None
    if named is None:
        raise Conflict("You already have a handle. It cannot be changed.")
    user = db.session.identity_map.get(db.session.identity_key(User, user_id))
    if user is not None:
        db.session.expire(user, ["handle", "referral_limit"])
    return handle


def code_of(handle: str) -> str | None:
    """The referral code of an affiliate's handle, in either case; None for an unknown handle or a suspended user."""
    if not handle:
        raise _invalid("Enter a handle.")
    if not HANDLE.fullmatch(handle):
        return None
    query = select(User.referral_code).where(User.handle == handle.lower(), User.banned.is_(False))
    return db.session.scalars(query).one_or_none()


def _invalid(message: str) -> Invalid:
    return Invalid(message, fields={"handle": message})
