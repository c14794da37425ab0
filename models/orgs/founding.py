"""Found organisations, edit their profile and preferences, end them with a grace period (contract 2.8, 3.9)."""

from datetime import datetime, timedelta
from zoneinfo import available_timezones

from blinker import Signal
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from models.accounts.sessions import Session
from models.accounts.users import User
from models.core.db import db, now
from models.core.errors import Conflict, Invalid, NotFound
from models.core.time_zones import time_zones
from models.orgs.audit import record_org
from models.orgs.naming import MAX_DESCRIPTION, RESERVED_SLUGS, org_name_problem, slug_of
from models.orgs.org import Org, OrgMember, lock_account_of_org, lock_org
from models.orgs.teams import ServiceAccount

GRACE = timedelta(days=14)
MAX_OWNED = 100
FOUNDING_TOPUP = {"auto_topup_enabled": True, "auto_topup_amount": 20_000, "auto_topup_threshold": 5000}
"""The contract's; nothing is charged until somebody consents to the settings."""
PROFILE = (
    "name",
    "description",
    "time_zone",
    "billing_alerts",
    "usage_alerts",
    "weekly_reports",
    "credit_limit",
)
"""What `edit` changes."""

org_deleted = Signal()
"""Sent with the organisation when its grace period begins, in the same transaction: billing ends what would charge it."""
org_restored = Signal()
"""Sent with the organisation when an owner restored it, in the same transaction."""
org_erased = Signal()
"""Sent with the organisation's id right before its row is deleted for good."""


def found_org(owner: User, name: str, description: str | None = None) -> Org:
    """Create an organisation that the user owns. Flushes.

    Raises Invalid (400) for name and description, and Conflict for the hundred-and-first."""
    values = _checked({"name": name, "description": description})
    owned = select(func.count()).where(OrgMember.user_id == owner.id, OrgMember.role == "owner")
    if (db.session.scalar(owned) or 0) >= MAX_OWNED:
        raise Conflict(f"You own {MAX_OWNED} organizations, which is the limit. Delete one you do not need.")
    org = _insert(owner.id, values)
    db.session.add(OrgMember(org_id=org.id, user_id=owner.id, role="owner"))
    db.session.flush()
    record_org(org.id, "organization.created", org.slug, after={"name": org.name, "slug": org.slug})
    return org


def _insert(owner_id: str, values: dict[str, object]) -> Org:
    """Insert the organisation with the first slug that is free: `acme`, `acme-1`, `acme-2`."""
    base = slug_of(str(values["name"]))
    query = select(Org.slug).where((Org.slug == base) | Org.slug.startswith(f"{base}-", autoescape=True))
    taken = {*db.session.scalars(query), *RESERVED_SLUGS}
    number = 0
    while True:
        slug = f"{base}-{number}" if number else base
        number += 1
        if slug in taken:
            continue
        insertion = insert(Org).values(owner_id=owner_id, slug=slug, **values, **FOUNDING_TOPUP)
        created = insertion.on_conflict_do_nothing(index_elements=[Org.slug]).returning(Org)
        if org := db.session.scalars(created).one_or_none():
            return org


def edit_org(org: Org, changes: dict[str, object]) -> None:
    """Change these of `PROFILE`. Records what differs. Locks the organisation, flushes. Raises Invalid (400), with errors by
    key, and NotFound once it is deleted."""
    checked = _checked(changes)
    # budgets follow these
    org = lock_org(org.id, with_account=not checked.keys().isdisjoint({"credit_limit", "time_zone"}))
    before = {key: getattr(org, key) for key, value in checked.items() if getattr(org, key) != value}
    if not before:
        return
    for key in before:
        setattr(org, key, checked[key])
    db.session.flush()
    after = {key: checked[key] for key in before}
    record_org(org.id, "organization.edited", org.slug, before=before, after=after)


def _checked(values: dict[str, object]) -> dict[str, object]:
    checked = dict(values)
    problems: dict[str, str] = {}
    if "name" in checked:
        name = str(checked["name"] or "").strip()
        problems["name"] = org_name_problem(name) or ""
        checked["name"] = " ".join(name.split())
    if "description" in checked:
        text = str(checked["description"] or "").strip()
        if len(text) > MAX_DESCRIPTION:
            problems["description"] = f"At most {MAX_DESCRIPTION:,} characters; these are {len(text):,}."
        checked["description"] = text or None
    if "time_zone" in checked and not _is_known_zone(str(checked["time_zone"])):
        unknown = "Unknown time zone. " if checked["time_zone"] else ""
        problems["time_zone"] = f"{unknown}Enter a name like Europe/Berlin."
    problems = {key: problem for key, problem in problems.items() if problem}
    if problems:
        raise Invalid(next(iter(problems.values())), fields=problems, status=400)
    return checked


def _is_known_zone(name: str) -> bool:
    """Whether both Python and PostgreSQL, which computes windows of budgets, know it."""
    if name not in time_zones() and name not in available_timezones():
        return False
    try:
        with db.session.begin_nested():
            db.session.scalar(select(func.timezone(name, func.now())))
    except DBAPIError:
        return False
    return True


# -- end -----------------------------------------------------------------------------------------------------


def delete_org(org: Org) -> None:
    """Begin the grace period: nobody opens the organisation, its keys and automatic top-up end, and after 14 days it is erased.
    Locks it, flushes.

    Raises NotFound if it is deleted already, and Conflict while it owns publishers."""
    org = lock_org(org.id)
    moment = now()
    org_deleted.send(org)
    org.deleted_at, org.auto_topup_enabled = moment, False
    keys = update(Session).where(Session.org_id == org.id, Session.expires > moment)
    db.session.execute(keys.values(kept_expires=Session.expires, expires=moment))
    db.session.flush()
    record_org(org.id, "organization.deleted", org.slug, after={"erased_at": (moment + GRACE).isoformat()})


def deleted_orgs(user_id: str) -> list[Org]:
    """The deleted organisations that the user owned and can restore, by name."""
    query = select(Org).join(OrgMember, OrgMember.org_id == Org.id)
    query = query.where(OrgMember.user_id == user_id, OrgMember.role == "owner", Org.deleted_at.is_not(None))
    return list(db.session.scalars(query.order_by(Org.name, Org.id)))


def restore_org(user_id: str, slug: str) -> Org:
    """Undo the deletion of an organisation that the user owned, with its keys. Locks it, flushes. Raises NotFound."""
    query = select(Org).where(
        Org.slug == slug, Org.id.in_([org.id for org in deleted_orgs(user_id)]), Org.deleted_at.is_not(None)
    )
    query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    org = db.session.scalars(query).one_or_none()
    if org is None:
        raise NotFound("Organization not found")
    org.deleted_at = None
    keys = update(Session).where(Session.org_id == org.id, Session.kept_expires.is_not(None))
    db.session.execute(keys.values(expires=Session.kept_expires, kept_expires=None))
    db.session.flush()
    org_restored.send(org)
    record_org(org.id, "organization.restored", org.slug)
    return org


def due_for_erasure(moment: datetime) -> list[str]:
    """The ids of organisations whose grace period is over."""
    return list(db.session.scalars(select(Org.id).where(Org.deleted_at <= moment - GRACE)))


def erase_org(org_id: str, moment: datetime) -> bool:
    """Delete an organisation whose grace period is over, with all that belongs to it. Its audit log stays. Locks it and its account,
    flushes.

    Returns False if it was restored meanwhile, or is gone."""
    lock_account_of_org(org_id)
    query = select(Org).where(Org.id == org_id, Org.deleted_at <= moment - GRACE).with_for_update()
    org = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if org is None:
        return False
    db.session.execute(text("SET LOCAL statement_timeout = 0"))  # its calls may be millions
    services = list(db.session.scalars(select(ServiceAccount.user_id).where(ServiceAccount.org_id == org.id)))
    record_org(org.id, "organization.erased", org.slug)
    org_erased.send(org.id)
    db.session.execute(delete(Org).where(Org.id == org.id))
    db.session.execute(delete(User).where(User.id.in_(services)))
    return True
