"""Counts rollups anew that were written before they had keys, errors, providers and types, day by day, from the newest on."""

from datetime import timedelta

from sqlalchemy import func, select, update

from models.core.db import db
from models.gateway import GatewayCall
from models.ledger.rollup import UsageRecounting, UsageRollup
from models.usage.zone_rollups import UsageZone


def recount_next_day() -> bool:
    """Count one day of one account anew; whether there may be more. Commit after each call. Locks the account; flushes."""
    query = select(UsageRecounting).order_by(UsageRecounting.account_id).limit(1)
    waiting = db.session.scalar(query.with_for_update(skip_locked=True))
    if waiting is None:
        return False
    following = waiting.day + timedelta(days=1)
    counted = select(func.max(UsageRollup.bucket)).where(
        UsageRollup.account_id == waiting.account_id,
        UsageRollup.grain == "day",
        UsageRollup.bucket < following,
    )
    failed = select(func.max(GatewayCall.finished_at)).where(
        GatewayCall.account_id == waiting.account_id,
        GatewayCall.state == "failed",
        GatewayCall.finished_at < following,
    )
    days = select(
        func.date_trunc("day", func.greatest(counted.scalar_subquery(), failed.scalar_subquery()), "UTC")
    )
    day = db.session.scalar(days)
    if day is None:
        db.session.delete(waiting)
        # the days of other time zones were counted from the rollups before
        own = UsageZone.account_id == waiting.account_id
        db.session.execute(update(UsageZone).where(own).values(counted_until=None))
    else:
        db.session.execute(select(func.usage_recount(waiting.account_id, day)))
        waiting.day = day - timedelta(days=1)
    db.session.flush()
    return True


def is_recounting(account_id: str) -> bool:
    """Whether older rollups of the account do not know their keys, errors, providers and types yet."""
    return db.session.get(UsageRecounting, account_id) is not None
