"""Magic links: single-use sign-in links, valid for 15 minutes. The table stores the SHA-256 of the token."""

import secrets
from dataclasses import asdict
from datetime import datetime, timedelta

from sqlalchemy import select, update

from models.accounts.credentials import hash_token
from models.accounts.sessions import LoginLink
from models.accounts.signing_in import Identity
from models.core.db import db

LIFETIME = timedelta(minutes=15)


def issue(
    email: str,
    *,
    identity: Identity | None = None,
    browser: str | None = None,
    next: str | None = None,
    now: datetime,
    ip: str | None = None,
) -> str:
    """Create a link for a normalised address. Returns its path with the raw token, which is not stored. Flushes.

    With `identity`, the link connects exactly this external identity to the account of the address, and only in the
    browser whose nonce is `browser`. `next` is the path to open after sign-in; the caller ensures that it is local.
    """
    token = secrets.token_urlsafe(32)
    db.session.add(
        LoginLink(
            token_hash=hash_token(token),
            email=email,
            next=next,
            created_at=now,
            expires_at=now + LIFETIME,
            ip=ip,
            identity=asdict(identity) if identity else None,
            browser=hash_token(browser) if browser else None,
        )
    )
    db.session.flush()
    return f"/login/link/{token}"


def identity_of(link: LoginLink) -> Identity | None:
    """Return the external identity that this link connects, if any."""
    return Identity(**link.identity) if link.identity else None


def requested_by(link: LoginLink, browser: str | None) -> bool:
    """Whether the browser with this nonce requested the link."""
    return browser is not None and link.browser == hash_token(browser)


def find(token: str, now: datetime) -> LoginLink | None:
    """Return the unused, unexpired link of this token, or None. Does not use it."""
    return db.session.scalars(
        select(LoginLink).where(
            LoginLink.token_hash == hash_token(token), LoginLink.used_at.is_(None), LoginLink.expires_at > now
        )
    ).one_or_none()


def use(token: str, now: datetime) -> LoginLink | None:
    """Mark the link as used and return it, or None. Of concurrent requests, one gets it."""
    return db.session.scalars(
        update(LoginLink)
        .where(
            LoginLink.token_hash == hash_token(token), LoginLink.used_at.is_(None), LoginLink.expires_at > now
        )
        .values(used_at=now)
        .returning(LoginLink)
    ).one_or_none()
