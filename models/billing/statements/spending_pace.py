"""The spending rate of an account, and how long an amount of credits lasts."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from models.core.db import db
from models.ledger import Account
from models.ledger.rollup import UsageRollup
from models.usage.period import preset

MAX_DAYS = 3650


@dataclass(frozen=True, slots=True)
class SpendingPace:
    """Average spend in credits per day over the last `days` days."""

    per_day: float
    days: int

    def days_of(self, credits: int) -> int | None:
        """Whole days that `credits` last; None without spending, or for more than ten years."""
        if not self.per_day or credits <= 0 or credits > self.per_day * MAX_DAYS:
            return None
        return int(credits / self.per_day)


def spending_pace(account: Account, now: datetime) -> SpendingPace:
    """The rate of the last 30 days, or since the first day with spending if that is later."""
    period, day = preset("30d", now), UsageRollup.bucket
    own = UsageRollup.account_id == account.id, UsageRollup.grain == "day", UsageRollup.credits > 0
    query = select(func.min(day), func.sum(UsageRollup.credits))
    first, credits = db.session.execute(query.where(*own, day >= period.start, day < period.end)).one()
    if not credits:
        return SpendingPace(0, 0)
    days = (period.end - first).days
    return SpendingPace(float(credits) / days, days)
