"""The monthly quota cycle as its owner reads it: since when, until when, and what was used in it."""

import calendar
from dataclasses import dataclass
from datetime import datetime

from models.accounts import User
from models.usage.series import credits_since


@dataclass(frozen=True)
class Cycle:
    """A cycle: UTC moments, and the credits its calls were charged. `ends` is None before the first cycle is set."""

    began: datetime
    ends: datetime | None
    used: int


def cycle(user: User) -> Cycle:
    """The running cycle of a person. Run a due reset first (contract 3.6): this only reads.

    `used` is the true use since the cycle began, of renewable credits, too (Appendix B 9).
    """
    ends = user.next_quota_reset
    began = user.created_at if ends is None else max(user.created_at, _month_before(ends))
    return Cycle(began, ends, credits_since(user.id, began))


def _month_before(moment: datetime) -> datetime:
    year, month = (moment.year, moment.month - 1) if moment.month > 1 else (moment.year - 1, 12)
    day = min(moment.day, calendar.monthrange(year, month)[1])
    return moment.replace(year=year, month=month, day=day)
