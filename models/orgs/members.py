"""Members of organisations: list, add, change roles, remove, transfer ownership (contract 2.8, 3.14).

Every change locks the organisation first, so that two owners cannot leave at once, and reads the actor's role under that lock.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, func, or_, select, tuple_

from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import Conflict, Forbidden, Invalid, NotFound
from models.orgs.audit import record_org
from models.orgs.invites import withdraw
from models.orgs.org import PEOPLE_ROLES, Org, OrgMember, lock_org, membership
from models.orgs.roles import require
from models.orgs.seats_signal import members_changed, seats_changed
from models.orgs.teams import ServiceAccount

__all__ = [
    "LAST_OWNER",
    "PAGE_SIZE",
    "MemberListed",
    "MemberPage",
    "add",
    "change_role",
    "check_role",
    "count_people",
    "join",
    "members_changed",
    "owners",
    "people",
    "people_page",
    "person",
    "remove",
    "seats_changed",
    "transfer",
]

PAGE_SIZE = 50
LAST_OWNER = "An organization needs at least one owner. Make someone else an owner first."
OWNER_ROLES = "Only owners can modify owner roles"


class MemberListed(NamedTuple):
    """A person who is a member."""

    member: OrgMember
    user: User


@dataclass(frozen=True, slots=True)
class MemberPage:
    """Some of the members, and the `after` of the next page (None on the last)."""

    people: list[MemberListed]
    after: tuple[datetime, str] | None


# -- lists ---------------------------------------------------------------------------------------------------


def people(org: Org) -> list[MemberListed]:
    """All people who are members, oldest membership first. Service accounts are none."""
    query = _people(org).order_by(OrgMember.joined_at, OrgMember.user_id)
    return [MemberListed(*row) for row in db.session.execute(query)]


def people_page(org: Org, search: str = "", after: tuple[datetime, str] | None = None) -> MemberPage:
    """One page of `people`, from after this membership's time and user. `search` finds parts of name and e-mail address."""
    query = _people(org)
    if search:
        query = query.where(
            or_(
                User.name.icontains(search, autoescape=True),
                User.email.icontains(search, autoescape=True),
            )
        )
    if after:
        query = query.where(tuple_(OrgMember.joined_at, OrgMember.user_id) > after)
    query = query.order_by(OrgMember.joined_at, OrgMember.user_id).limit(PAGE_SIZE + 1)
    found = [MemberListed(*row) for row in db.session.execute(query)]
    last = found[PAGE_SIZE - 1].member if len(found) > PAGE_SIZE else None
    return MemberPage(found[:PAGE_SIZE], (last.joined_at, last.user_id) if last else None)


def person(org: Org, user_id: str) -> MemberListed:
    """A person who is a member. Raises NotFound."""
    row = db.session.execute(_people(org).where(OrgMember.user_id == user_id)).one_or_none()
    if row is None:
        raise NotFound("Member not found")
    return MemberListed(*row)


def count_people(org_id: str) -> int:
    """How many people are members: the seats."""
    query = select(func.count()).where(OrgMember.org_id == org_id, OrgMember.role.in_(PEOPLE_ROLES))
    return db.session.scalar(query) or 0


def owners(org_id: str) -> list[User]:
    """The owners, oldest membership first."""
    query = select(User).join(OrgMember, OrgMember.user_id == User.id)
    query = query.where(OrgMember.org_id == org_id, OrgMember.role == "owner")
    return list(db.session.scalars(query.order_by(OrgMember.joined_at, OrgMember.user_id)))


def _people(org: Org) -> Select[OrgMember, User]:
    query = select(OrgMember, User).join(User, User.id == OrgMember.user_id)
    return query.where(OrgMember.org_id == org.id, OrgMember.role.in_(PEOPLE_ROLES))


# -- changes -------------------------------------------------------------------------------------------------


def add(org: Org, by_id: str, email: str, role: str) -> User:
    """Make the user with this e-mail address a member. Locks the organisation, flushes.

    Raises Forbidden, Invalid (400) for the role, NotFound without such a user, and Conflict for a member."""
    actor = _enter(org, by_id, "manage_members")
    check_role(role)
    _only_owners(actor, role)
    services = select(ServiceAccount.user_id)
    address = email.strip().lower()
    query = select(User).where(func.lower(User.email) == address, User.id.not_in(services))
    user = db.session.scalars(query.order_by((User.email == address).desc()).limit(1)).first()
    if user is None:
        raise NotFound("User not found")
    join(org, user, role)
    return user


def join(org: Org, user: User, role: str, *, how: str = "added") -> OrgMember:
    """Make the user a member without asking who does it: for invitations, domains and directories. Locks the organisation,
    flushes. `how` names the action in the audit log. Raises Conflict for a member."""
    lock_org(org.id)
    if membership(user.id, org.id):
        raise Conflict("User is already a member")
    member = OrgMember(org_id=org.id, user_id=user.id, role=role)
    db.session.add(member)
    db.session.flush()
    record_org(org.id, f"member.{how}", user.email, after={"role": role})
    seats_changed(org.id)
    return member


def change_role(org: Org, by_id: str, user_id: str, role: str) -> None:
    """Give a member another role. Locks the organisation, flushes.

    Raises Forbidden, Invalid (400) for the role, NotFound, and Conflict if no owner would be left."""
    actor = _enter(org, by_id, "manage_members")
    check_role(role)
    member, user = person(org, user_id)
    _only_owners(actor, member.role, role)
    _set_role(org, member, user, role)


def remove(org: Org, by_id: str, user_id: str, *, receipt: dict[str, Any] | None = None) -> User:
    """End a membership: another's, or one's own. Ends its keys, and unaccepted invitations of the address. Locks the
    organisation, flushes. The audit log keeps `receipt`, what was done with the keys (`offboarding.offboard`).

    Raises Forbidden, NotFound, and Conflict if no owner would be left."""
    actor = _enter(org, by_id, None if by_id == user_id else "manage_members")
    member, user = person(org, user_id)
    _only_owners(actor, member.role, message="Only owners can remove other owners")
    _keep_an_owner(member)
    record_org(
        org.id,
        "member.left" if by_id == user_id else "member.removed",
        user.email,
        before={"role": member.role},
        after=receipt,
    )
    withdraw(org, user.email, now())
    db.session.delete(member)
    db.session.flush()
    _name_an_owner(org)
    seats_changed(org.id)
    return user


def transfer(org: Org, by_id: str, user_id: str) -> User:
    """Make another member the first owner; the owner who does it becomes an admin. Locks the organisation, flushes.

    Raises Forbidden, NotFound, and Conflict for oneself."""
    actor = _enter(org, by_id, "transfer")
    heir, user = person(org, user_id)
    if user_id == by_id:
        raise Conflict("You are an owner already.")
    record_org(
        org.id,
        "ownership.transferred",
        user.email,
        before={"owner_id": org.owner_id, "role": heir.role},
        after={"owner_id": user_id, "role": "owner", "previous_owner": {"id": by_id, "role": "admin"}},
    )
    heir.role, actor.role, org.owner_id = "owner", "admin", user_id
    db.session.flush()
    return user


def check_role(role: str) -> None:
    """Raise Invalid (400) for a role that people do not have."""
    if role not in PEOPLE_ROLES:
        problem = f"Unknown role. Choose one of {', '.join(PEOPLE_ROLES)}."
        raise Invalid(problem, fields={"role": problem}, status=400)


def _enter(org: Org, by_id: str, capability: str | None) -> OrgMember:
    """Lock the organisation and return the actor's membership as it is now."""
    lock_org(org.id)
    query = select(OrgMember).where(OrgMember.org_id == org.id, OrgMember.user_id == by_id)
    actor = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if actor is None:
        raise NotFound("Organization not found")
    if capability:
        require(actor, capability)
    return actor


def _only_owners(actor: OrgMember, *roles: str, message: str = OWNER_ROLES) -> None:
    if "owner" in roles and actor.role != "owner":
        raise Forbidden(message)


def _set_role(org: Org, member: OrgMember, user: User, role: str) -> None:
    if member.role == role:
        return
    if role != "owner":
        _keep_an_owner(member)
    record_org(org.id, "member.role_changed", user.email, before={"role": member.role}, after={"role": role})
    member.role = role
    db.session.flush()
    _name_an_owner(org)


def _keep_an_owner(member: OrgMember) -> None:
    if member.role == "owner" and len(owners(member.org_id)) == 1:
        raise Conflict(LAST_OWNER)


def _name_an_owner(org: Org) -> None:
    """`owner_id` names one of the owners."""
    found = owners(org.id)
    if org.owner_id not in [owner.id for owner in found]:
        org.owner_id = found[0].id
        db.session.flush()
