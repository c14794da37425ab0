"""Tables of organisations: members, invitations, repositories and features; lookups by member."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Enum, ForeignKey, Index, Select, SmallInteger, func, literal_column, or_, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, db
from models.core.errors import NotFound

ORG_ROLES = ("owner", "admin", "member", "billing", "viewer", "service")
"""Roles of the contract, two that only narrow, and the membership of service accounts."""
PEOPLE_ROLES = ORG_ROLES[:-1]

OrgRole = Enum(*ORG_ROLES, name="org_role", metadata=Base.metadata)


class Org(Base):
    """An organisation and its billing settings. Amounts and thresholds are in credits."""

    __tablename__ = "org"
    __table_args__ = (
        Index("idx_org_owner", "owner_id"),
        Index("idx_org_auto_topup", "id", postgresql_where=text("auto_topup_enabled")),
        Index("idx_org_deleted", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        Index("idx_org_slug_beginning", "slug", postgresql_ops={"slug": "text_pattern_ops"}),
        Index(
            "idx_org_name_beginning",
            literal_column("lower(name)").label("name_start"),
            postgresql_ops={"name_start": "text_pattern_ops"},
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    name: Mapped[str]
    slug: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str | None]
    owner_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    stripe_customer_id: Mapped[str | None] = mapped_column(unique=True)
    stripe_subscription_id: Mapped[str | None]
    current_period_start: Mapped[datetime | None]
    current_period_end: Mapped[datetime | None]
    auto_topup_enabled: Mapped[bool] = mapped_column(server_default=text("false"))
    auto_topup_threshold: Mapped[int]
    auto_topup_amount: Mapped[int]
    credit_limit: Mapped[int | None]
    billing_alerts: Mapped[bool] = mapped_column(server_default=text("true"))
    usage_alerts: Mapped[bool] = mapped_column(server_default=text("true"))
    weekly_reports: Mapped[bool] = mapped_column(server_default=text("false"))
    time_zone: Mapped[str] = mapped_column(server_default=text("'UTC'"))
    """IANA name; windows of budgets, charts and reports follow its clock."""
    deleted_at: Mapped[datetime | None]
    """When an owner deleted it; it is removed after the grace period, and cannot be opened until then."""
    sso_enforced_at: Mapped[datetime | None]
    """Since when its pages open only to sessions that came through its identity provider; None: to all of its members."""
    audit_retention_days: Mapped[int | None]
    """After how many days entries of its audit log are removed; None: never."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())

    def month_start(self, now: datetime) -> datetime:
        """The start of the calendar month by the organisation's clock."""
        local = now.astimezone(ZoneInfo(self.time_zone))
        return local.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class OrgMember(Base):
    """A user's membership and role."""

    __tablename__ = "org_member"
    __table_args__ = (Index("idx_org_member_user", "user_id"),)

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(OrgRole)
    joined_at: Mapped[datetime] = mapped_column(server_default=NOW)


class OrgRepo(Base):
    """A repository whose usage the organisation pays for."""

    __tablename__ = "org_repo"
    __table_args__ = (
        Index("idx_org_repo_active", "org_id", "is_active"),
        Index("idx_org_repo_unique", "org_id", "repo_url"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    repo_url: Mapped[str]
    repo_name: Mapped[str]
    repo_owner: Mapped[str | None]
    approved_by: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    approved_at: Mapped[datetime] = mapped_column(server_default=NOW)
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))


class OrgInvite(Base):
    """An invitation to an organisation. `token` is the SHA-256 of the token in the e-mail, a UUID v4 derived from the server's
    secret, the id and `issue`, so that a reminder can repeat it. It is open until it is accepted, declined or withdrawn; an
    address has at most one open invitation of an organisation, expired ones included."""

    __tablename__ = "org_invite"
    __table_args__ = (
        Index("idx_org_invite_token", "token"),
        Index("idx_org_invite_email", "org_id", "email"),
        Index("idx_org_invite_expires", "expires_at"),
        Index(
            "idx_org_invite_open",
            "org_id",
            "email",
            unique=True,
            postgresql_where=text("(accepted_at IS NULL AND declined_at IS NULL AND withdrawn_at IS NULL)"),
        ),
        Index("idx_org_invite_list", "org_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    email: Mapped[str]
    role: Mapped[str] = mapped_column(OrgRole)
    token: Mapped[str] = mapped_column(unique=True)
    invited_by: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    accepted_at: Mapped[datetime | None]
    accepted_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="NO ACTION"))
    declined_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None]
    issue: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))

    def state(self, now: datetime) -> str:
        """`accepted`, `declined`, `withdrawn`, `expired` or `open`."""
        if self.accepted_at:
            return "accepted"
        if self.declined_at:
            return "declined"
        if self.withdrawn_at:
            return "withdrawn"
        return "expired" if self.expires_at <= now else "open"


class OrgFeature(Base):
    """A feature enabled for an organisation, with its configuration."""

    __tablename__ = "org_feature"
    __table_args__ = (Index("idx_org_feature_active", "org_id", "is_active"),)

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    feature: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())


def member_org(user_id: str, key: str) -> tuple[Org, OrgMember]:
    """Return the organisation with this id or slug and the user's membership. Raises NotFound for everybody else, and after
    its deletion."""
    query = (
        select(Org, OrgMember)
        .join(OrgMember, OrgMember.org_id == Org.id)
        .where(or_(Org.id == key, Org.slug == key), OrgMember.user_id == user_id, Org.deleted_at.is_(None))
        .order_by((Org.id == key).desc())
        .limit(1)
    )
    row = db.session.execute(query).one_or_none()
    if row is None:
        raise NotFound("Organization not found")
    return row[0], row[1]


def memberships(user_id: str) -> list[tuple[Org, OrgMember]]:
    """The user's organisations and memberships, by name; at most 100. Deleted organisations are left out."""
    query = (
        select(Org, OrgMember)
        .join(OrgMember, OrgMember.org_id == Org.id)
        .where(OrgMember.user_id == user_id, Org.deleted_at.is_(None))
        .order_by(Org.name, Org.id)
        .limit(100)
    )
    return [(org, member) for org, member in db.session.execute(query)]


def by_slug(slug: str) -> Org | None:
    """Return the organisation with this slug, or None."""
    return db.session.scalars(select(Org).where(Org.slug == slug)).one_or_none()


def org_by_id(id: str) -> Org | None:
    """Return the organisation with this id, or None."""
    return db.session.get(Org, id)


def living_org_ids() -> Sequence[str]:
    """Ids of all organisations that are not deleted."""
    return db.session.scalars(select(Org.id).where(Org.deleted_at.is_(None)).order_by(Org.id)).all()


def membership(user_id: str, org_id: str) -> OrgMember | None:
    """Return the user's membership of the organisation, or None. A deleted organisation has none."""
    query = select(OrgMember).join(Org, Org.id == OrgMember.org_id).where(Org.deleted_at.is_(None))
    query = query.where(OrgMember.org_id == org_id, OrgMember.user_id == user_id)
    return db.session.scalars(query).one_or_none()


def lock_org(org_id: str, *, with_account: bool = False) -> Org:
    """Lock the organisation's row until the transaction ends, and read it anew: changes of its members, repositories and
    ownership, one after the other. References to it by calls do not wait. `with_account`: its credit account first, for changes
    that lock that too, since an account is locked before its organisation everywhere. Raises NotFound once it is deleted."""
    if with_account:
        lock_account_of_org(org_id)
    query = select(Org).where(Org.id == org_id, Org.deleted_at.is_(None)).with_for_update(key_share=True)
    found = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if found is None:
        raise NotFound("Organization not found")
    return found


def lock_account_of_org(org_id: str) -> None:
    """Lock the organisation's credit account, if there is such an organisation, until the transaction ends."""
    db.session.execute(select(func.credit_account_lock(None, Org.id)).where(Org.id == org_id))


def administered_orgs(user_id: str) -> list[Org]:
    """The organisations that the user owns or administers, by name; at most 100."""
    query = select(Org).where(Org.id.in_(administered_org_ids(user_id))).order_by(Org.name, Org.id).limit(100)
    return list(db.session.scalars(query))


def administered_org_ids(user_id: str) -> Select[str]:
    """Select the ids of the organisations that the user owns or administers, for use as a subquery."""
    return (
        select(OrgMember.org_id)
        .join(Org, Org.id == OrgMember.org_id)
        .where(OrgMember.user_id == user_id, OrgMember.role.in_(("owner", "admin")), Org.deleted_at.is_(None))
    )
