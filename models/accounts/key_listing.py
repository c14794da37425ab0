"""Keys with an id of their own, of a person or an organisation: pages of them, revoked ones included."""

from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Select, select, tuple_

from models.accounts.api_keys import ApiKey
from models.accounts.key_changes import KeyWithRules
from models.accounts.sessions import NEVER, Session
from models.core.db import db


class KeyOf(NamedTuple):
    """Whose keys: a person's own (no organisation), or an organisation's, of one member or (None) of all."""

    user_id: str | None
    org_id: str | None


class KeyFacts(NamedTuple):
    """What the session of a key says, or was when the key was revoked."""

    name: str | None
    state: Literal["active", "inactive", "expired", "revoked"]
    expires_at: datetime | None
    last_used_at: datetime | None


class KeyRecord(NamedTuple):
    """A key and its session; a revoked one has none."""

    key: ApiKey
    session: Session | None

    @property
    def own(self) -> KeyWithRules:
        """The key as it is changed; only of one that was not revoked."""
        assert self.session is not None
        return KeyWithRules(self.session, self.key)

    def facts(self, now: datetime) -> KeyFacts:
        """Name, state and times."""
        key, session = self.key, self.session
        if session is None:
            ended = (
                key.expires_at is not None and key.revoked_at is not None and key.expires_at <= key.revoked_at
            )
            return KeyFacts(key.name, "expired" if ended else "revoked", key.expires_at, key.last_used_at)
        state: Literal["active", "inactive", "expired"] = "active"
        if session.expires <= now:
            state = "expired"
        elif session.disabled_at is not None:
            state = "inactive"
        expires = None if session.expires == NEVER else session.expires
        return KeyFacts(session.name, state, expires, session.last_used_at)


def keys_page(
    owner: KeyOf, before: tuple[datetime, str] | None, *, active: bool | None, limit: int
) -> list[KeyRecord]:
    """Keys, newest first, from the one after `before`; `active`: without revoked ones, or (False) only those."""
    query = _of(owner)
    if active is not None:
        query = query.where(ApiKey.revoked_at.is_(None) if active else ApiKey.revoked_at.is_not(None))
    if before:
        query = query.where(tuple_(ApiKey.created_at, ApiKey.id) < tuple_(*before))
    query = query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit)
    return [KeyRecord(*row) for row in db.session.execute(query)]


def key_by_id(owner: KeyOf, id: str = "", *, key_id: str = "", lock: bool = False) -> KeyRecord | None:
    """A key by its id or its public id, locked with its session if `lock`; None if it is not the owner's."""
    query = _of(owner).where(ApiKey.key_id == key_id if key_id else ApiKey.id == id)
    if "\0" in id:
        return None
    query = query.execution_options(populate_existing=True)
    if lock:
        row = db.session.execute(query).one_or_none()
        if row is None:
            return None
        # the session first, as those who revoke it do
        db.session.execute(
            select(Session.session_token).where(Session.session_token == row[0].key_id).with_for_update()
        )
        db.session.execute(select(ApiKey.id).where(ApiKey.id == row[0].id).with_for_update())
    row = db.session.execute(query).one_or_none()
    return KeyRecord(*row) if row else None


def _of(owner: KeyOf) -> Select[ApiKey, Session]:
    query = select(ApiKey, Session).outerjoin(Session, Session.session_token == ApiKey.key_id)
    if owner.org_id is None:
        return query.where(ApiKey.user_id == owner.user_id, ApiKey.org_id.is_(None))
    query = query.where(ApiKey.org_id == owner.org_id)
    return query if owner.user_id is None else query.where(ApiKey.user_id == owner.user_id)
