"""How fast an account spends, to say how long an amount of credits lasts."""

from datetime import datetime, timedelta

from models.ledger import Account
from models.usage.period import preset
from models.usage.usage_report import spending

DAYS = 30


def daily_spend(account: Account, now: datetime) -> float:
    """Credits per day over the last 30 days with usage: since the first day with calls, at least one day. 0 without any."""
    report = spending(account.id, preset(f"{DAYS}d", now), "model", now)
    days = next((index for index, column in enumerate(report.columns) if column.credits), None)
    return report.total.credits / max(1, len(report.columns) - days) if days is not None else 0.0


def days_of(credits: int, pace: float) -> int | None:
    """Days that `credits` last at `pace` credits a day; None without spending, or beyond ten years."""
    days = int(credits / pace) if pace else None
    return days if days is not None and timedelta(days=days) <= timedelta(days=3650) else None
