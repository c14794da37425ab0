"""The spending rate of an account, and how long an amount of credits lasts."""

from dataclasses import dataclass
from datetime import datetime

from models.ledger import Account
from models.usage.period import preset
from models.usage.usage_report import spending

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
    report = spending(account.id, preset("30d", now), "model", now)
    first = next((index for index, column in enumerate(report.columns) if column.credits), None)
    if first is None:
        return SpendingPace(0, 0)
    days = len(report.columns) - first
    return SpendingPace(report.total.credits / days, days)
