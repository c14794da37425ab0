"""Personal keys under enforced single sign-on: the organisation pays for their calls once they are authorised for it.

A key is authorised in a browser session that came through the identity provider: on a page, or by making it there. Keys of the
organisation need no authorisation.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import select

from models.accounts.credentials import credential_created
from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Forbidden, NotFound
from models.orgs.audit import record_org
from models.orgs.domains import is_paused
from models.orgs.org import Org, membership
from models.orgs.single_sign_on import OrgSsoKey, OrgSsoSession, is_through


def personal_keys(org: Org, user_id: str, now: datetime) -> list[tuple[Session, datetime | None]]:
    """The member's own API keys and command line sessions that have not expired, newest first, and since when each is
    authorised for the organisation; at most 200."""
    query = (
        select(Session, OrgSsoKey.authorized_at)
        .outerjoin(
            OrgSsoKey, (OrgSsoKey.session_token == Session.session_token) & (OrgSsoKey.org_id == org.id)
        )
        .where(Session.user_id == user_id, Session.org_id.is_(None), Session.type != "web")
        .where(Session.expires > now)
        .order_by(Session.created_at.desc(), Session.session_token)
        .limit(200)
    )
    return [(session, at) for session, at in db.session.execute(query)]


def authorize_key(org: Org, user_id: str, key_id: str, now: datetime) -> Session:
    """Let the organisation pay for calls of a personal key of the member, whose browser session came through the identity
    provider. Idempotent; flushes. Raises NotFound."""
    found = _personal_key(org, user_id, key_id, now)
    if db.session.get(OrgSsoKey, (key_id, org.id)) is None:
        _authorize(org.id, found, now)
    return found


def withdraw_key(org: Org, user_id: str, key_id: str, now: datetime) -> Session:
    """Undo `authorize_key`. Idempotent; flushes. Raises NotFound."""
    found = _personal_key(org, user_id, key_id, now)
    row = db.session.get(OrgSsoKey, (key_id, org.id))
    if row is not None:
        db.session.delete(row)
        record_org(org.id, "sso.key_withdrawn", found.name or found.token_hint)
        db.session.flush()
    return found


def check_key(org: Org, key: Session) -> None:
    """Raise Forbidden (`org_sso`) if the organisation enforces single sign-on and this personal key is not authorised for it. People
    whose domain is paused could not, and need not."""
    if org.sso_enforced_at is None or db.session.get(OrgSsoKey, (key.session_token, org.id)) is not None:
        return
    if not is_paused(org.id, db.session.get_one(User, key.user_id).email):
        raise Forbidden(
            "The organisation requires single sign-on, and this key is not authorised for it. Authorise it on the "
            "organisation's page 'Personal keys'.",
            code="org_sso",
        )


def _personal_key(org: Org, user_id: str, key_id: str, now: datetime) -> Session:
    found = next((each for each, _ in personal_keys(org, user_id, now) if each.session_token == key_id), None)
    if found is None:
        raise NotFound("Key not found")
    return found


def _authorize(org_id: str, key: Session, now: datetime) -> None:
    db.session.add(
        OrgSsoKey(session_token=key.session_token, org_id=org_id, user_id=key.user_id, authorized_at=now)
    )
    record_org(org_id, "sso.key_authorized", key.name or key.token_hint)
    db.session.flush()


@credential_created.connect
def _created(key: Session, *, now: datetime, **_: Any) -> None:
    """A personal key made in a browser session that came through an organisation's identity provider is authorised for it."""
    if key.org_id is not None or key.parent is None:
        return
    query = select(OrgSsoSession).where(OrgSsoSession.session_token == key.parent)
    for mark in db.session.scalars(query).all():
        if is_through(mark, now) and membership(key.user_id, mark.org_id) is not None:
            _authorize(mark.org_id, key, now)
