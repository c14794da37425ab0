"""What members spent from an account, and when they last called, from the rollups."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select

from models.core.db import db, midnight
from models.ledger.rollup import UsageRollup

LOOKBACK = timedelta(days=90)


class MemberActivity(NamedTuple):
    """Credits since the start of the period, and the UTC day of the last call within 90 days, or None."""

    credits: int
    last_day: datetime | None


NO_ACTIVITY = MemberActivity(0, None)


def member_activity(
    account_id: str, user_ids: Sequence[str], since: datetime, now: datetime
) -> dict[str, MemberActivity]:
    """What each of the users spent from the account since a whole hour, and when they last called it. One statement."""
    hourly, daily = _since(since)
    recent = and_(UsageRollup.grain == "day", UsageRollup.bucket >= now - LOOKBACK)
    rows = db.session.execute(
        select(
            UsageRollup.user_id,
            func.coalesce(func.sum(UsageRollup.credits).filter(or_(hourly, daily)), 0),
            func.max(UsageRollup.bucket).filter(recent),
        )
        .where(
            UsageRollup.account_id == account_id,
            UsageRollup.user_id.in_(user_ids),
            or_(hourly, daily, recent),
        )
        .group_by(UsageRollup.user_id)
    )
    return {user_id: MemberActivity(int(credits), last) for user_id, credits, last in rows}


def spent_since(account_id: str, since: datetime) -> int:
    """Credits spent from the account since a whole hour."""
    query = select(func.coalesce(func.sum(UsageRollup.credits), 0))
    return int(db.session.scalar(query.where(UsageRollup.account_id == account_id, or_(*_since(since)))) or 0)


def _since(since: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Hours up to the first UTC midnight, then days."""
    start = since.astimezone(UTC)
    day = midnight((start + timedelta(days=1) - timedelta(microseconds=1)).date())
    hourly = and_(UsageRollup.grain == "hour", UsageRollup.bucket >= start, UsageRollup.bucket < day)
    return hourly, and_(UsageRollup.grain == "day", UsageRollup.bucket >= day)
