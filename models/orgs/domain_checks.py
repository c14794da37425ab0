"""Proven domains stay proven: their TXT records are looked for every day, and a domain whose record is gone is paused.

A paused domain still belongs to the organisation, unless another one proves it. Nobody joins by it, the identity provider and
the directory do not speak for its addresses, and its people sign in by e-mail again, also where single sign-on is enforced.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select

from models.core import mail
from models.core.db import db, extension
from models.core.errors import Conflict
from models.core.jobs import transaction
from models.core.mail import moment_text
from models.core.settings import Settings
from models.orgs import members
from models.orgs.audit import record_org
from models.orgs.domains import OrgDomain, has_record, prove
from models.orgs.org import Org

CHECK_EVERY = timedelta(hours=20)
PAUSE_AFTER, PAUSE_MISSES = timedelta(days=3), 3
"""A domain is paused once its record has been missed that often, for that long."""


def check_domains(settings: Settings, now: datetime) -> int:
    """Look for the records of all proven domains that are due, and pause those that lack them. Operators' word is not checked.
    DNS that does not answer says nothing. Takes transactions of its own. Returns how many were found or missed."""
    with transaction():
        due = [(row.id, row.record_name, row.record_value) for row in _due(now)]
    checked = 0
    for id, name, value in due:
        try:
            found = has_record(settings, name, value)
        except Conflict:
            continue
        checked += 1
        with transaction():
            row = db.session.get(OrgDomain, id, with_for_update=True)
            if row is not None and row.verified_at is not None:
                note_check(row, found, now)
    return checked


def _due(now: datetime) -> Sequence[OrgDomain]:
    query = (
        select(OrgDomain)
        .join(Org, Org.id == OrgDomain.org_id)
        .where(OrgDomain.verified_by == "dns", Org.deleted_at.is_(None))
        .where(or_(OrgDomain.checked_at.is_(None), OrgDomain.checked_at <= now - CHECK_EVERY))
        .order_by(OrgDomain.checked_at.nulls_first(), OrgDomain.id)
    )
    return db.session.scalars(query).all()


def note_check(row: OrgDomain, found: bool, now: datetime) -> None:
    """Note whether the record of a proven domain was there. Owners get an e-mail when it is missed for the second time, and when
    the domain is paused. Flushes."""
    if found:
        prove(row, "dns", now)
        return
    row.checked_at, row.missing_since = now, row.missing_since or now
    row.misses = min(row.misses + 1, 1000)
    if row.paused_at is not None:
        db.session.flush()
        return
    if row.misses >= PAUSE_MISSES and now >= row.missing_since + PAUSE_AFTER:
        row.paused_at = now
        record_org(
            row.org_id, "domain.paused", row.domain, after={"missing_since": row.missing_since.isoformat()}
        )
        _mail_owners(row, now)
    elif row.misses == 2:
        _mail_owners(row, now)
    db.session.flush()


def pauses_at(row: OrgDomain) -> datetime | None:
    """When a proven domain whose record is missing is paused at the earliest; None if it is there."""
    return row.missing_since + PAUSE_AFTER if row.missing_since else None


def _mail_owners(row: OrgDomain, now: datetime) -> None:
    org = db.session.get_one(Org, row.org_id)
    values = {
        "organisation": org.name,
        "slug": org.slug,
        "domain": row.domain,
        "name": row.record_name,
        "value": row.record_value,
        "paused": row.paused_at is not None,
        "pauses": moment_text((row.missing_since or now) + PAUSE_AFTER),
    }
    for owner in members.owners(row.org_id):
        mail.send(extension("settings"), mail.composed(owner.email, "org_domain", values))
