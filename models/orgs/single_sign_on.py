"""Single sign-on of organisations by OpenID Connect: the identity provider, what its groups grant, enforcement."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.sessions import Session
from models.accounts.users import OAuthAccount, User
from models.core.db import NOW, Base, db
from models.core.errors import Conflict, Forbidden, Invalid, NotFound
from models.core.sealing import SealBroken, open_sealed, seal
from models.orgs.audit import record_org
from models.orgs.domains import OrgDomain, domain_of, is_paused, is_proven, proven_domains
from models.orgs.org import Org, OrgRole
from models.orgs.teams import OrgTeam

GRANTED_ROLES = ("admin", "billing", "member", "viewer")
"""Roles that the identity provider can grant, the highest first. Owners are made by owners."""
EMERGENCY = timedelta(hours=1)
ARRIVAL_VALID = timedelta(hours=24)
"""After this time a session goes through the identity provider again: whoever was removed there stays out."""
MAX_GROUPS = 200
MAX_TEXT = 1000
_PURPOSE = "sso"


class OrgSso(Base):
    """An organisation's identity provider. The client secret is encrypted.

    `group_claim` names the claim that lists a user's groups. New members get `default_role` and join `default_team_id`;
    with `joins`, users of a proven domain become members by signing in.
    """

    __tablename__ = "org_sso"

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    issuer: Mapped[str]
    client_id: Mapped[str]
    client_secret: Mapped[str]
    group_claim: Mapped[str | None]
    default_role: Mapped[str] = mapped_column(OrgRole)
    default_team_id: Mapped[str | None] = mapped_column(ForeignKey("org_team.id", ondelete="SET NULL"))
    joins: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW, onupdate=func.now())

    @property
    def provider(self) -> str:
        """The name of the provider in `account`, unlike that of any other organisation."""
        return sso_provider(self.org_id)

    def secret(self, secret_key: str) -> str:
        """The client secret. Raises Conflict if it was encrypted with another STOA_SECRET_KEY."""
        try:
            return open_sealed(secret_key, _PURPOSE, self.client_secret).decode()
        except SealBroken:
            raise Conflict(
                "The client secret cannot be read any more. An owner must enter it again."
            ) from None


class OrgSsoGroup(Base):
    """What a group of the identity provider grants: a role, a team, or both. Claims and provisioned groups both count."""

    __tablename__ = "org_sso_group"

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    value: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str | None] = mapped_column(OrgRole)
    team_id: Mapped[str | None] = mapped_column(ForeignKey("org_team.id", ondelete="CASCADE"))


class OrgSsoSession(Base):
    """A browser session that may open an organisation under enforcement: it came through its identity provider at
    `created_at`, or, until `emergency_until`, an owner opened it in an emergency."""

    __tablename__ = "org_sso_session"
    __table_args__ = (CheckConstraint("emergency_until > created_at", name="emergency"),)

    session_token: Mapped[str] = mapped_column(
        ForeignKey("session.sessionToken", ondelete="CASCADE"), primary_key=True
    )
    org_id: Mapped[str] = mapped_column(
        ForeignKey("org.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    emergency_until: Mapped[datetime | None]


class OrgSsoKey(Base):
    """A personal key whose calls the organisation pays for although it enforces single sign-on (`sso_keys`). It ends with the
    key and with the membership."""

    __tablename__ = "org_sso_key"
    __table_args__ = (
        ForeignKeyConstraint(
            ["org_id", "user_id"],
            ["org_member.org_id", "org_member.user_id"],
            ondelete="CASCADE",
            name="org_sso_key_member_fk",
        ),
        Index("idx_org_sso_key_member", "org_id", "user_id"),
    )

    session_token: Mapped[str] = mapped_column(
        ForeignKey("session.sessionToken", ondelete="CASCADE"), primary_key=True
    )
    org_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    authorized_at: Mapped[datetime] = mapped_column(server_default=NOW)


class SsoRequired(Forbidden):
    """The organisation's pages open only to sessions that came through its identity provider."""

    code = "sso_required"

    def __init__(self, org: Org) -> None:
        super().__init__(
            f"{org.name} requires sign-in through its identity provider: open /login/sso/{org.slug}"
        )
        self.org = org


@dataclass(frozen=True)
class SsoForm:
    """What an owner enters. An empty secret keeps the stored one."""

    issuer: str
    client_id: str
    client_secret: str
    group_claim: str
    default_role: str
    default_team_id: str
    joins: bool


def sso_provider(org_id: str) -> str:
    """The name of an organisation's identity provider in `account`."""
    return f"sso:{org_id}"


def sso_of(org_id: str) -> OrgSso | None:
    """The organisation's identity provider, or None."""
    return db.session.get(OrgSso, org_id)


def sso_by_slug(slug: str) -> tuple[Org, OrgSso]:
    """The organisation and its identity provider. Raises NotFound without one."""
    query = select(Org, OrgSso).join(OrgSso, OrgSso.org_id == Org.id)
    row = db.session.execute(query.where(Org.slug == slug, Org.deleted_at.is_(None))).one_or_none()
    if row is None:
        raise NotFound("No organisation with this name has single sign-on.")
    return row[0], row[1]


def sso_of_address(email: str) -> Org | None:
    """The organisation through whose identity provider a normalised address signs in, or None."""
    query = (
        select(Org)
        .join(OrgSso, OrgSso.org_id == Org.id)
        .join(OrgDomain, OrgDomain.org_id == Org.id)
        .where(
            OrgDomain.domain == domain_of(email),
            is_proven(),
            Org.deleted_at.is_(None),
        )
    )
    return db.session.scalars(query).one_or_none()


def any_sso() -> bool:
    """Whether any organisation has single sign-on."""
    return bool(db.session.scalar(select(select(OrgSso.org_id).exists())))


# -- settings ------------------------------------------------------------------------------------------------


def check_form(form: SsoForm, *, has_secret: bool) -> None:
    """Raise Invalid with one message per wrong field. The issuer's own answers are checked by the door."""
    fields = {}
    texts = {"issuer": form.issuer, "client_id": form.client_id}
    for name, text in {**texts, **({} if has_secret else {"client_secret": form.client_secret})}.items():
        if not text:
            fields[name] = "Enter what your identity provider shows for the application."
    for name, text in {**texts, "client_secret": form.client_secret, "group_claim": form.group_claim}.items():
        if len(text) > MAX_TEXT or not text.isprintable():
            fields[name] = f"Use at most {MAX_TEXT} printable characters."
    if form.default_role not in GRANTED_ROLES:
        fields["default_role"] = "Choose a role."
    if fields:
        raise Invalid("The identity provider was not saved.", fields=fields)


def save_sso(org_id: str, form: SsoForm, secret_key: str) -> OrgSso:
    """Create or change the identity provider. Another issuer forgets who signed in through the old one. Flushes.

    Raises Invalid (`check_form`), or Conflict when a secret must be entered again for another issuer.
    """
    row = sso_of(org_id)
    check_form(form, has_secret=row is not None)
    before = _public(row) if row else None
    if row is None:
        row = OrgSso(org_id=org_id, client_secret="")
        db.session.add(row)
    elif row.issuer != form.issuer and not form.client_secret:
        message = "Enter the secret again: it would be sent to another issuer."
        raise Invalid(message, fields={"client_secret": message})
    elif row.issuer != form.issuer:
        _forget_identities(org_id)
    row.issuer, row.client_id = form.issuer, form.client_id
    if form.client_secret:
        row.client_secret = seal(secret_key, _PURPOSE, form.client_secret.encode())
    row.group_claim = form.group_claim or None
    row.default_role, row.joins = form.default_role, form.joins
    row.default_team_id = _own_team(org_id, form.default_team_id)
    after = {**_public(row), **({"client_secret": "changed"} if form.client_secret else {})}
    record_org(org_id, "sso.changed", row.issuer, before=before, after=after)
    db.session.flush()
    return row


def remove_sso(org: Org) -> None:
    """Remove the identity provider: enforcement ends, its identities no longer sign in. Flushes."""
    row = sso_of(org.id)
    if row is None:
        raise NotFound("Single sign-on is not set up.")
    _forget_identities(org.id)
    record_org(
        org.id, "sso.removed", row.issuer, before={**_public(row), "enforced": bool(org.sso_enforced_at)}
    )
    org.sso_enforced_at = None
    db.session.delete(row)
    db.session.flush()


def _forget_identities(org_id: str) -> None:
    db.session.execute(delete(OAuthAccount).where(OAuthAccount.provider == sso_provider(org_id)))
    db.session.execute(delete(OrgSsoSession).where(OrgSsoSession.org_id == org_id))
    db.session.execute(delete(OrgSsoKey).where(OrgSsoKey.org_id == org_id))


def _public(row: OrgSso) -> dict[str, str | bool | None]:
    names = ("issuer", "client_id", "group_claim", "default_role", "default_team_id", "joins")
    return {name: getattr(row, name) for name in names}


def _own_team(org_id: str, team_id: str) -> str | None:
    if not team_id:
        return None
    team = db.session.get(OrgTeam, team_id)
    if team is None or team.org_id != org_id:
        raise NotFound("Team not found")
    return None if team.is_default else team.id


def sso_groups(org_id: str) -> Sequence[OrgSsoGroup]:
    """What groups grant, by name."""
    query = select(OrgSsoGroup).where(OrgSsoGroup.org_id == org_id).order_by(OrgSsoGroup.value)
    return db.session.scalars(query).all()


def set_group(org_id: str, value: str, role: str, team_id: str) -> None:
    """Say what a group grants; replaces what it granted. Flushes. Raises Invalid, Conflict, or NotFound for a team."""
    value = value.strip()
    if not value or len(value) > MAX_TEXT or not value.isprintable():
        message = "Enter the name or id of the group as your identity provider sends it."
        raise Invalid(message, fields={"group": message})
    if role and role not in GRANTED_ROLES:
        raise Invalid("Choose a role.", fields={"role": "Choose a role."})
    team = _own_team(org_id, team_id)
    if not role and not team:
        raise Invalid("Choose a role or a team.", fields={"role": "Choose a role or a team."})
    row = db.session.get(OrgSsoGroup, (org_id, value))
    if row is None and len(sso_groups(org_id)) >= MAX_GROUPS:
        raise Conflict(f"At most {MAX_GROUPS} groups can be mapped. Remove one first.")
    before = {"role": row.role, "team_id": row.team_id} if row else None
    if row is None:
        row = OrgSsoGroup(org_id=org_id, value=value)
        db.session.add(row)
    row.role, row.team_id = role or None, team
    record_org(
        org_id, "sso.group_changed", value, before=before, after={"role": row.role, "team_id": row.team_id}
    )
    db.session.flush()


def remove_group(org_id: str, value: str) -> None:
    """Let a group grant nothing. Members keep what they have. Flushes. Raises NotFound."""
    row = db.session.get(OrgSsoGroup, (org_id, value))
    if row is None:
        raise NotFound("Group not found")
    record_org(org_id, "sso.group_removed", value, before={"role": row.role, "team_id": row.team_id})
    db.session.delete(row)
    db.session.flush()


# -- enforcement ---------------------------------------------------------------------------------------------


def enforce(org: Org, session: Session, now: datetime) -> None:
    """From now on open the organisation only to sessions through its identity provider. Flushes.

    Raises Conflict unless it is set up, a domain is proven, and this very session came through it: whoever enforces it has
    shown that it works.
    """
    if sso_of(org.id) is None or not proven_domains(org.id):
        raise Conflict("Set up the identity provider and prove a domain first.")
    mark = db.session.get(OrgSsoSession, (session.session_token, org.id))
    if mark is None or mark.emergency_until is not None:
        raise Conflict("Sign in through the identity provider once in this browser, then enforce it.")
    if org.sso_enforced_at is None:
        org.sso_enforced_at = now
        record_org(org.id, "sso.enforced", org.slug, before={"enforced": False}, after={"enforced": True})
        db.session.flush()


def make_optional(org: Org) -> None:
    """Open the organisation to every session of a member again. Flushes; idempotent."""
    if org.sso_enforced_at is not None:
        org.sso_enforced_at = None
        record_org(
            org.id, "sso.made_optional", org.slug, before={"enforced": True}, after={"enforced": False}
        )
        db.session.flush()


def check_session(org: Org, session: Session, now: datetime) -> None:
    """Raise SsoRequired if the organisation enforces single sign-on and this session did not come through it in the last day.
    People whose domain is paused could not, and need not."""
    if org.sso_enforced_at is None:
        return
    mark = db.session.get(OrgSsoSession, (session.session_token, org.id))
    if mark is not None and is_through(mark, now, emergency=True):
        return
    if not is_paused(org.id, db.session.get_one(User, session.user_id).email):
        raise SsoRequired(org)


def is_through(mark: OrgSsoSession, now: datetime, *, emergency: bool = False) -> bool:
    """Whether the session came through the identity provider in the last day, or with `emergency` is open in one."""
    if mark.emergency_until is not None:
        return emergency and mark.emergency_until > now
    return mark.created_at + ARRIVAL_VALID > now


def emergency_of(org: Org, session: Session, now: datetime) -> datetime | None:
    """Until when this session is open in an emergency; None if it is not."""
    mark = db.session.get(OrgSsoSession, (session.session_token, org.id)) if org.sso_enforced_at else None
    until = mark.emergency_until if mark else None
    return until if until and until > now else None


def mark_session(org_id: str, session: Session, now: datetime) -> None:
    """Note that the session came through the organisation's identity provider. Flushes."""
    db.session.merge(
        OrgSsoSession(
            session_token=session.session_token, org_id=org_id, created_at=now, emergency_until=None
        )
    )
    db.session.flush()


def open_in_emergency(org: Org, role: str, session: Session, now: datetime) -> datetime:
    """Let an owner's browser session open the organisation for an hour without its identity provider. Returns the end.

    Raises Forbidden for other roles and other credentials. Recorded; the door tells the other owners and admins. Flushes.
    """
    if role != "owner" or session.type != "web":
        raise Forbidden("Only owners can enter without the identity provider, in a browser.")
    until = now + EMERGENCY
    db.session.merge(
        OrgSsoSession(
            session_token=session.session_token, org_id=org.id, created_at=now, emergency_until=until
        )
    )
    record_org(org.id, "sso.bypassed", org.slug, after={"until": until.isoformat()})
    db.session.flush()
    return until
