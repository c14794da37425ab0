"""Invitations to an organisation: sent by e-mail, accepted by the verified address they name, within seven days."""

import hashlib
import hmac
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select

from models.accounts.credentials import hash_token
from models.accounts.signing_in import clean_email
from models.accounts.users import User
from models.core.db import db, extension, lock_name
from models.core.errors import Conflict, DomainError, Invalid, NotFound
from models.orgs import invite_mails
from models.orgs.audit import record_org
from models.orgs.invite_events import OrgInviteEvent
from models.orgs.invite_lists import Invitee
from models.orgs.org import Org, OrgInvite, OrgMember

LIFETIME = timedelta(days=7)
INVITED_ROLES = ("member", "admin", "billing", "viewer")
"""Owners are not invited: an owner makes a member one."""
SENDS_PER_ADDRESS = 3
SENDS_PER_ORG = 1_000
"""E-mails in 24 hours to one address, and of an organisation. Reminders do not count."""
DAY = timedelta(days=1)


class SentInvite(NamedTuple):
    """An invitation that was just sent, and its token, which is not stored."""

    invite: OrgInvite
    token: str


class LineResult(NamedTuple):
    """What became of one line of a list: `invited` (with the invitation's token), `member`, `pending`, `invalid`, `role` (one
    that is not invited) or `limit`."""

    invitee: Invitee
    role: str
    outcome: str
    token: str | None = None


# -- sending -------------------------------------------------------------------------------------------------


def invite(org: Org, email: str, role: str, by: User, now: datetime) -> SentInvite:
    """Invite an address and enqueue the e-mail. Serialises the invitations of an organisation. Flushes.

    Raises Invalid (400) for a bad address or role, Conflict for a member or an open invitation, expired ones included, and
    DomainError (429) at the limit of e-mails.
    """
    address = _address(email)
    check_role(role)
    _lock(org.id)
    if _members(org.id, [address]):
        raise Conflict("User is already a member")
    if _pending(org.id, [address]):
        raise Conflict("Invitation already exists for this email")
    _check_limits(_sent_today(org.id, now), address)
    return _invite(org, address, role, by, now)


def invite_many(
    org: Org, invitees: Sequence[Invitee], role: str, by: User, now: datetime
) -> list[LineResult]:
    """Invite the addresses of a list, each to its own role or else to `role`; tell what became of every line. Flushes.

    Raises Invalid (400) for a bad `role`.
    """
    check_role(role)
    _lock(org.id)
    addresses = [each.email for each in invitees if each.email]
    members, pending = _members(org.id, addresses), _pending(org.id, addresses)
    sent = _sent_today(org.id, now)
    results = []
    for each in invitees:
        own, token = each.role or role, None
        outcome = _refusal(each, own, members, pending, sent)
        if outcome is None and each.email:
            outcome, token = "invited", _invite(org, each.email, own, by, now).token
            pending.add(each.email)
            sent[each.email] += 1
        results.append(LineResult(each, own, outcome or "invalid", token))
    return results


def resend(org: Org, email: str, by: User, now: datetime) -> SentInvite:
    """Send an open invitation again, expired or not: with a new token, for seven days, by `by`. Flushes.

    Raises NotFound, and DomainError (429) at the limit of e-mails.
    """
    _lock(org.id)
    row = open_invite(org.id, email)
    if row is None:
        raise NotFound("Invitation not found")
    _check_limits(_sent_today(org.id, now), row.email)
    row.issue += 1
    row.invited_by, row.expires_at = by.id, now + LIFETIME
    record_org(org.id, "invite.resent", row.email, after={"role": row.role})
    return _send(org, row, by, now)


def check_role(role: str) -> None:
    """Raise Invalid (400) for a role that is not invited."""
    if role not in INVITED_ROLES:
        message = f"Choose one of the roles {', '.join(INVITED_ROLES)}."
        raise Invalid(message, fields={"role": message}, status=400)


def derived_token(invite_id: str, issue: int) -> str:
    """The token of an issue of an invitation: a UUID v4 that only this server can compute."""
    key = extension("settings").secret_key.encode()
    digest = hmac.digest(key, f"org-invite:{invite_id}:{issue}".encode(), hashlib.sha256)
    return str(uuid.UUID(bytes=digest[:16], version=4))


def note(row: OrgInvite, kind: str, now: datetime) -> None:
    """Add a line to the invitation's timeline."""
    db.session.add(OrgInviteEvent(invite_id=row.id, kind=kind, at=now))


def _invite(org: Org, address: str, role: str, by: User, now: datetime) -> SentInvite:
    id = str(uuid.uuid4())
    row = OrgInvite(
        id=id,
        org_id=org.id,
        email=address,
        role=role,
        issue=1,
        token="",
        invited_by=by.id,
        created_at=now,
        expires_at=now + LIFETIME,
    )
    record_org(org.id, "invite.sent", address, after={"role": role})
    return _send(org, row, by, now)


def _send(org: Org, row: OrgInvite, by: User, now: datetime) -> SentInvite:
    token = derived_token(row.id, row.issue)
    row.token = hash_token(token)
    db.session.add(row)
    db.session.flush()
    note(row, "sent", now)
    invite_mails.send_invitation(org, row, by, token)
    db.session.flush()
    return SentInvite(row, token)


def _address(email: str) -> str:
    try:
        return clean_email(email)
    except Invalid as error:
        raise Invalid(error.message, fields=error.fields, status=400) from None


def _lock(org_id: str) -> None:
    lock_name(f"invitations of {org_id}")


def _members(org_id: str, addresses: Sequence[str]) -> set[str]:
    query = (
        select(func.lower(User.email))
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == org_id, func.lower(User.email).in_(addresses))
    )
    return set(db.session.scalars(query))


def _pending(org_id: str, addresses: Sequence[str]) -> set[str]:
    query = select(func.lower(OrgInvite.email)).where(
        OrgInvite.org_id == org_id, func.lower(OrgInvite.email).in_(addresses), *is_open()
    )
    return set(db.session.scalars(query))


def _refusal(
    invitee: Invitee, role: str, members: set[str], pending: set[str], sent: Counter[str]
) -> str | None:
    if invitee.email is None:
        return "invalid"
    if role not in INVITED_ROLES:
        return "role"
    if invitee.email in members:
        return "member"
    if invitee.email in pending:
        return "pending"
    return "limit" if sent[invitee.email] >= SENDS_PER_ADDRESS or sent.total() >= SENDS_PER_ORG else None


def _sent_today(org_id: str, now: datetime) -> Counter[str]:
    """E-mails of the organisation in the last 24 hours, by address."""
    query = (
        select(OrgInvite.email, func.count())
        .join(OrgInviteEvent, OrgInviteEvent.invite_id == OrgInvite.id)
        .where(OrgInvite.org_id == org_id, OrgInviteEvent.kind == "sent", OrgInviteEvent.at > now - DAY)
        .group_by(OrgInvite.email)
    )
    return Counter({email: int(count) for email, count in db.session.execute(query)})


def _check_limits(sent: Counter[str], address: str) -> None:
    if sent[address] >= SENDS_PER_ADDRESS:
        reason = f"{address} was sent {SENDS_PER_ADDRESS} invitations in the last 24 hours."
    elif sent.total() >= SENDS_PER_ORG:
        reason = f"This organisation sent {SENDS_PER_ORG:,} invitations in the last 24 hours."
    else:
        return
    error = DomainError(f"{reason} Try again tomorrow.", code="too_many_requests", status=429)
    error.retry_after = int(DAY.total_seconds())
    raise error


# -- closing -------------------------------------------------------------------------------------------------


def mark_accepted(row: OrgInvite, user: User, now: datetime) -> None:
    """Close an open invitation: the user is a member now."""
    row.accepted_at, row.accepted_by = now, user.id
    note(row, "accepted", now)


def withdraw(org: Org, email: str, now: datetime) -> bool:
    """Withdraw the open invitation of an address, expired or not; whether there was one. Flushes."""
    _lock(org.id)
    row = open_invite(org.id, email)
    if row is None:
        return False
    row.withdrawn_at = now
    note(row, "withdrawn", now)
    record_org(org.id, "invite.withdrawn", row.email, before={"role": row.role})
    db.session.flush()
    return True


# -- reading -------------------------------------------------------------------------------------------------


def is_open() -> tuple[ColumnElement[bool], ...]:
    """Conditions: not accepted, declined or withdrawn; expired ones included."""
    return (
        OrgInvite.accepted_at.is_(None),
        OrgInvite.declined_at.is_(None),
        OrgInvite.withdrawn_at.is_(None),
    )


def usable_invite(org_id: str, email: str, now: datetime) -> OrgInvite | None:
    """The open invitation of an address if it has not expired, else None."""
    row = open_invite(org_id, email)
    return row if row and row.state(now) == "open" else None


def open_invite(org_id: str, email: str) -> OrgInvite | None:
    """The open invitation of an address, in any case of letters, or None."""
    query = select(OrgInvite).where(
        OrgInvite.org_id == org_id, func.lower(OrgInvite.email) == email.strip().lower(), *is_open()
    )
    return db.session.scalars(query).one_or_none()
