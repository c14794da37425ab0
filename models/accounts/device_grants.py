"""OAuth device grant (RFC 8628) for clients such as Claude Code: a code to confirm in the browser, then access and refresh tokens.

What is confirmed is a command line session like any other: listed, limited and revoked in the same places. Its access tokens are
derived (`access_tokens.py`); refresh tokens are stored as SHA-256, are used once, and the use of an old one ends the session (RFC
6749, 10.4). Clients of projects get the session's own token instead, for thirty days and without refresh (fastest contract 2.5).
"""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ForeignKey, Index, delete, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts import access_tokens, bans, credentials, key_changes
from models.accounts.bans import AccountSuspended
from models.accounts.credentials import CLI_LIFETIME, Credential, credential_created, hash_token, lock_browser
from models.accounts.devices import DeviceCodeStatus
from models.accounts.sessions import Fingerprint, Session
from models.accounts.users import User
from models.core.db import NOW, Base, db
from models.core.errors import DomainError

CODE_LIFETIME = timedelta(minutes=15)
INTERVAL = 5
"""Seconds between two polls, at first."""
MAX_INTERVAL = 60
KEPT = timedelta(days=30)
"""How long used refresh tokens are recognised."""
ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""Of user codes: no vowels, no letters that look like others (RFC 8628, 6.1)."""
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Of user codes of clients of projects, without I and O; four digits follow."""
TOKEN_LIFETIME = timedelta(days=30)
"""Of the token of a client of projects."""
_NOT_IN_CODES = re.compile(r"[^A-Z0-9]")
SURFACES = {"claude_code": "Claude Code"}
"""Clients that say who they are when they ask for a code."""


class DeviceGrant(Base):
    """A device code that was issued. `device_hash` is the SHA-256 of the code that the client polls with. Deleted a day later."""

    __tablename__ = "oauth_device_grant"
    __table_args__ = (Index("idx_oauth_device_grant_session", "session_token"),)

    device_hash: Mapped[str] = mapped_column(primary_key=True)
    user_code: Mapped[str] = mapped_column(unique=True)
    client: Mapped[str | None]
    """The program, as it says itself."""
    address: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW, index=True)
    expires_at: Mapped[datetime]
    poll_seconds: Mapped[int]
    polled_at: Mapped[datetime | None]
    refused_at: Mapped[datetime | None]
    session_token: Mapped[str | None] = mapped_column(ForeignKey("session.sessionToken", ondelete="SET NULL"))
    """The session that was confirmed."""
    family: Mapped[str | None]
    collected_at: Mapped[datetime | None]
    single_token: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its client, of projects, gets one token for thirty days."""


class RefreshToken(Base):
    """A refresh token, as its SHA-256. `family` is that of all of the session's, from which its raw token is derived."""

    __tablename__ = "oauth_refresh_token"
    __table_args__ = (Index("idx_oauth_refresh_token_session", "session_token"),)

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    session_token: Mapped[str] = mapped_column(ForeignKey("session.sessionToken", ondelete="CASCADE"))
    family: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    used_at: Mapped[datetime | None]


class GrantRefused(DomainError):
    """An error of the token endpoint; `code` is that of RFC 6749 and RFC 8628. `keep`: what was recorded with it is to stay."""

    def __init__(self, code: str, message: str, *, status: int = 400, keep: bool = False) -> None:
        super().__init__(message, code=code, status=status)
        self.keep = keep


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the token endpoint answers."""

    access: str
    refresh: str
    email: str


@dataclass(frozen=True, slots=True)
class ClientToken:
    """The token of a client of projects, raw, its user, and the seconds until it expires."""

    access: str
    user: User
    seconds: int


# -- the code ------------------------------------------------------------------------------------------------


def issue_grant(
    now: datetime,
    *,
    address: str | None,
    client: str | None,
    surface: str = "",
    single_token: bool = False,
) -> tuple[str, DeviceGrant]:
    """A new device code, raw, and its row; `single_token` for a client of projects. Flushes."""
    device_code = secrets.token_urlsafe(32)
    first, last = (LETTERS, string.digits) if single_token else (ALPHABET, ALPHABET)
    grant = DeviceGrant(
        device_hash=hash_token(device_code),
        user_code=f"{_random(first)}-{_random(last)}",
        client=SURFACES.get(surface) or client,
        address=address,
        created_at=now,
        expires_at=now + CODE_LIFETIME,
        poll_seconds=INTERVAL,
        single_token=single_token,
    )
    db.session.add(grant)
    db.session.flush()
    return device_code, grant


def _random(letters: str) -> str:
    return "".join(secrets.choice(letters) for _ in range(4))


def find_grant(user_code: str, *, lock: bool = False, single_token: bool = False) -> DeviceGrant | None:
    """The grant with this user code, typed in any case and spacing; None for an unknown one, and with `single_token` for one of other
    clients than those of projects."""
    code = _NOT_IN_CODES.sub("", user_code[:40].upper())
    query = select(DeviceGrant).where(DeviceGrant.user_code == f"{code[:4]}-{code[4:]}")
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    grant = db.session.scalars(query).one_or_none()
    return None if grant and single_token and not grant.single_token else grant


def grant_status(grant: DeviceGrant | None, now: datetime) -> DeviceCodeStatus:
    """What confirming this code would do."""
    if grant is None:
        return DeviceCodeStatus.INVALID
    if grant.refused_at:
        return DeviceCodeStatus.REFUSED
    if grant.family:
        return DeviceCodeStatus.USED if grant.collected_at else DeviceCodeStatus.CONNECTED
    return DeviceCodeStatus.EXPIRED if grant.expires_at <= now else DeviceCodeStatus.READY


def confirm_grant(
    secret: str,
    user_code: str,
    by: Credential,
    now: datetime,
    *,
    org_id: str | None = None,
    limit: int | None = None,
) -> DeviceCodeStatus:
    """Sign in the client of this code as the user of the browser session `by`; `org_id` is the organisation that pays, of which
    the user must be a member. Returns DONE or why not. Locks that session, then the grant: a code confirmed twice makes one session.
    Raises Forbidden, AccountSuspended and WriteLimitExceeded as `devices.connect` does. Flushes."""
    _check_approver(by.user, by.session, limit)
    parent = lock_browser(by.session)
    return _connect(secret, user_code, by.user, now, parent=parent, org_id=org_id)


def approve_grant(
    secret: str,
    user_code: str,
    user: User,
    now: datetime,
    *,
    by: Session | None,
    limit: int | None = None,
) -> DeviceCodeStatus:
    """Sign in the client of projects of this code as `user`, who showed the credential `by` or (None) signed in just now. What a key or a
    command line session approves ends with it, and not later. Returns DONE or why not. Locks as `confirm_grant` does; raises Forbidden
    for a credential that was revoked meanwhile, AccountSuspended and WriteLimitExceeded. Flushes."""
    _check_approver(user, by, limit)
    if by is None:
        return _connect(secret, user_code, user, now, single_token=True)
    if by.type == "web":
        return _connect(secret, user_code, user, now, parent=lock_browser(by), single_token=True)
    key_changes.lock_creator(by, now)
    parent = by.session_token
    return _connect(secret, user_code, user, now, parent=parent, until=by.expires, single_token=True)


def _check_approver(user: User, session: Session | None, limit: int | None) -> None:
    bans.raise_if_banned(user, session)
    if limit is not None:
        remedy = "Sign out a command line that is not used"
        credentials.check_limit(user, "cli", limit, remedy, "STOA_CLI_SESSIONS_PER_ACCOUNT")


def _connect(
    secret: str,
    user_code: str,
    user: User,
    now: datetime,
    *,
    parent: str | None = None,
    org_id: str | None = None,
    until: datetime | None = None,
    single_token: bool = False,
) -> DeviceCodeStatus:
    """`single_token`: codes of clients of projects only. `until`: the latest expiry of their token."""
    grant = find_grant(user_code, lock=True, single_token=single_token)
    outcome = grant_status(grant, now)
    if outcome is not DeviceCodeStatus.READY or grant is None:
        return outcome
    family = secrets.token_hex(16)
    name = grant.client or "Device"
    device = Fingerprint(id=f"{name} {family[:8]}", created_at=now)
    db.session.add(device)
    db.session.flush()
    # until the token is collected, so that it is not promised longer than it lives
    expires = grant.expires_at + TOKEN_LIFETIME if grant.single_token else now + CLI_LIFETIME
    session = _open_session(
        user,
        _session_token(secret, family),
        now,
        name=name,
        expires=min(expires, until or expires),
        fixed_expiry=grant.single_token,
        parent=parent,
        org_id=org_id,
        fingerprint_id=device.id,
    )
    grant.session_token, grant.family = session.session_token, family
    db.session.flush()
    return DeviceCodeStatus.DONE


def sign_in_client(user: User, now: datetime, *, client: str | None, limit: int | None) -> ClientToken:
    """A token of a client of projects for a user who signed in just now, without a code. Raises AccountSuspended and
    WriteLimitExceeded. Flushes."""
    _check_approver(user, None, limit)
    token, expires = secrets.token_hex(32), now + TOKEN_LIFETIME
    _open_session(user, token, now, name=client or "Device", expires=expires, fixed_expiry=True)
    return ClientToken(token, user, int(TOKEN_LIFETIME.total_seconds()))


def _open_session(user: User, token: str, now: datetime, **columns: Any) -> Session:
    hashed, hint = hash_token(token), token[-4:]
    session = Session(
        session_token=hashed, user_id=user.id, type="cli", created_at=now, token_hint=hint, **columns
    )
    db.session.add(session)
    db.session.flush()
    credential_created.send(session, now=now)
    return session


def refuse_grant(user_code: str, now: datetime, *, single_token: bool = False) -> DeviceCodeStatus:
    """Refuse a code, with `single_token` of a client of projects only: its client learns it with its next poll. Returns DONE, or why
    not: REFUSED if it was refused before. Locks the grant. Flushes."""
    grant = find_grant(user_code, lock=True, single_token=single_token)
    outcome = grant_status(grant, now)
    if outcome is not DeviceCodeStatus.READY or grant is None:
        return outcome
    grant.refused_at = now
    db.session.flush()
    return DeviceCodeStatus.DONE


# -- tokens --------------------------------------------------------------------------------------------------


def redeem_grant(secret: str, device_code: str, now: datetime) -> Tokens:
    """The tokens of a confirmed device code, once. Raises GrantRefused. Locks the grant. Flushes."""
    grant, found = _collect(device_code, now, single_token=False)
    try:
        return _tokens(secret, found, str(grant.family), now)
    except AccountSuspended as suspended:
        raise GrantRefused("access_denied", suspended.message) from suspended


def redeem_token(secret: str, device_code: str, now: datetime) -> ClientToken:
    """The token of a confirmed device code of a client of projects, once. Raises GrantRefused. Locks the grant. Flushes."""
    grant, found = _collect(device_code, now, single_token=True)
    try:
        bans.raise_if_banned(found.user, found.session)
    except AccountSuspended as suspended:
        raise GrantRefused("access_denied", suspended.message) from suspended
    raw = _session_token(secret, str(grant.family))
    if hash_token(raw) != found.session.session_token:
        raise GrantRefused("access_denied", "Sign in again: the server's secret was changed.")
    db.session.flush()
    left = min(TOKEN_LIFETIME, found.session.expires - now)
    return ClientToken(raw, found.user, max(int(left.total_seconds()), 0))


def _collect(device_code: str, now: datetime, *, single_token: bool) -> tuple[DeviceGrant, Credential]:
    """The grant, marked as collected, and the session that was confirmed."""
    query = select(DeviceGrant).where(DeviceGrant.device_hash == hash_token(device_code)).with_for_update()
    grant = db.session.scalars(query).one_or_none()
    if grant is None or grant.collected_at or grant.single_token != single_token:
        raise GrantRefused("invalid_grant", "The device code is unknown or was used.")
    if grant.expires_at <= now:
        raise GrantRefused("expired_token", "The device code has expired. Start again.")
    if grant.refused_at:
        raise GrantRefused("access_denied", "The sign-in was refused in the browser.")
    if grant.family is None:
        _wait(grant, now)
    found = _locked(grant.session_token)
    if found is None:
        raise GrantRefused("access_denied", "The sign-in was ended in the browser.")
    grant.collected_at = now
    return grant, found


def _wait(grant: DeviceGrant, now: datetime) -> None:
    """Raise what a poll is answered before the code is confirmed."""
    polled, grant.polled_at = grant.polled_at, now
    # a network delays some polls more than others
    if polled is not None and now - polled < timedelta(seconds=grant.poll_seconds - 1):
        grant.poll_seconds = min(grant.poll_seconds + 5, MAX_INTERVAL)
        raise GrantRefused("slow_down", f"Wait {grant.poll_seconds} seconds between polls.", keep=True)
    raise GrantRefused("authorization_pending", "The code was not confirmed yet.", keep=True)


def refresh_tokens(secret: str, refresh_token: str, now: datetime) -> Tokens:
    """New tokens for a refresh token, which is used up. Raises GrantRefused (401 `invalid_grant`) when it is unknown, its session was
    ended, or its user suspended; and when it was used before, which ends the session: it may have been stolen. Locks the session. Flushes."""
    row = db.session.get(RefreshToken, hash_token(refresh_token))
    found = _locked(row.session_token) if row else None
    if row is None or found is None or found.session.expires <= now or found.session.disabled_at:
        raise _invalid("Sign in again: this sign-in has ended.")
    db.session.refresh(row)
    if row.used_at is not None:
        credentials.close(found.session)
        raise _invalid("Sign in again: this refresh token was used before.", keep=True)
    row.used_at = now
    old = RefreshToken.session_token == row.session_token, RefreshToken.used_at < now - KEPT
    db.session.execute(delete(RefreshToken).where(*old))
    try:
        return _tokens(secret, found, row.family, now)
    except AccountSuspended as suspended:
        raise _invalid(suspended.message) from suspended


def revoke_token(secret: str, token: str, now: datetime) -> Credential | None:
    """End the session of an access or refresh token (RFC 7009). Returns it; None for an unknown token. Flushes."""
    if raw := access_tokens.session_token(secret, token, now):
        found = _locked(hash_token(raw))
    else:
        row = db.session.get(RefreshToken, hash_token(token))
        found = _locked(row.session_token) if row else None
    if found is None:
        return None
    credentials.close(found.session)
    return found


def forget_grants(now: datetime) -> None:
    """Delete device codes issued over a day ago. Idempotent."""
    db.session.execute(delete(DeviceGrant).where(DeviceGrant.created_at < now - timedelta(days=1)))


def _tokens(secret: str, found: Credential, family: str, now: datetime) -> Tokens:
    bans.raise_if_banned(found.user, found.session)
    raw = _session_token(secret, family)
    if hash_token(raw) != found.session.session_token:
        raise _invalid("Sign in again: the server's secret was changed.")
    refresh = secrets.token_urlsafe(32)
    db.session.add(
        RefreshToken(
            token_hash=hash_token(refresh),
            session_token=found.session.session_token,
            family=family,
            created_at=now,
        )
    )
    db.session.flush()
    return Tokens(access_tokens.access_token(secret, raw, now), refresh, found.user.email)


def _invalid(message: str, *, keep: bool = False) -> GrantRefused:
    return GrantRefused("invalid_grant", message, status=401, keep=keep)


def _session_token(secret: str, family: str) -> str:
    return hmac.digest(secret.encode(), f"stoa oauth session\0{family}".encode(), hashlib.sha256).hex()


def _locked(session_token: str | None) -> Credential | None:
    """The session with its user, locked before its refresh tokens, as by its revocation."""
    query = select(Session, User).join(User, User.id == Session.user_id)
    query = query.where(Session.session_token == session_token).with_for_update(of=Session)
    row = db.session.execute(query.execution_options(populate_existing=True)).one_or_none()
    return Credential(*row) if row else None
