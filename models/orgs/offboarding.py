"""Ending a membership and, in the same transaction, deciding what becomes of each of the member's keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from blinker import Signal
from sqlalchemy import ForeignKey, Index, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.users import User
from models.core.db import NEW_ID, NOW, Base, db
from models.core.errors import Conflict, Invalid, NotFound
from models.orgs import members
from models.orgs.invites import is_open
from models.orgs.org import Org, OrgInvite, lock_org, membership
from models.orgs.org_keys import KeyListed, KeyOwner, end_key, hand_over, heirs, keys_of
from models.orgs.roles import require
from models.orgs.service_accounts import create_service_account

member_leaving = Signal()
"""Sent with an organisation's id, `user_id` and `now` before a membership ends, in the same transaction. A receiver returns facts
for the receipt (`models.usage.departures`), and may end what the member made (`models.runs.run_share`)."""

STOP = "stop"
NEW = "new"


class KeyFate(NamedTuple):
    """What becomes of a key: `stop`, `new` (moves to a new service account called `target`), or `move` to the user `target`: a
    service account or a colleague."""

    action: str = STOP
    target: str = ""


class OrgRemoval(Base):
    """The receipt of a membership that ended. Users are named by value: the receipt outlives them."""

    __tablename__ = "org_removal"
    __table_args__ = (Index("idx_org_removal_org", "org_id", "at"),)

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    user_id: Mapped[str]
    email: Mapped[str]
    role: Mapped[str]
    removed_by: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    receipt: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """`keys`: each with id, name, hint, action, to, calls, credits; `calls`, `credits`, `live_calls`, `held`: the member's in
    the last 30 days, and in flight; `invites`: how many open invitations they sent stay valid; `shares`: how many links to
    runs, which they made, were revoked."""


def offboard(org: Org, by_id: str, user_id: str, fates: Mapping[str, KeyFate], now: datetime) -> OrgRemoval:
    """End a membership, another's or one's own; keys without a fate stop. Calls in flight finish and are charged, since their
    providers charge for them. Locks the organisation and the keys; flushes. Returns the receipt.

    A moved key keeps its secret, and its calls until now stay the member's. Raises Forbidden, NotFound and Conflict as
    `members.remove` does, and Invalid (400) for a fate that is impossible.
    """
    lock_org(org.id)
    _check_actor(org, by_id, user_id, fates)
    row = members.person(org, user_id)
    # no key is created meanwhile: its foreign key waits for this lock
    db.session.refresh(row.member, with_for_update=True)
    facts = _facts(org.id, user_id, now)
    keys = keys_of(org.id, user_id, lock=True)
    possible = {heir.user_id: heir for heir in heirs(org.id, user_id)}
    done = [
        _settle(org, by_id, each, fates.get(each.key.session_token, KeyFate()), possible, facts)
        for each in keys
    ]
    receipt = {**facts["totals"], "keys": done, "invites": _open_invites_by(org.id, user_id)}
    role, by = row.member.role, db.session.get_one(User, by_id)
    db.session.flush()
    members.remove(org, by_id, user_id, receipt=receipt)
    removal = OrgRemoval(
        org_id=org.id,
        user_id=user_id,
        email=row.user.email,
        role=role,
        removed_by=by.email,
        at=now,
        receipt={"name": row.user.display_name, "removed_by_name": by.display_name, **receipt},
    )
    db.session.add(removal)
    db.session.flush()
    return removal


def removal_of(org_id: str, id: str) -> OrgRemoval:
    """One receipt of the organisation. Raises NotFound."""
    row = db.session.get(OrgRemoval, id)
    if row is None or row.org_id != org_id:
        raise NotFound("This receipt does not exist.")
    return row


def removals(org_id: str) -> Sequence[OrgRemoval]:
    """The latest 100 receipts of the organisation, newest first."""
    query = (
        select(OrgRemoval).where(OrgRemoval.org_id == org_id).order_by(OrgRemoval.at.desc(), OrgRemoval.id)
    )
    return db.session.scalars(query.limit(100)).all()


def _check_actor(org: Org, by_id: str, user_id: str, fates: Mapping[str, KeyFate]) -> None:
    actor = membership(by_id, org.id)
    if actor is None:
        raise NotFound("Organization not found")
    if by_id != user_id:
        require(actor, "manage_members")
    if any(fate.action != STOP for fate in fates.values()):
        require(actor, "manage_keys")


def _facts(org_id: str, user_id: str, now: datetime) -> dict[str, Any]:
    """What rooms above know of the member's calls: `totals`, and `keys` by id."""
    facts: dict[str, Any] = {"totals": {}, "keys": {}}
    for _, answer in member_leaving.send(org_id, user_id=user_id, now=now):
        facts["totals"] |= answer["totals"]
        facts["keys"] |= answer["keys"]
    return facts


def _settle(
    org: Org,
    by_id: str,
    listed: KeyListed,
    fate: KeyFate,
    possible: dict[str, KeyOwner],
    facts: dict[str, Any],
) -> dict[str, Any]:
    heir, key = _heir(org, by_id, fate, possible), listed.key
    line = {
        "id": key.session_token,
        "name": key.name,
        "hint": key.token_hint,
        "action": "moved" if heir else "stopped",
        "to": heir.name if heir else None,
        **facts["keys"].get(key.session_token, {}),
    }
    if heir:
        hand_over(listed, heir)
    else:
        end_key(listed)
    return line


def _heir(org: Org, by_id: str, fate: KeyFate, possible: dict[str, KeyOwner]) -> KeyOwner | None:
    if fate.action == STOP:
        return None
    if fate.action == NEW:
        return _new_service_account(org, by_id, fate.target, possible)
    heir = possible.get(fate.target)
    if heir is None:
        raise Invalid("Choose a colleague who may make calls, or a service account in use.", status=400)
    return heir


def _new_service_account(org: Org, by_id: str, name: str, possible: dict[str, KeyOwner]) -> KeyOwner:
    """The service account of this name: an existing one, also from another key of this removal, or a new one."""
    for heir in possible.values():
        if heir.service and heir.name == name.strip():
            return heir
    try:
        account = create_service_account(org, by_id, name)
    except Conflict as error:
        raise Invalid(error.message, status=400) from None
    heir = possible[account.user_id] = KeyOwner(account.user_id, account.name, True)
    return heir


def _open_invites_by(org_id: str, user_id: str) -> int:
    query = select(func.count()).where(
        OrgInvite.org_id == org_id,
        OrgInvite.invited_by == user_id,
        *is_open(),
        OrgInvite.expires_at > func.now(),
    )
    return db.session.scalar(query) or 0
