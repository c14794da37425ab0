"""Magic links: mailed or printed, fifteen minutes, used once. The table keeps the SHA-256 of the token."""

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
    """Make a link for a (clean) address. Answers its path on this server, with the raw token, which is kept nowhere.

    With `identity` the link joins exactly this outside identity to the address's account; no other link does, and no
    other browser than the one whose nonce is `browser`.
    `next` is the path to show after signing in; the caller has made sure it is ours. Flushes.
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
    """The outside identity that waits at the end of this link, if one does."""
    return Identity(**link.identity) if link.identity else None


def begun_in(link: LoginLink, browser: str | None) -> bool:
    """Whether the browser with this nonce began what the link ends."""
    return browser is not None and link.browser == hash_token(browser)


def find(token: str, now: datetime) -> LoginLink | None:
    """The link, when it can still be used. Looking does not use it up."""
    return db.session.scalars(
        select(LoginLink).where(
            LoginLink.token_hash == hash_token(token), LoginLink.used_at.is_(None), LoginLink.expires_at > now
        )
    ).one_or_none()


def use(token: str, now: datetime) -> LoginLink | None:
    """Use the link up: of any number of tries at once, one gets it and the others None."""
    return db.session.scalars(
        update(LoginLink)
        .where(
            LoginLink.token_hash == hash_token(token), LoginLink.used_at.is_(None), LoginLink.expires_at > now
        )
        .values(used_at=now)
        .returning(LoginLink)
    ).one_or_none()
