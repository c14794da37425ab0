"""How long an organisation keeps its audit log."""

from datetime import datetime

from sqlalchemy import select

from models.core.audit_trail import EXPIRED_AT_ONCE, expire
from models.core.db import db
from models.core.errors import Invalid
from models.orgs.audit import record_org
from models.orgs.org import Org

RETENTIONS = (90, 180, 365, 730, 2555)
"""Days. Less is refused, also by the database: who does something must not be able to erase it soon after."""


def set_retention(org: Org, days: int | None) -> None:
    """Keep entries for `days` (one of `RETENTIONS`), or None for ever. Flushes. Raises Invalid."""
    if days is not None and days not in RETENTIONS:
        raise Invalid("Choose how long entries are kept.", fields={"days": "Choose one of these."})
    if days == org.audit_retention_days:
        return
    record_org(
        org.id,
        "audit.retention_changed",
        org.slug,
        before={"days": org.audit_retention_days},
        after={"days": days},
    )
    org.audit_retention_days = days
    db.session.flush()


def expire_audit_logs(now: datetime) -> int:
    """Remove entries whose organisation's retention has passed (the nightly job); returns how many.

    At most `EXPIRED_AT_ONCE` an organisation and run, so that the transaction stays short; the rest is for the next night.
    Each run leaves an entry that says how many went. Flushes.
    """
    kept = select(Org.id, Org.audit_retention_days).where(Org.audit_retention_days.is_not(None))
    total = 0
    for org_id, days in db.session.execute(kept.order_by(Org.id)).all():
        removed = expire(org_id, days or 0, now)
        if removed:
            after = {"entries": removed, "older_than_days": days, "more": removed == EXPIRED_AT_ONCE}
            record_org(org_id, "audit.expired", "", after=after)
        total += removed
    db.session.flush()
    return total
