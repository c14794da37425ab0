"""Joining an organisation by an e-mail address in one of its proven domains: at once, or after an admin agrees."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import CheckConstraint, ColumnElement, ForeignKey, Index, and_, exists, select, text
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.users import User
from models.core import mail
from models.core.db import NEW_ID, NOW, Base, db, extension
from models.core.errors import Conflict, Invalid, NotFound
from models.orgs import members
from models.orgs.audit import record_org
from models.orgs.domains import OrgDomain, OrgDomainJoining, domain_of, is_proven
from models.orgs.invite_mails import person_name
from models.orgs.org import Org, OrgMember, OrgRole, membership
from models.orgs.roles import CAN

JOIN_MODES = {"off": "By invitation only", "ask": "May ask to join", "join": "May join at once"}
JOIN_ROLES = ("member", "viewer")
ASK_AGAIN = timedelta(days=7)
MAX_MAILS = 20


class OrgJoinRequest(Base):
    """A colleague who asks to join, and the decision."""

    __tablename__ = "org_join_request"
    __table_args__ = (
        CheckConstraint("((decided_at IS NULL) = (accepted IS NULL))", name="decided"),
        Index(
            "idx_org_join_request_open",
            "org_id",
            "user_id",
            unique=True,
            postgresql_where=text("(decided_at IS NULL)"),
        ),
        Index("idx_org_join_request_user", "user_id", "org_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(OrgRole)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    decided_at: Mapped[datetime | None]
    accepted: Mapped[bool | None]


class OpenDomain(NamedTuple):
    """An organisation that a user may join by the domain of their address. `asked`: their request waits."""

    org: Org
    joining: OrgDomainJoining
    asked: bool


def set_joining(row: OrgDomain, mode: str, role: str) -> None:
    """Say how people of a proven domain join. Flushes. Raises Invalid, and Conflict for an unproven domain."""
    if mode not in JOIN_MODES or role not in JOIN_ROLES:
        raise Invalid(
            f"Choose one of {', '.join(JOIN_MODES)}, and a role of {', '.join(JOIN_ROLES)}.", status=400
        )
    if row.verified_at is None or row.paused_at is not None:
        raise Conflict("Prove the domain first.")
    found = db.session.get(OrgDomainJoining, (row.org_id, row.domain))
    before = {"mode": found.mode, "role": found.role} if found else {"mode": "off"}
    if found:
        db.session.delete(found)
        db.session.flush()
    if mode != "off":
        db.session.add(OrgDomainJoining(org_id=row.org_id, domain=row.domain, mode=mode, role=role))
    record_org(
        row.org_id, "domain.joining_changed", row.domain, before=before, after={"mode": mode, "role": role}
    )
    db.session.flush()


def joining_of(org_id: str) -> list[tuple[OrgDomain, OrgDomainJoining | None]]:
    """The organisation's proven domains by name, and how people there join."""
    query = (
        select(OrgDomain, OrgDomainJoining)
        .outerjoin(OrgDomainJoining, _same_domain())
        .where(OrgDomain.org_id == org_id, OrgDomain.verified_at.is_not(None))
        .order_by(OrgDomain.domain)
    )
    return [(domain, joining) for domain, joining in db.session.execute(query)]


def open_domains(user: User) -> list[OpenDomain]:
    """The organisations that the user may join by the domain of their verified address, and is not in; at most one a domain."""
    if user.email_verified is None:
        return []
    member = exists().where(OrgMember.org_id == Org.id, OrgMember.user_id == user.id)
    asked = exists().where(
        OrgJoinRequest.org_id == Org.id,
        OrgJoinRequest.user_id == user.id,
        OrgJoinRequest.decided_at.is_(None),
    )
    query = (
        select(Org, OrgDomainJoining, asked)
        .join(OrgDomain, OrgDomain.org_id == Org.id)
        .join(OrgDomainJoining, _same_domain())
        .where(
            OrgDomain.domain == domain_of(user.email.lower()),
            is_proven(),
            Org.deleted_at.is_(None),
            ~member,
        )
    )
    return [OpenDomain(*row) for row in db.session.execute(query)]


def join_or_ask(org_id: str, user: User, now: datetime) -> OpenDomain:
    """Join the organisation, or ask to, as its domain says. Flushes; asking mails owners and admins.

    Raises NotFound if the domain does not allow it, and Conflict for a request that waits or was declined within a week.
    """
    found = next((each for each in open_domains(user) if each.org.id == org_id), None)
    if found is None:
        raise NotFound("Organization not found")
    org, joining, asked = found
    if joining.mode == "join":
        members.join(org, user, joining.role, how="joined")
        return found
    declined = select(OrgJoinRequest.id).where(
        OrgJoinRequest.org_id == org.id,
        OrgJoinRequest.user_id == user.id,
        OrgJoinRequest.accepted.is_(False),
        OrgJoinRequest.decided_at > now - ASK_AGAIN,
    )
    if asked or db.session.scalars(declined.limit(1)).first():
        raise Conflict("You asked already. Wait for the answer, or ask somebody there to invite you.")
    db.session.add(OrgJoinRequest(org_id=org.id, user_id=user.id, role=joining.role, created_at=now))
    record_org(org.id, "join_request.made", user.email, after={"role": joining.role})
    db.session.flush()
    for admin in _deciders(org.id):
        _mail(admin.email, "org_join_request", org, person=person_name(user), email=user.email)
    return found


def join_requests(org_id: str) -> list[tuple[OrgJoinRequest, User]]:
    """The requests that wait, oldest first; at most 100."""
    query = (
        select(OrgJoinRequest, User)
        .join(User, User.id == OrgJoinRequest.user_id)
        .where(OrgJoinRequest.org_id == org_id, OrgJoinRequest.decided_at.is_(None))
        .order_by(OrgJoinRequest.created_at, OrgJoinRequest.id)
        .limit(100)
    )
    return [(row, user) for row, user in db.session.execute(query)]


def decide(org: Org, id: str, now: datetime, *, accept: bool) -> User:
    """Accept or decline a request, and mail the person. Locks it; flushes. Raises NotFound, and Conflict once decided."""
    query = select(OrgJoinRequest).where(OrgJoinRequest.id == id, OrgJoinRequest.org_id == org.id)
    row = db.session.scalars(query.with_for_update()).one_or_none()
    if row is None:
        raise NotFound("This request does not exist.")
    if row.decided_at is not None:
        raise Conflict("Somebody has decided this already.")
    user = db.session.get_one(User, row.user_id)
    row.decided_at, row.accepted = now, accept
    outcome = "accepted" if accept else "declined"
    record_org(org.id, f"join_request.{outcome}", user.email, after={"role": row.role})
    if accept and membership(user.id, org.id) is None:
        members.join(org, user, row.role)
    db.session.flush()
    _mail(user.email, "org_join_decision", org, accepted=accept, role=row.role)
    return user


def _same_domain() -> ColumnElement[bool]:
    return and_(OrgDomainJoining.org_id == OrgDomain.org_id, OrgDomainJoining.domain == OrgDomain.domain)


def _deciders(org_id: str) -> Sequence[User]:
    query = (
        select(User)
        .join(OrgMember, OrgMember.user_id == User.id)
        .where(OrgMember.org_id == org_id, OrgMember.role.in_(CAN["manage_members"]))
        .order_by(OrgMember.joined_at, User.id)
        .limit(MAX_MAILS)
    )
    return db.session.scalars(query).all()


def _mail(to: str, template: str, org: Org, **values: object) -> None:
    facts = {"organisation": org.name, "slug": org.slug, **values}
    mail.send(extension("settings"), mail.composed(to, template, facts))
