"""Device login for command lines: signed codes, approval in the browser, and the token the command line polls for.

Contract sections 1.4 and 2.1, with appendix B 11: a session is bound to the hash of its code, so a device may sign in
again without signing out. The token is derived, not stored: an HMAC of code, user and the session's creation time
under the server's secret. So `status` can return it once, later, while the table holds only its SHA-256.
"""

import hashlib
import hmac
import uuid
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from models.accounts import bans, device_requests
from models.accounts.credentials import (
    CLI_LIFETIME,
    Credential,
    check_limit,
    credential_created,
    hash_token,
    lock_browser,
)
from models.accounts.sessions import Fingerprint, FingerprintUser, Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Forbidden

CODE_LIFETIME = timedelta(hours=1)
FINGERPRINT_LENGTH = 1000


class DeviceCode(NamedTuple):
    """A signed code. `expires_at` is epoch milliseconds as decimal text, exactly as it was hashed."""

    fingerprint_id: str
    expires_at: str
    hash: str

    @property
    def text(self) -> str:
        """The code as it appears in the login URL."""
        return f"{self.fingerprint_id}.{self.expires_at}.{self.hash}"

    @property
    def short(self) -> str:
        """What a person compares: the end of the login URL, which the command line shows, as `1a2b-3c4d`."""
        return f"{self.hash[-8:-4]}-{self.hash[-4:]}"


class DeviceCodeStatus(Enum):
    """Whether a signed-in user can connect a device with this code."""

    INVALID = "invalid"
    EXPIRED = "expired"
    CONNECTED = "connected, the command line has not asked yet"
    USED = "connected earlier"
    REFUSED = "refused"
    TAKEN = "another user's device"
    READY = "may be connected"
    DONE = "connected now"


class DeviceRefused(Forbidden):
    """The sign-in was refused in the browser."""


def code_hash(secret: str, fingerprint_id: str, expires_at: str) -> str:
    """Return the lower-case hex SHA-256 of secret, fingerprint and expiry concatenated (contract 1.4)."""
    return hashlib.sha256(
        f"{secret}{fingerprint_id}{expires_at}".encode("utf-8", "surrogateescape")
    ).hexdigest()


def issue_code(secret: str, fingerprint_id: str, now: datetime) -> DeviceCode:
    """Create a code that is valid for one hour. Writes nothing."""
    expires_at = str(_milliseconds(now + CODE_LIFETIME))
    return DeviceCode(fingerprint_id, expires_at, code_hash(secret, fingerprint_id, expires_at))


def read_code(text: str) -> DeviceCode | None:
    """Parse a code, or return None unless it has three parts. A fingerprint may contain dots (contract 1.4, fix)."""
    parts = text.rsplit(".", 2)
    return DeviceCode(*parts) if len(parts) == 3 else None


def code_status(secret: str, code: DeviceCode | None, now: datetime) -> DeviceCodeStatus:
    """Check signature and expiry of a code: INVALID, EXPIRED or READY."""
    if code is None or not _is_signed(secret, code):
        return DeviceCodeStatus.INVALID
    now_ms = _milliseconds(now)
    if int(code.expires_at) < now_ms:
        return DeviceCodeStatus.EXPIRED
    # The plain hash cannot tell "fp9" + "17…" from "fp" + "917…", so reject lifetimes over an hour.
    too_late = int(code.expires_at) > now_ms + CODE_LIFETIME // timedelta(milliseconds=1)
    return DeviceCodeStatus.INVALID if too_late else DeviceCodeStatus.READY


def code_status_for(secret: str, code: DeviceCode | None, user: User, now: datetime) -> DeviceCodeStatus:
    """Check what this code would do for this user, in the order of contract 1.4. Writes nothing."""
    outcome = code_status(secret, code, now)
    if outcome is not DeviceCodeStatus.READY or code is None:
        return outcome
    mine = select(Session).where(Session.user_id == user.id, Session.cli_auth_hash == code.hash)
    session = db.session.scalars(mine.limit(1)).first()
    if session is not None:
        return DeviceCodeStatus.USED if session.cli_collected_at else DeviceCodeStatus.CONNECTED
    request = device_requests.find(code.hash)
    if request is not None and request.refused_at:
        return DeviceCodeStatus.REFUSED
    others = select(Session).where(
        Session.fingerprint_id == code.fingerprint_id, Session.user_id != user.id, Session.expires > now
    )
    if db.session.scalars(others.limit(1)).first() is not None:
        return DeviceCodeStatus.TAKEN
    return DeviceCodeStatus.READY


def connect(
    secret: str,
    code: DeviceCode | None,
    by: Credential,
    now: datetime,
    *,
    limit: int | None = None,
) -> DeviceCodeStatus:
    """Sign in the command line of `code` as the user of the browser session `by`. Returns DONE or why not.

    Locks that session, then the code's request and the device's row: a code approved twice creates one session, and none
    after it was refused. Raises Forbidden for a
    credential that is not a browser session, AccountSuspended, and WriteLimitExceeded for a user with `limit` command
    line sessions (`check_limit`). Flushes.
    """
    bans.raise_if_banned(by.user, by.session)
    if limit is not None:
        remedy = "Sign out a command line that is not used"
        check_limit(by.user, "cli", limit, remedy, "STOA_CLI_SESSIONS_PER_ACCOUNT")
    user, parent = by.user, lock_browser(by.session)
    outcome = code_status_for(secret, code, user, now)
    if outcome is not DeviceCodeStatus.READY or code is None:
        return outcome
    device_requests.lock(code.hash, now)
    row = insert(Fingerprint).values(id=code.fingerprint_id, created_at=now).on_conflict_do_nothing()
    db.session.execute(row)
    db.session.execute(select(Fingerprint.id).where(Fingerprint.id == code.fingerprint_id).with_for_update())
    outcome = code_status_for(secret, code, user, now)
    if outcome is not DeviceCodeStatus.READY:
        return outcome
    db.session.execute(
        update(Fingerprint).where(Fingerprint.id == code.fingerprint_id).values(sig_hash=code.hash)
    )
    token = _token(secret, code, user.id, now)
    session = Session(
        session_token=hash_token(token),
        user_id=user.id,
        type="cli",
        expires=now + CLI_LIFETIME,
        created_at=now,
        parent=parent,
        fingerprint_id=code.fingerprint_id,
        cli_auth_hash=code.hash,
        token_hint=token[-4:],
    )
    db.session.add(session)
    db.session.flush()
    credential_created.send(session, now=now)
    known = insert(FingerprintUser).values(
        fingerprint_id=code.fingerprint_id, user_id=user.id, created_at=now
    )
    db.session.execute(known.on_conflict_do_nothing())
    return DeviceCodeStatus.DONE


def refuse(secret: str, code: DeviceCode | None, user: User, now: datetime) -> DeviceCodeStatus:
    """Refuse a code: its command line learns it with its next poll, and nobody can approve it any more. Returns DONE, or why
    not: REFUSED if it was refused before. Locks the code's request. Idempotent. Flushes."""
    outcome = code_status_for(secret, code, user, now)
    if outcome is not DeviceCodeStatus.READY or code is None:
        return outcome
    request = device_requests.lock(code.hash, now)
    outcome = code_status_for(secret, code, user, now)
    if outcome is DeviceCodeStatus.READY:
        request.refused_at = now
        db.session.flush()
        return DeviceCodeStatus.DONE
    return outcome


def share_device(user_id: str, other_id: str) -> bool:
    """Whether both users ever signed in on the same device, also if they have signed out since."""
    mine, theirs = aliased(FingerprintUser), aliased(FingerprintUser)
    shared = (
        select(mine.fingerprint_id)
        .join(theirs, theirs.fingerprint_id == mine.fingerprint_id)
        .where(mine.user_id == user_id, theirs.user_id == other_id)
    )
    return db.session.scalars(shared.limit(1)).first() is not None


def collect(secret: str, code: DeviceCode, now: datetime) -> tuple[User, str] | None:
    """Return user and raw token of the session created for this code, once. None until the code is approved.

    Of concurrent requests, one gets the token and the others None. Also None for a wrong signature, an expired code,
    and a session created under another server secret. Raises AccountSuspended for a banned user, and DeviceRefused for a
    code that was refused. Flushes.
    """
    if not _is_signed(secret, code) or int(code.expires_at) < _milliseconds(now):
        return None
    rows = db.session.execute(
        select(Session, User)
        .join(User, User.id == Session.user_id)
        .where(
            Session.type == "cli",
            Session.fingerprint_id == code.fingerprint_id,
            Session.cli_auth_hash == code.hash,
            Session.cli_collected_at.is_(None),
            Session.expires > now,
        )
        .order_by(Session.created_at.desc())
    )
    for session, user in rows:
        token = _token(secret, code, user.id, session.created_at)
        if not hmac.compare_digest(hash_token(token), session.session_token):
            continue
        bans.raise_if_banned(user, session)
        if _mark_collected(session, now):
            return user, token
    request = device_requests.find(code.hash)
    if request is not None and request.refused_at:
        raise DeviceRefused("The sign-in was refused in the browser.")
    return None


def _mark_collected(session: Session, now: datetime) -> bool:
    marked = (
        update(Session)
        .where(Session.session_token == session.session_token, Session.cli_collected_at.is_(None))
        .values(cli_collected_at=now)
        .returning(Session.session_token)
    )
    return db.session.scalars(marked).one_or_none() is not None


def disconnect(token: str, user_id: str, fingerprint_id: str) -> bool:
    """Delete the session of this token, user and device, and the device's signature. Returns whether it existed."""
    row = db.session.scalars(
        select(Session)
        .where(
            Session.session_token == hash_token(token),
            Session.user_id == user_id,
            Session.fingerprint_id == fingerprint_id,
        )
        .with_for_update()
    ).one_or_none()
    if row is None:
        return False
    db.session.delete(row)
    db.session.flush()
    db.session.execute(update(Fingerprint).where(Fingerprint.id == fingerprint_id).values(sig_hash=None))
    return True


def _is_signed(secret: str, code: DeviceCode) -> bool:
    if not (code.expires_at.isascii() and code.expires_at.isdigit() and len(code.expires_at) <= 15):
        return False
    expected = code_hash(secret, code.fingerprint_id, code.expires_at)
    return hmac.compare_digest(expected.encode(), code.hash.encode("utf-8", "surrogateescape"))


def _token(secret: str, code: DeviceCode, user_id: str, created_at: datetime) -> str:
    message = "\0".join(("stoa cli token", code.text, user_id, created_at.isoformat(timespec="microseconds")))
    digest = hmac.digest(secret.encode(), message.encode("utf-8", "surrogateescape"), "sha256")
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
