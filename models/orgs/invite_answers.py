"""Answering an invitation: who may see it, accepting and declining (contract 2.8)."""

from datetime import datetime

from sqlalchemy import select

from models.accounts.credentials import hash_token
from models.accounts.users import User
from models.core.db import db
from models.core.errors import Conflict, DomainError, Forbidden, NotFound
from models.orgs import members
from models.orgs.audit import record_org
from models.orgs.invite_events import OrgInviteEvent
from models.orgs.invites import mark_accepted, note
from models.orgs.org import Org, OrgInvite, OrgMember, lock_org, membership, org_by_id


def find(token: str) -> tuple[OrgInvite, Org] | None:
    """The invitation of a token and its organisation, or None: also for a deleted organisation."""
    query = select(OrgInvite).where(OrgInvite.token == hash_token(token))
    row = db.session.scalars(query).one_or_none()
    org = org_by_id(row.org_id) if row else None
    return (row, org) if row and org and org.deleted_at is None else None


def shown(token: str, now: datetime) -> tuple[OrgInvite, Org]:
    """The open invitation of a token and its organisation.

    Raises NotFound for unknown, declined and withdrawn ones, DomainError (410) for expired, then for accepted ones.
    """
    found = find(token)
    if found is None or found[0].declined_at or found[0].withdrawn_at:
        raise NotFound("Invalid invitation token")
    if found[0].expires_at <= now:
        raise DomainError("Invitation has expired", code="gone", status=410)
    if found[0].accepted_at:
        raise DomainError("Invitation has already been accepted", code="gone", status=410)
    return found


def sender_of(row: OrgInvite) -> User:
    """Who sent the invitation last."""
    return db.session.get_one(User, row.invited_by)


def names(row: OrgInvite, user: User) -> bool:
    """Whether the invitation is for the user's address, in any case of letters."""
    return row.email.lower() == user.email.lower()


def note_opened(row: OrgInvite, now: datetime) -> None:
    """Add to the timeline that the link was opened, once after each e-mail."""
    last = select(OrgInviteEvent.kind).where(OrgInviteEvent.invite_id == row.id)
    kind = db.session.scalars(last.order_by(OrgInviteEvent.id.desc()).limit(1)).one_or_none()
    if kind in ("sent", "reminded"):
        note(row, "opened", now)


def accept(token: str, user: User, now: datetime) -> tuple[Org, OrgMember]:
    """Join the organisation with the invitation's role. Of concurrent requests one joins. Locks the organisation and the
    invitation; flushes.

    Raises NotFound for unknown and closed ones, Forbidden for another address or one that is not verified, Conflict for a
    member (contract 2.8).
    """
    row, org = _answerable(token, now)
    if not names(row, user) or user.email_verified is None:
        raise Forbidden("Invitation email does not match your account")
    return org, take_up(row, org, user, now)


def take_up(row: OrgInvite, org: Org, user: User, now: datetime) -> OrgMember:
    """Make the user a member by an open invitation of their address. The caller has locked the organisation and the
    invitation. Flushes. Raises Conflict for a member."""
    if membership(user.id, org.id):
        raise Conflict("You are already a member of this organization")
    member = members.join(org, user, row.role, how="joined")
    mark_accepted(row, user, now)
    db.session.flush()
    return member


def decline(token: str, now: datetime) -> Org:
    """Decline an open invitation, by whoever has its token. Locks it; flushes. Raises NotFound as `accept` does."""
    row, org = _answerable(token, now)
    row.declined_at = now
    note(row, "declined", now)
    record_org(org.id, "invite.declined", row.email, before={"role": row.role})
    db.session.flush()
    return org


def _answerable(token: str, now: datetime) -> tuple[OrgInvite, Org]:
    found = find(token)
    if found:
        lock_org(found[1].id)
        db.session.refresh(found[0], with_for_update=True)
    # it may have been answered, or sent again with a new token, while this waited
    if found is None or found[0].state(now) != "open" or found[0].token != hash_token(token):
        raise NotFound("Invalid or expired invitation")
    return found
