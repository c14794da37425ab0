"""Credentials as rows of `session`: finding whose a token is, opening, listing and revoking them.

Tokens are random or derived, at least 122 bits; the table holds their SHA-256, so an equality search by the
primary key tells nothing about a token by its timing.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm.attributes import set_committed_value

from models.accounts import bans, write_limits
from models.accounts.sessions import Fingerprint, LoginLink, Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Forbidden

WEB_LIFETIME = timedelta(days=30)
CLI_LIFETIME = timedelta(days=365)
SLIDE_AFTER = timedelta(hours=24)
KEPT = timedelta(days=30)
TOUCH_EVERY = timedelta(minutes=5)
PAT_PREFIX = "cb-pat-"
PAT_DAYS = 365
NAME_LENGTH = 100


_OWNER = (
    select(Session, User)
    .join(User, User.id == Session.user_id)
    .where(Session.session_token == bindparam("token"))
)


class Credential(NamedTuple):
    """A row of `session` and whose it is."""

    session: Session
    user: User


def hash_token(token: str) -> str:
    """What the table keeps of a token: lower-case hex SHA-256. Also the public id of the credential."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def find(token: str, now: datetime) -> Credential | None:
    """Whose an API key is, of whatever type (contract 1.2 A). An expired one is unknown (appendix B 1).

    Raises AccountSuspended when its owner is banned.
    """
    found = _find(token)
    return _unless_banned(found) if found and found.session.expires > now else None


def find_browser(token: str, now: datetime) -> Credential | None:
    """Whose a browser cookie is (contract 1.2 B). Any type of session; an expired row is deleted on sight.

    Raises AccountSuspended when its owner is banned.
    """
    found = _find(token)
    if found and found.session.expires <= now:
        _delete([found.session])
        return None
    return _unless_banned(found)


def _unless_banned(found: Credential | None) -> Credential | None:
    if found:
        bans.refuse(found.user, found.session)
    return found


def _find(token: str) -> Credential | None:
    row = db.session.execute(_OWNER, {"token": hash_token(token)}).one_or_none()
    return Credential(*row) if row else None


def slide(session: Session, now: datetime) -> bool:
    """Give a web session 30 days from now when it is more than a day old; whether it was given.

    Only `web`: a command line's year begins anew in the database with every noted use (trigger `session_slide`),
    and a personal token must end when its maker said.
    """
    if session.type != "web" or session.expires - WEB_LIFETIME + SLIDE_AFTER > now:
        return False
    _note(session, expires=now + WEB_LIFETIME)
    return True


def touch(session: Session, now: datetime) -> bool:
    """Note that the credential was used, at most every five minutes; whether it was noted."""
    if session.last_used_at is not None and session.last_used_at > now - TOUCH_EVERY:
        return False
    _note(session, last_used_at=now)
    return True


def _note(session: Session, **values: datetime) -> None:
    # Not through the unit of work: the row may be revoked in this very moment, which is no error.
    db.session.execute(
        update(Session)
        .where(Session.session_token == session.session_token)
        .values(values)
        .execution_options(synchronize_session=False)
    )
    for name, value in values.items():
        set_committed_value(session, name, value)


def open_web(user: User, now: datetime) -> tuple[str, Session]:
    """Open a browser session of 30 days. Answers the raw token, which is kept nowhere, and the row.

    Raises AccountSuspended for a banned user.
    """
    bans.refuse(user)
    token = secrets.token_hex(32)
    row = Session(
        session_token=hash_token(token),
        user_id=user.id,
        type="web",
        expires=now + WEB_LIFETIME,
        created_at=now,
        token_hint=token[-4:],
        last_used_at=now,
    )
    db.session.add(row)
    db.session.flush()
    return token, row


def lock_browser(session: Session, *, to_end: bool = False) -> str:
    """Lock a browser session that makes, approves or (`to_end`) ends other credentials; its public id.

    To end some, all of the user's browser sessions are locked, in one order: what they make meanwhile waits, and of two
    that end each other one is first. Raises Forbidden for a key or a command line session, also when it came in the
    browser's cookie, and for a session that was ended meanwhile. So no credential makes another one, and none is made
    beside its parent's revocation.
    """
    if session.type != "web":
        raise Forbidden("Sign in with a browser to do this. A key or a command line session cannot.")
    locked = select(Session.session_token).order_by(Session.session_token)
    if to_end:
        locked = locked.where(Session.user_id == session.user_id, Session.type == "web").with_for_update()
    else:
        locked = locked.where(Session.session_token == session.session_token).with_for_update(read=True)
    if session.session_token not in db.session.scalars(locked).all():
        raise Forbidden("This browser was signed out just now. Sign in again.")
    return session.session_token


def check_room(user: User, type_: str, most: int, mend: str, setting: str) -> None:
    """Raise QuotaExceeded (409) when the user has `most` credentials of this type, expired ones that are still kept too.

    Takes an advisory lock until the transaction ends, before any other lock: of any number that are made at the same
    moment no more find room than there is.
    """
    name = f"{type_} credentials of {user.id}"
    db.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
    mine = select(func.count()).where(Session.user_id == user.id, Session.type == type_)
    has = db.session.scalar(mine) or 0
    if has >= most:
        things = "API keys" if type_ == "pat" else "Command line sessions"
        raise write_limits.full(has, f"{things} of this account", most, mend, setting)


def create_key(
    user: User,
    *,
    by: Session | None,
    days: float = PAT_DAYS,
    name: str | None = None,
    most: int | None = None,
    now: datetime,
    org_id: str | None = None,
) -> tuple[str, Session]:
    """Make a personal access token (`cb-pat-` and 64 hex digits) of 1 to 365 days. Answers the raw token once.

    It acts for the organisation `org_id`, of which the user must be a member, or (None) for the user's own account.

    `by` is the browser session that asks for it, None for the operator. `most` is how many tokens the user may have,
    expired ones that are still listed too; `check_room` counts them. Raises
    Forbidden (`lock_browser`), QuotaExceeded, and AccountSuspended for a banned user.
    """
    bans.refuse(user)
    if most is not None:
        check_room(user, "pat", most, "Revoke an API key that is not used", "STOA_KEYS_PER_ACCOUNT")
    parent = lock_browser(by) if by else None
    token = PAT_PREFIX + secrets.token_hex(32)
    row = Session(
        session_token=hash_token(token),
        user_id=user.id,
        type="pat",
        expires=now + timedelta(days=days),
        created_at=now,
        name=name,
        token_hint=f"{token[:15]}...{token[-8:]}",
        parent=parent,
        org_id=org_id,
    )
    db.session.add(row)
    db.session.flush()
    return token, row


def keys(user: User) -> Sequence[Session]:
    """The user's personal access tokens, newest first, expired ones too."""
    return db.session.scalars(
        select(Session)
        .where(Session.user_id == user.id, Session.type == "pat")
        .order_by(Session.created_at.desc(), Session.session_token)
    ).all()


def sessions(user: User) -> Sequence[tuple[Session, Fingerprint | None]]:
    """The user's web and command line sessions with their devices, newest first, expired ones too."""
    rows = db.session.execute(
        select(Session, Fingerprint)
        .outerjoin(Fingerprint, Fingerprint.id == Session.fingerprint_id)
        .where(Session.user_id == user.id, Session.type != "pat")
        .order_by(Session.created_at.desc(), Session.session_token)
    )
    return [(session, device) for session, device in rows]


def own(user: User, identifier: str, types: Sequence[str]) -> Session | None:
    """One of the user's credentials by its public id (the SHA-256)."""
    if not identifier.isalnum():
        return None
    return db.session.scalars(
        select(Session).where(
            Session.session_token == identifier, Session.user_id == user.id, Session.type.in_(types)
        )
    ).one_or_none()


def revoke(user: User, tokens: Iterable[str], types: Sequence[str]) -> list[Session]:
    """Delete those of the user's credentials of `types` that `tokens` name, raw or by SHA-256; the deleted rows.

    With a web session goes what it made: its keys and command line sessions. Devices of deleted command line sessions
    lose their signature. What is unknown or another's is passed over.
    """
    names = set(tokens)
    names |= {hash_token(token) for token in names}
    rows = db.session.scalars(
        select(Session)
        .where(Session.session_token.in_(names), Session.user_id == user.id, Session.type.in_(types))
        .with_for_update()
    ).all()
    parents = [row.session_token for row in rows if row.type == "web"]
    # A statement of its own: it sees what was made by a parent until the lock on that parent was had.
    made = select(Session).where(
        Session.user_id == user.id, Session.parent.in_(parents), Session.session_token.not_in(names)
    )
    return _delete([*rows, *db.session.scalars(made.with_for_update())])


def revoke_others(user: User, here: Session, *, keep_keys: bool = False) -> list[Session]:
    """Sign out everywhere else: delete the user's other web sessions, and the command line sessions and (but for
    `keep_keys`) keys that any browser session other than `here` made, ended ones too; the deleted rows.

    Raises Forbidden (`lock_browser`).
    """
    but = lock_browser(here, to_end=True)
    others = select(Session).where(
        Session.user_id == user.id, Session.type == "web", Session.session_token != but
    )
    rows = db.session.scalars(others).all()
    kinds = ("cli",) if keep_keys else ("cli", "pat")
    made = select(Session).where(
        Session.user_id == user.id,
        Session.type.in_(kinds),
        Session.parent.is_not(None),
        Session.parent != but,
    )
    return _delete([*rows, *db.session.scalars(made.with_for_update())])


def revoke_all(user: User, type_: str) -> list[Session]:
    """Delete all of the user's credentials of one type; the deleted rows."""
    rows = select(Session).where(Session.user_id == user.id, Session.type == type_)
    return _delete(db.session.scalars(rows.with_for_update()).all())


def count_types(rows: Iterable[Session]) -> dict[str, int]:
    """How many of each type, for the audit log and for whoever ended them."""
    return dict(Counter(row.type for row in rows))


def close(session: Session) -> None:
    """Delete one credential (signing out), of whatever type."""
    _delete([session])


def forget_expired(now: datetime) -> None:
    """Delete credentials that ended a month ago and links that ended a day ago. Idempotent; flushes."""
    db.session.execute(delete(Session).where(Session.expires < now - KEPT))
    db.session.execute(delete(LoginLink).where(LoginLink.expires_at < now - timedelta(days=1)))


def _delete(rows: Sequence[Session]) -> list[Session]:
    devices = {row.fingerprint_id for row in rows if row.fingerprint_id}
    if rows:
        db.session.execute(
            delete(Session)
            .where(Session.session_token.in_([row.session_token for row in rows]))
            .execution_options(synchronize_session=False)
        )
        for row in rows:
            db.session.expunge(row)
    if devices:
        db.session.execute(update(Fingerprint).where(Fingerprint.id.in_(devices)).values(sig_hash=None))
    return list(rows)
