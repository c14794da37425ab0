"""The stretch of time a usage page speaks of: hours, UTC days or weeks, from a preset or two dates."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from models.core.errors import Invalid

Grain = Literal["hour", "day"]
Step = Literal["hour", "day", "week"]

PRESETS = ("24h", "7d", "30d")
DEFAULT = "30d"
MAX_DAYS = 366
EARLIEST = date(2000, 1, 1)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_HOURS_UP_TO_DAYS = 2
_DAYS_UP_TO_DAYS = 62


@dataclass(frozen=True)
class Period:
    """A half-open stretch `start <= t < end`, UTC, on whole hours or days, and how it is cut for a chart.

    `grain` says which rollups answer it; `step` how wide a column is. At most 62 columns for any period.
    """

    name: str
    start: datetime
    end: datetime
    step: Step

    @property
    def grain(self) -> Grain:
        return "hour" if self.step == "hour" else "day"

    @property
    def first_day(self) -> date:
        return self.start.date()

    @property
    def last_day(self) -> date:
        return (self.end - timedelta(microseconds=1)).date()

    def columns(self) -> list[datetime]:
        """Where each column starts, in order. A week starts on Monday, but never before the period does."""
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
    """The period that ends with the hour or the UTC day `now` lies in, that one counted."""
    now = now.astimezone(UTC)
    if name == "24h":
        end = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        return Period(name, end - timedelta(hours=24), end, "hour")
    days = {"7d": 7, "30d": 30}[name]
    end = _midnight(now.date()) + timedelta(days=1)
    return Period(name, end - timedelta(days=days), end, "day")


def between(first: date, last: date) -> Period:
    """The UTC days from `first` to `last`, both counted: by the hour up to two, by the day up to 62, else by week."""
    days = (last - first).days + 1
    step: Step = "hour" if days <= _HOURS_UP_TO_DAYS else "day" if days <= _DAYS_UP_TO_DAYS else "week"
    return Period("custom", _midnight(first), _midnight(last) + timedelta(days=1), step)


def chosen(name: str, first: str, last: str, now: datetime) -> Period:
    """The period a page or an export was asked for.

    `name` is a preset or `custom` with two ISO dates, UTC days, both counted.
    Raises Invalid whose `fields` (`range`, `from`, `to`) say what to enter.
    """
    if name in PRESETS:
        return preset(name, now)
    if name != "custom":
        raise Invalid("There is no such range", fields={"range": "Choose 24h, 7d, 30d or two dates"})
    today = now.astimezone(UTC).date()
    fields: dict[str, str] = {}
    start = _day(first, "from", today, fields)
    end = _day(last, "to", today, fields)
    if start and end:
        if end < start:
            fields["to"] = f"Enter a day from {start:%-d %b %Y} on, or an earlier first day"
        elif (end - start).days >= MAX_DAYS:
            fields["from"] = (
                f"Choose at most {MAX_DAYS} days; with this last day, {_latest_start(end)} or later"
            )
    if fields or not start or not end:
        raise Invalid("The dates cannot be used", fields=fields)
    return between(start, end)


def _latest_start(end: date) -> str:
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
        fields[field] = f"Enter a day as year-month-day, such as {today.isoformat()}"
    elif day > today:
        fields[field] = f"Enter a day up to today, {today:%-d %b %Y} (UTC)"
    elif day < EARLIEST:
        fields[field] = f"Enter a day from {EARLIEST:%-d %b %Y} on"
    else:
        return day
    return None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
