"""Periodic work on invitations: remind of those that end soon, and note those that expired."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import aliased

from models.accounts.credentials import hash_token
from models.accounts.users import User
from models.core.db import db
from models.orgs import invite_mails
from models.orgs.invite_events import OrgInviteEvent
from models.orgs.invites import derived_token, is_open, note
from models.orgs.org import Org, OrgInvite

REMIND_BEFORE = timedelta(days=1)
BATCH = 500


def remind(now: datetime) -> int:
    """Remind of open invitations that expire within a day, once after each time they were sent; at most 500. Returns how many.

    Invitations whose link this server cannot repeat, because its secret changed, are left out. Locks them; flushes.
    """
    query = (
        select(OrgInvite, Org, User)
        .join(Org, Org.id == OrgInvite.org_id)
        .join(User, User.id == OrgInvite.invited_by)
        .where(
            *is_open(),
            OrgInvite.expires_at > now,
            OrgInvite.expires_at <= now + REMIND_BEFORE,
            Org.deleted_at.is_(None),
            ~_since_sent("reminded"),
        )
        .order_by(OrgInvite.expires_at)
        .limit(BATCH)
        .with_for_update(of=OrgInvite, skip_locked=True)
    )
    reminded = 0
    for row, org, by in db.session.execute(query).all():
        token = derived_token(row.id, row.issue)
        if hash_token(token) == row.token:
            invite_mails.send_invitation(org, row, by, token, reminder=True)
            note(row, "reminded", now)
            reminded += 1
    db.session.flush()
    return reminded


def note_expired(now: datetime) -> int:
    """Add to the timeline of expired open invitations that they expired; at most 500. Returns how many. Flushes."""
    query = (
        select(OrgInvite)
        .where(*is_open(), OrgInvite.expires_at <= now, ~_since_sent("expired"))
        .order_by(OrgInvite.expires_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    rows = db.session.scalars(query).all()
    for row in rows:
        note(row, "expired", row.expires_at)
    db.session.flush()
    return len(rows)


def _since_sent(kind: str) -> ColumnElement[bool]:
    """Whether the invitation has an event of this kind after it was last sent."""
    sent = aliased(OrgInviteEvent)
    last = select(func.coalesce(func.max(sent.id), 0)).where(
        sent.invite_id == OrgInvite.id, sent.kind == "sent"
    )
    return (
        select(OrgInviteEvent.id)
        .where(
            OrgInviteEvent.invite_id == OrgInvite.id,
            OrgInviteEvent.kind == kind,
            OrgInviteEvent.id > last.scalar_subquery(),
        )
        .exists()
    )
