"""Signing in a command line: signed codes, the browser's consent, the token the command line then asks for.

Contract sections 1.4 and 2.1, with appendix B 11: a session is bound to the hash of the code it was made for, so a
device may sign in again without signing out. The token is derived, not stored: HMAC under the server's secret of
code, user and the session's birth, so that `status` can give it later, once, while the table holds only its SHA-256.
"""

import hashlib
import hmac
import uuid
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert

from models.accounts import bans
from models.accounts.credentials import CLI_LIFETIME, Credential, check_room, hash_token, lock_browser
from models.accounts.sessions import Fingerprint, Session
from models.accounts.users import User
from models.core.db import db

CODE_LIFETIME = timedelta(hours=1)
FINGERPRINT_LENGTH = 1000


class DeviceCode(NamedTuple):
    """A signed code. `expires_at` is the decimal text of epoch milliseconds, as it was hashed."""

    fingerprint_id: str
    expires_at: str
    hash: str

    @property
    def text(self) -> str:
        """The code as it stands in the login address."""
        return f"{self.fingerprint_id}.{self.expires_at}.{self.hash}"


class DeviceCodeStatus(Enum):
    """What a code is worth to a signed-in user."""

    INVALID = "invalid"
    EXPIRED = "expired"
    CONNECTED = "already connected"
    TAKEN = "another user's device"
    READY = "may be connected"
    DONE = "connected"


def code_hash(secret: str, fingerprint_id: str, expires_at: str) -> str:
    """Lower-case hex SHA-256 of secret, fingerprint and expiry, one after the other (contract 1.4)."""
    return hashlib.sha256(
        f"{secret}{fingerprint_id}{expires_at}".encode("utf-8", "surrogateescape")
    ).hexdigest()


def issue_code(secret: str, fingerprint_id: str, now: datetime) -> DeviceCode:
    """A code of one hour. Nothing is written."""
    expires_at = str(_milliseconds(now + CODE_LIFETIME))
    return DeviceCode(fingerprint_id, expires_at, code_hash(secret, fingerprint_id, expires_at))


def read_code(text: str) -> DeviceCode | None:
    """The parts of a code; None when it has not three. A fingerprint may hold dots (contract 1.4, fix)."""
    parts = text.rsplit(".", 2)
    return DeviceCode(*parts) if len(parts) == 3 else None


def judge(secret: str, code: DeviceCode | None, now: datetime) -> DeviceCodeStatus:
    """Whether the code itself is good: INVALID, EXPIRED or READY."""
    if code is None or not _is_signed(secret, code):
        return DeviceCodeStatus.INVALID
    until = _milliseconds(now)
    if int(code.expires_at) < until:
        return DeviceCodeStatus.EXPIRED
    # The plain hash cannot tell "fp9" + "17…" from "fp" + "917…": no code of ours lives longer than an hour.
    late = int(code.expires_at) > until + CODE_LIFETIME // timedelta(milliseconds=1)
    return DeviceCodeStatus.INVALID if late else DeviceCodeStatus.READY


def examine(secret: str, code: DeviceCode | None, user: User, now: datetime) -> DeviceCodeStatus:
    """What this code would do for this user now. Writes nothing; checks in the order of contract 1.4."""
    outcome = judge(secret, code, now)
    if outcome is not DeviceCodeStatus.READY or code is None:
        return outcome
    mine = select(Session).where(Session.user_id == user.id, Session.cli_auth_hash == code.hash)
    if db.session.scalars(mine.limit(1)).first() is not None:
        return DeviceCodeStatus.CONNECTED
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
    most: int | None = None,
) -> DeviceCodeStatus:
    """Let the command line that asked for `code` in as the user of the browser session `by`: DONE, or why not.

    Locks that session and the device's row, in this order, so that one code opened twice makes one session. Raises
    Forbidden for a credential that is no browser session, AccountSuspended, and QuotaExceeded for a user with `most`
    command line sessions (`check_room`). Flushes.
    """
    bans.refuse(by.user, by.session)
    if most is not None:
        mend = "Sign a command line out that is not used"
        check_room(by.user, "cli", most, mend, "STOA_CLI_SESSIONS_PER_ACCOUNT")
    user, parent = by.user, lock_browser(by.session)
    outcome = examine(secret, code, user, now)
    if outcome is not DeviceCodeStatus.READY or code is None:
        return outcome
    row = insert(Fingerprint).values(id=code.fingerprint_id, created_at=now).on_conflict_do_nothing()
    db.session.execute(row)
    db.session.execute(select(Fingerprint.id).where(Fingerprint.id == code.fingerprint_id).with_for_update())
    outcome = examine(secret, code, user, now)
    if outcome is not DeviceCodeStatus.READY:
        return outcome
    db.session.execute(
        update(Fingerprint).where(Fingerprint.id == code.fingerprint_id).values(sig_hash=code.hash)
    )
    token = _token(secret, code, user.id, now)
    db.session.add(
        Session(
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
    )
    db.session.flush()
    return DeviceCodeStatus.DONE


def collect(secret: str, code: DeviceCode, now: datetime) -> tuple[User, str] | None:
    """User and raw token of the session that was made for this code; None as long as there is none.

    A session is collected once: of any number of tries at the same moment, one gets the token and the others None.
    None also for a wrong signature, an expired code, and a session made under another server secret. Flushes. Raises
    AccountSuspended for a banned user.
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
        bans.refuse(user, session)
        if _collect(session, now):
            return user, token
    return None


def _collect(session: Session, now: datetime) -> bool:
    taken = (
        update(Session)
        .where(Session.session_token == session.session_token, Session.cli_collected_at.is_(None))
        .values(cli_collected_at=now)
        .returning(Session.session_token)
    )
    return db.session.scalars(taken).one_or_none() is not None


def disconnect(token: str, user_id: str, fingerprint_id: str) -> bool:
    """Delete exactly the session of this token, user and device, and the device's signature; whether there was one."""
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
