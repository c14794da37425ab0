"""E-mail domains of organisations, proven by a DNS TXT record or by an operator.

A domain is proven for one organisation at a time. Single sign-on, provisioning and joining by domain trust proven domains only.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    SmallInteger,
    UniqueConstraint,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NEW_ID, NOW, Base, db
from models.core.errors import Conflict, Invalid, NotFound
from models.core.settings import Settings
from models.orgs.audit import record_org
from models.orgs.org import OrgRole

LABEL = "_stoa"
"""The TXT record stands at this label below the domain, where it disturbs no other record."""
PREFIX = "stoa-domain="
SECONDS = 5.0
MAX_DOMAINS = 50

_NAME = re.compile(
    r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])", re.ASCII
)


class OrgDomain(Base):
    """An e-mail domain that an organisation names. It counts once it is proven, `verified_at` is set, and while it is not paused.

    `verified_by` is "dns" or the operator (`cli:name`) who vouched for it. `checked_at` is when its record was looked for last,
    `missing_since` when it was missed first, `misses` how often since then, and `paused_at` when that was too often
    (`domain_checks`).
    """

    __tablename__ = "org_domain"
    __table_args__ = (
        UniqueConstraint("org_id", "domain", name="org_domain_once"),
        Index(
            "idx_org_domain_proven",
            "domain",
            unique=True,
            postgresql_where=text("verified_at IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, server_default=NEW_ID)
    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"))
    domain: Mapped[str]
    token: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    verified_at: Mapped[datetime | None]
    verified_by: Mapped[str | None]
    checked_at: Mapped[datetime | None]
    missing_since: Mapped[datetime | None]
    misses: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    paused_at: Mapped[datetime | None]

    @property
    def record_name(self) -> str:
        """The name of the TXT record that proves the domain."""
        return f"{LABEL}.{self.domain}"

    @property
    def record_value(self) -> str:
        """The text of that record."""
        return PREFIX + self.token


class OrgDomainJoining(Base):
    """How people with an address in a proven domain join (`domain_joining`): mode `ask` or `join`. Without a row: by invitation
    only."""

    __tablename__ = "org_domain_joining"
    __table_args__ = (
        CheckConstraint("(mode = ANY (ARRAY['ask'::text, 'join'::text]))", name="mode_known"),
        CheckConstraint("(role = ANY (ARRAY['member'::org_role, 'viewer'::org_role]))", name="role_narrow"),
    )

    org_id: Mapped[str] = mapped_column(ForeignKey("org.id", ondelete="CASCADE"), primary_key=True)
    domain: Mapped[str] = mapped_column(primary_key=True)
    mode: Mapped[str]
    role: Mapped[str] = mapped_column(OrgRole)


def clean_domain(text: str) -> str:
    """Normalise a domain: lower case, ASCII. Raises Invalid with field `domain`."""
    domain = text.strip().lower().removeprefix("@").rstrip(".")
    try:
        domain = domain.encode("idna").decode() if not domain.isascii() else domain
    except UnicodeError:
        domain = ""
    if not _NAME.fullmatch(domain):
        message = "Enter a domain like example.org."
        raise Invalid(message, fields={"domain": message})
    return domain


def domain_of(email: str) -> str:
    """The domain of a normalised e-mail address."""
    return email.rpartition("@")[2].lower()


def domains(org_id: str) -> Sequence[OrgDomain]:
    """The organisation's domains by name, proven or not."""
    return db.session.scalars(
        select(OrgDomain).where(OrgDomain.org_id == org_id).order_by(OrgDomain.domain)
    ).all()


def is_proven() -> ColumnElement[bool]:
    """Whether a domain counts: it is proven and not paused."""
    return OrgDomain.verified_at.is_not(None) & OrgDomain.paused_at.is_(None)


def proven_domains(org_id: str) -> frozenset[str]:
    """The names of the organisation's domains that count."""
    return frozenset(
        db.session.scalars(select(OrgDomain.domain).where(OrgDomain.org_id == org_id, is_proven()))
    )


def is_paused(org_id: str, email: str) -> bool:
    """Whether the domain of a normalised address is one of the organisation's that is paused."""
    paused = (OrgDomain.domain == domain_of(email)) & OrgDomain.paused_at.is_not(None)
    return bool(
        db.session.scalar(select(select(OrgDomain.id).where(OrgDomain.org_id == org_id, paused).exists()))
    )


def owned_domain(org_id: str, id: str) -> OrgDomain:
    """One domain of the organisation. Raises NotFound."""
    found = db.session.get(OrgDomain, id)
    if found is None or found.org_id != org_id:
        raise NotFound("Domain not found")
    return found


def add_domain(org_id: str, name: str) -> OrgDomain:
    """Name a domain, still unproven. Flushes. Raises Invalid, or Conflict for one that is named already."""
    domain = clean_domain(name)
    named = [each.domain for each in domains(org_id)]
    if domain in named:
        raise Conflict(f"{domain} is in the list already.")
    if len(named) >= MAX_DOMAINS:
        raise Conflict(f"An organisation has at most {MAX_DOMAINS} domains. Remove one first.")
    row = OrgDomain(org_id=org_id, domain=domain, token=secrets.token_hex(16))
    db.session.add(row)
    record_org(org_id, "domain.added", domain)
    db.session.flush()
    return row


def remove_domain(row: OrgDomain) -> None:
    """Remove a domain. Its addresses no longer sign in through the organisation. Flushes."""
    record_org(row.org_id, "domain.removed", row.domain, before={"verified_by": row.verified_by})
    joining = db.session.get(OrgDomainJoining, (row.org_id, row.domain))
    if joining is not None:
        db.session.delete(joining)
    db.session.delete(row)
    db.session.flush()


def has_record(settings: Settings, name: str, value: str) -> bool:
    """Whether DNS has a TXT record with this name and text. Asks the resolver: call it outside a transaction.

    Raises Conflict when DNS does not answer.
    """
    import dns.exception  # loads a library that few requests need
    import dns.resolver

    resolver = dns.resolver.Resolver(configure=not settings.stoa_dns_server)
    if settings.stoa_dns_server:
        address, _, port = settings.stoa_dns_server.rpartition(":")
        resolver.nameservers, resolver.port = [address.strip("[]")], int(port)
    try:
        answer = resolver.resolve(name, "TXT", lifetime=SECONDS, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return False
    except dns.exception.DNSException:
        raise Conflict(f"DNS does not answer for {name}. Try again in a minute.") from None
    texts = [b"".join(record.strings).decode("utf-8", "replace").strip() for record in answer]
    return value in texts


def prove(row: OrgDomain, by: str, now: datetime) -> None:
    """Mark a domain as proven `by` "dns" or an operator. Idempotent; flushes.

    A paused domain of another organisation is that one's no more. Raises Conflict if another organisation has proven it.
    """
    row.checked_at, row.missing_since, row.misses = now, None, 0
    if row.paused_at is not None:
        row.paused_at = None
        record_org(row.org_id, "domain.resumed", row.domain)
    if row.verified_at is not None:
        db.session.flush()
        return
    domain = row.domain
    _lose(domain)
    try:
        with db.session.begin_nested():
            row.verified_at, row.verified_by = now, by
    except IntegrityError:
        raise Conflict(f"{domain} belongs to another organisation here. Ask the operator.") from None
    actor = None if by == "dns" else by
    record_org(row.org_id, "domain.verified", row.domain, after={"verified_by": by}, actor=actor)


def _lose(domain: str) -> None:
    query = select(OrgDomain).where(OrgDomain.domain == domain, OrgDomain.paused_at.is_not(None))
    for lost in db.session.scalars(query.with_for_update()):
        lost.verified_at = lost.verified_by = lost.paused_at = lost.missing_since = None
        record_org(lost.org_id, "domain.lost", domain)
    db.session.flush()
