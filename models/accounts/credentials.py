"""Look up, create, list and revoke credentials (rows of `session`).

Tokens are random or derived and have at least 122 bits of entropy. The table stores their SHA-256, so the timing of a
lookup by primary key reveals nothing about a token.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from blinker import Signal
from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.orm.attributes import set_committed_value

from models.accounts import api_keys, bans, device_requests, key_format, write_limits
from models.accounts.api_keys import ApiKey, KeyExpired, KeyRules
from models.accounts.key_format import MistypedKey
from models.accounts.sessions import NEVER, USER_AGENT_LENGTH, Fingerprint, LoginLink, Session
from models.accounts.users import SERVICE_DOMAIN, User
from models.core.db import db, lock_name
from models.core.errors import Conflict, Forbidden, NotFound

WEB_LIFETIME = timedelta(days=30)
CLI_LIFETIME = timedelta(days=365)
SLIDE_AFTER = timedelta(hours=24)
RETENTION = timedelta(days=30)
TOUCH_EVERY = timedelta(minutes=5)
PAT_PREFIX = "cb-pat-"
PAT_DAYS = 365
NAME_LENGTH = 100


credential_created = Signal()
"""Sent with a new API key or command line session and `now`, in the same transaction."""

_OWNER = (
    select(Session, User, ApiKey)
    .join(User, User.id == Session.user_id)
    .outerjoin(ApiKey, ApiKey.key_id == Session.session_token)
    .where(Session.session_token == bindparam("token"))
)


class Credential(NamedTuple):
    """A session row and its user, and for a key with an id of its own, what that may do."""

    session: Session
    user: User
    key: ApiKey | None = None


def hash_token(token: str) -> str:
    """Return the lower-case hex SHA-256 of a token. `key_format.present` gives the public id of a credential."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def find(token: str, now: datetime) -> Credential | None:
    """Return the unexpired credential of any type for this bearer token (contract 1.2 A, appendix B 1), or None.

    Raises AccountSuspended when its user is banned, and KeyExpired for an expired key with an id of its own.
    """
    found = _find(token, now)
    if found is None or found.session.disabled_at is not None:
        return None
    if found.session.expires <= now:
        if found.key is not None:
            raise KeyExpired
        return None
    return _unless_banned(found)


def find_browser(token: str, now: datetime) -> Credential | None:
    """Return the credential for this session cookie, of any type (contract 1.2 B), or None. Deletes an expired row.

    The key of an organisation is no browser session: a key keeps its secret when it moves to another member, and whoever
    knew it must not read that member's own pages. Nor is a key with scopes, which pages do not check. Raises AccountSuspended
    when its user is banned.
    """
    found = _find(token, now)
    if found is None or found.session.org_id is not None or found.key is not None:
        return None
    if found.session.expires <= now:
        _delete([found.session])
        return None
    return None if found.session.disabled_at is not None else _unless_banned(found)


def _unless_banned(found: Credential | None) -> Credential | None:
    if found:
        bans.raise_if_banned(found.user, found.session)
    return found


def _find(token: str, now: datetime) -> Credential | None:
    try:
        presented = key_format.present(token)
    except MistypedKey:
        return None
    row = db.session.execute(_OWNER, {"token": presented.id}).one_or_none()
    return Credential(*row) if row and api_keys.matches(row[2], presented, now) else None


def slide(session: Session, now: datetime) -> bool:
    """Extend a web session to 30 days from now, at most once a day. Returns whether it was extended.

    Other types are left alone: the trigger `session_slide` extends command line sessions, and API keys keep their
    expiry date.
    """
    if session.type != "web" or session.expires - WEB_LIFETIME + SLIDE_AFTER > now:
        return False
    _note(session, expires=now + WEB_LIFETIME)
    return True


def touch(session: Session, now: datetime, *, ip: str | None = None, user_agent: str | None = None) -> bool:
    """Update the last use and from where, at most every five minutes. Returns whether it was updated.

    The browser is stored for web sessions only.
    """
    if session.last_used_at is not None and session.last_used_at > now - TOUCH_EVERY:
        return False
    values = {"last_used_at": now, "last_used_ip": ip}
    if session.type == "web":
        values["user_agent"] = (user_agent or "")[:USER_AGENT_LENGTH] or session.user_agent
    _note(session, **values)
    return True


def _note(session: Session, **values: Any) -> None:
    # Bypasses the unit of work: a concurrent revocation of the row is not an error.
    db.session.execute(
        update(Session)
        .where(Session.session_token == session.session_token)
        .values(values)
        .execution_options(synchronize_session=False)
    )
    for name, value in values.items():
        set_committed_value(session, name, value)


def open_web(
    user: User, now: datetime, *, ip: str | None = None, user_agent: str | None = None
) -> tuple[str, Session]:
    """Create a browser session that lasts 30 days. Returns the raw token, which is not stored, and the row.

    Takes back the user's deletion of the account. Raises AccountSuspended for a banned user, and Forbidden for a service account or
    an erased account.
    """
    bans.raise_if_banned(user)
    if user.deleted_at is not None:
        # waits for the job that erases the account
        db.session.refresh(user, with_for_update={"key_share": True})
        if user.erased_at is not None:
            raise Forbidden("This account was deleted.")
        user.deleted_at = None
    if user.email.endswith(f"@{SERVICE_DOMAIN}"):
        raise Forbidden("A service account does not sign in.")
    token = secrets.token_hex(32)
    row = Session(
        session_token=hash_token(token),
        user_id=user.id,
        type="web",
        expires=now + WEB_LIFETIME,
        created_at=now,
        token_hint=token[-4:],
        last_used_at=now,
        last_used_ip=ip,
        user_agent=(user_agent or "")[:USER_AGENT_LENGTH] or None,
    )
    db.session.add(row)
    db.session.flush()
    return token, row


def lock_browser(session: Session, *, to_end: bool = False) -> str:
    """Lock the browser session that creates or (`to_end`) revokes other credentials. Returns its public id.

    Creating takes a shared lock on this session. Revoking locks all of the user's browser sessions in the order of
    their ids, which serialises concurrent revocations and the creation of credentials. Raises Forbidden for an API
    key or a command line session, even in the browser's cookie, and for a session that was revoked in the meantime.
    So keys create no credentials, and no credential is created while its parent is being revoked.
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


def check_limit(user: User, type_: str, limit: int, remedy: str, setting: str) -> None:
    """Raise WriteLimitExceeded (409) for a user with `limit` credentials of this type, stored expired ones included.

    Takes an advisory lock until the transaction ends, before any other lock, so concurrent requests cannot exceed the
    limit.
    """
    lock_name(f"{type_} credentials of {user.id}")
    count = select(func.count()).where(Session.user_id == user.id, Session.type == type_)
    used = db.session.scalar(count) or 0
    if used >= limit:
        noun = "API keys" if type_ == "pat" else "Command line sessions"
        raise write_limits.limit_reached(used, f"{noun} of this account", limit, remedy, setting)


def create_key(
    user: User,
    *,
    by: Session | None,
    days: float | None = PAT_DAYS,
    name: str | None = None,
    limit: int | None = None,
    now: datetime,
    org_id: str | None = None,
    team_id: str | None = None,
    rules: KeyRules | None = None,
) -> tuple[str, Session]:
    """Create an API key that lasts 1 to 365 days, or (None) until it is revoked. Returns raw token and row.

    `rules` are its scopes and limits; without them it is of the older kind (`cb-pat-` and 64 hex digits), which may do everything.
    The key acts for the organisation `org_id`, of which the user must be a member, as part of its team `team_id`, or (None) for
    the user's account.
    `by` is the browser session that requests it, None for the operator. `limit` is the user's maximum number of keys,
    stored expired ones included. Raises Forbidden (`lock_browser`), WriteLimitExceeded (`check_limit`), Invalid for the rules, and
    AccountSuspended for a banned user.
    """
    bans.raise_if_banned(user)
    rules = rules and api_keys.checked_rules(rules)
    if limit is not None:
        check_limit(user, "pat", limit, "Revoke an API key that is not used", "STOA_KEYS_PER_ACCOUNT")
    parent = lock_browser(by) if by else None
    token = (
        key_format.new_secret(key_format.new_id(rules.environment))
        if rules
        else PAT_PREFIX + secrets.token_hex(32)
    )
    row = Session(
        session_token=key_format.present(token).id,
        user_id=user.id,
        type="pat",
        expires=NEVER if days is None else now + timedelta(days=days),
        created_at=now,
        name=name,
        token_hint=key_format.key_hint(token) if rules else f"{token[:15]}...{token[-8:]}",
        parent=parent,
        org_id=org_id,
        team_id=team_id,
    )
    db.session.add(row)
    db.session.flush()
    if rules:
        api_keys.add_key(row, token, rules, by=by.user_id if by else user.id)
    credential_created.send(row, now=now)
    return token, row


def change_key(
    user: User,
    identifier: str,
    *,
    name: str | None,
    on: bool,
    expires: datetime | None = None,
    by: Session,
    now: datetime,
) -> Session:
    """Rename the user's API key, switch it off or on (off, it is unknown to every door), and let it expire at `expires` (`NEVER`: not;
    None: as before). Flushes. Returns the row, locked.

    Raises NotFound, Forbidden (`lock_browser`), and Conflict for a new expiry while the organisation that pays is deleted.
    """
    lock_browser(by)
    row = find_owned(user, identifier, ("pat",))
    if row is None:
        raise NotFound("This key does not exist.")
    db.session.refresh(row, with_for_update=True)
    row.name = name
    if on != (row.disabled_at is None):
        row.disabled_at = None if on else now
    if expires is not None:
        if row.kept_expires is not None:
            raise Conflict("The organisation that pays for this key is deleted.")
        row.expires = expires
    db.session.flush()
    return row


def keys(user: User) -> Sequence[Session]:
    """List the user's API keys, newest first, expired ones included."""
    return db.session.scalars(
        select(Session)
        .where(Session.user_id == user.id, Session.type == "pat")
        .order_by(Session.created_at.desc(), Session.session_token)
    ).all()


def sessions(user: User) -> Sequence[tuple[Session, Fingerprint | None]]:
    """List the user's web and command line sessions with their devices, newest first, expired ones included."""
    rows = db.session.execute(
        select(Session, Fingerprint)
        .outerjoin(Fingerprint, Fingerprint.id == Session.fingerprint_id)
        .where(Session.user_id == user.id, Session.type != "pat")
        .order_by(Session.created_at.desc(), Session.session_token)
    )
    return [(session, device) for session, device in rows]


def is_public_id(text: str) -> bool:
    """Whether a text may be the public id of a credential."""
    return text.replace("_", "").isalnum()


def find_owned(user: User, identifier: str, types: Sequence[str]) -> Session | None:
    """Return the user's credential of one of `types` with this public id (the SHA-256), or None."""
    if not is_public_id(identifier):
        return None
    return db.session.scalars(
        select(Session).where(
            Session.session_token == identifier, Session.user_id == user.id, Session.type.in_(types)
        )
    ).one_or_none()


def revoke(user: User, tokens: Iterable[str], types: Sequence[str]) -> list[Session]:
    """Delete the user's credentials of `types` that `tokens` name, raw or by SHA-256. Returns the deleted rows.

    Revoking a web session also revokes the API keys and command line sessions it created. Devices of deleted command
    line sessions lose their signature. Unknown tokens and other users' tokens are ignored.
    """
    ids = set(tokens)
    for token in tuple(ids):
        with suppress(MistypedKey):
            ids.add(key_format.present(token).id)
    rows = db.session.scalars(
        select(Session)
        .where(Session.session_token.in_(ids), Session.user_id == user.id, Session.type.in_(types))
        .with_for_update()
    ).all()
    parents = [row.session_token for row in rows if row.type == "web"]
    # A separate statement, so that it sees all children created before the parent was locked.
    children = select(Session).where(
        Session.user_id == user.id, Session.parent.in_(parents), Session.session_token.not_in(ids)
    )
    return _delete([*rows, *db.session.scalars(children.with_for_update())])


def revoke_others(user: User, current: Session, *, keep_keys: bool = False) -> list[Session]:
    """Sign out everywhere else. Returns the deleted rows.

    Deletes the user's web sessions other than `current`, and the command line sessions and (unless `keep_keys`) API
    keys created by any other browser session, ended ones included. Raises Forbidden (`lock_browser`).
    """
    current_id = lock_browser(current, to_end=True)
    others = select(Session).where(
        Session.user_id == user.id, Session.type == "web", Session.session_token != current_id
    )
    rows = db.session.scalars(others).all()
    types = ("cli",) if keep_keys else ("cli", "pat")
    children = select(Session).where(
        Session.user_id == user.id,
        Session.type.in_(types),
        Session.parent.is_not(None),
        Session.parent != current_id,
    )
    return _delete([*rows, *db.session.scalars(children.with_for_update())])


def revoke_all(user: User, type_: str) -> list[Session]:
    """Delete all of the user's credentials of one type. Returns the deleted rows."""
    rows = select(Session).where(Session.user_id == user.id, Session.type == type_)
    return _delete(db.session.scalars(rows.with_for_update()).all())


def count_by_type(rows: Iterable[Session]) -> dict[str, int]:
    """Count rows by session type, for the audit log and messages."""
    return dict(Counter(row.type for row in rows))


def close(session: Session) -> None:
    """Delete one credential of any type, to sign out."""
    _delete([session])


def delete_expired(now: datetime) -> None:
    """Delete credentials that expired 30 days ago, links that expired a day ago and old device requests. Idempotent."""
    db.session.execute(delete(Session).where(Session.expires < now - RETENTION))
    db.session.execute(delete(LoginLink).where(LoginLink.expires_at < now - timedelta(days=1)))
    device_requests.delete_old(now)


def _delete(rows: Sequence[Session]) -> list[Session]:
    devices = {row.fingerprint_id for row in rows if row.fingerprint_id}
    if rows:
        db.session.execute(
            delete(Session)
            .where(Session.session_token.in_([row.session_token for row in rows]))
            .execution_options(synchronize_session=False)
        )
        for row in rows:
            if row in db.session:
                db.session.expunge(row)
    if devices:
        db.session.execute(update(Fingerprint).where(Fingerprint.id.in_(devices)).values(sig_hash=None))
    return list(rows)
