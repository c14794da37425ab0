"""The invitations of an organisation as lists show them: who invited, and the timeline of each."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select, tuple_

from models.accounts.users import User
from models.core.db import db
from models.core.errors import NotFound
from models.orgs.invite_events import OrgInviteEvent
from models.orgs.invites import is_open
from models.orgs.org import OrgInvite

PAGE = 50


class ListedInvite(NamedTuple):
    """An invitation, who sent it last, and its timeline, oldest first."""

    invite: OrgInvite
    by: User
    events: Sequence[OrgInviteEvent]


class InvitePage(NamedTuple):
    """A page of invitations, newest first, and whether there are more."""

    rows: list[ListedInvite]
    more: bool


def open_invites(org_id: str) -> list[tuple[OrgInvite, User]]:
    """The open invitations with who sent them, expired ones included, oldest first; at most 1,000 (contract 2.8)."""
    query = (
        select(OrgInvite, User)
        .join(User, User.id == OrgInvite.invited_by)
        .where(OrgInvite.org_id == org_id, *is_open())
        .order_by(OrgInvite.created_at, OrgInvite.id)
        .limit(1_000)
    )
    return [(row, by) for row, by in db.session.execute(query)]


def invite_page(org_id: str, *, all: bool, before: tuple[datetime, str] | None = None) -> InvitePage:
    """A page of the organisation's invitations: the open ones, or with `all` also the closed ones."""
    query = (
        select(OrgInvite, User).join(User, User.id == OrgInvite.invited_by).where(OrgInvite.org_id == org_id)
    )
    if not all:
        query = query.where(*is_open())
    if before:
        query = query.where(tuple_(OrgInvite.created_at, OrgInvite.id) < before)
    query = query.order_by(OrgInvite.created_at.desc(), OrgInvite.id.desc()).limit(PAGE + 1)
    found = db.session.execute(query).all()
    events = _events([row.id for row, _ in found[:PAGE]])
    rows = [ListedInvite(row, by, events.get(row.id, [])) for row, by in found[:PAGE]]
    return InvitePage(rows, len(found) > PAGE)


def owned_invite(org_id: str, id: str) -> OrgInvite:
    """One invitation of the organisation. Raises NotFound."""
    row = db.session.get(OrgInvite, id)
    if row is None or row.org_id != org_id:
        raise NotFound("This invitation does not exist.")
    return row


def _events(invite_ids: Sequence[str]) -> dict[str, list[OrgInviteEvent]]:
    query = select(OrgInviteEvent).where(OrgInviteEvent.invite_id.in_(invite_ids)).order_by(OrgInviteEvent.id)
    events: dict[str, list[OrgInviteEvent]] = {}
    for event in db.session.scalars(query):
        events.setdefault(event.invite_id, []).append(event)
    return events
