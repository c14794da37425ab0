"""Time ranges of usage reports: a preset or two dates, in UTC hours, days or weeks."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from models.core.db import midnight
from models.core.errors import Invalid

Step = Literal["hour", "day", "week"]

PRESETS = ("24h", "7d", "30d")
DEFAULT = "30d"
MAX_DAYS = 366
EARLIEST = date(2000, 1, 1)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MAX_DAYS_BY_HOUR = 2
_MAX_DAYS_BY_DAY = 62


@dataclass(frozen=True)
class Period:
    """A half-open UTC time range `start <= t < end`, aligned to hours or days, and its chart columns.

    `step` is the width of a chart column and the rollups to read. A period has at most 62 columns.
    """

    name: str
    start: datetime
    end: datetime
    step: Step

    @property
    def first_day(self) -> date:
        return self.start.date()

    @property
    def last_day(self) -> date:
        return (self.end - timedelta(microseconds=1)).date()

    def whole_steps(self) -> tuple[datetime, datetime]:
        """The part of the period made of whole steps; a period by week may have days before and after it."""
        if self.step != "week":
            return self.start, self.end
        first = self.start + timedelta(days=-self.start.weekday() % 7)
        return first, self.end - timedelta(days=self.end.weekday())

    def columns(self) -> list[datetime]:
        """The start of each column, in order. Weeks start on Monday, the first one no earlier than the period."""
        if self.step == "hour":
            return _every(self.start, self.end, timedelta(hours=1))
        if self.step == "day":
            return _every(self.start, self.end, timedelta(days=1))
        second = self.start + timedelta(days=7 - self.start.weekday())
        return [self.start, *_every(second, self.end, timedelta(days=7))]


def _every(start: datetime, end: datetime, step: timedelta) -> list[datetime]:
    count = -(-(end - start) // step)
    return [start + step * index for index in range(count)]


def preset(name: str, now: datetime) -> Period:
    """The preset period up to and including the current hour (24h) or UTC day (7d, 30d)."""
    now = now.astimezone(UTC)
    if name == "24h":
        end = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return Period(name, end - timedelta(hours=24), end, "hour")
    days = {"7d": 7, "30d": 30}[name]
    end = midnight(now.date()) + timedelta(days=1)
    return Period(name, end - timedelta(days=days), end, "day")


def between(first: date, last: date) -> Period:
    """The UTC days `first` to `last`, inclusive: hourly columns up to two days, daily up to 62, else weekly."""
    days = (last - first).days + 1
    step: Step = "hour" if days <= _MAX_DAYS_BY_HOUR else "day" if days <= _MAX_DAYS_BY_DAY else "week"
    return Period("custom", midnight(first), midnight(last) + timedelta(days=1), step)


def parse_period(name: str, first: str, last: str, now: datetime) -> Period:
    """Parse the period of a page or an export.

    `name` is a preset, or `custom` with two ISO dates (UTC days, inclusive).
    Raises Invalid with a message for each invalid field (`range`, `from`, `to`).
    """
    if name in PRESETS:
        return preset(name, now)
    if name != "custom":
        raise Invalid("Unknown range", fields={"range": "Choose 24h, 7d, 30d or two dates"})
    today = now.astimezone(UTC).date()
    fields: dict[str, str] = {}
    start = _day(first, "from", today, fields)
    end = _day(last, "to", today, fields)
    if start and end:
        if end < start:
            fields["to"] = f"Enter {start:%-d %b %Y} or a later day, or change the first day"
        elif (end - start).days >= MAX_DAYS:
            fields["from"] = (
                f"Choose at most {MAX_DAYS} days: with this last day, start on {_earliest_start(end)} or later"
            )
    if fields or not start or not end:
        raise Invalid("Invalid dates", fields=fields)
    return between(start, end)


def _earliest_start(end: date) -> str:
    return f"{end - timedelta(days=MAX_DAYS - 1):%-d %b %Y}"


def _day(text: str, field: str, today: date, fields: dict[str, str]) -> date | None:
    text = text.strip()
    if not text:
        fields[field] = "Enter a day"
        return None
    try:
        day = date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None:
        fields[field] = f"Enter a day as YYYY-MM-DD, such as {today.isoformat()}"
    elif day > today:
        fields[field] = f"Enter a day up to today, {today:%-d %b %Y} (UTC)"
    elif day < EARLIEST:
        fields[field] = f"Enter {EARLIEST:%-d %b %Y} or a later day"
    else:
        return day
    return None
