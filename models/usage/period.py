"""Time ranges of usage reports: a preset or two dates, in hours, days or weeks on the clock of a time zone."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal, NamedTuple

from models.core.db import midnight
from models.core.errors import Invalid

Step = Literal["hour", "day", "week"]

GRAINS: tuple[Step, ...] = ("week", "day", "hour")
SIZES = {"week": timedelta(days=7), "day": timedelta(days=1), "hour": timedelta(hours=1)}
PRESETS = ("24h", "7d", "30d")
DEFAULT = "30d"
MAX_DAYS = 366
EARLIEST = date(2000, 1, 1)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_MAX_DAYS_BY_HOUR = 2
_MAX_DAYS_BY_DAY = 62


class PeriodPart(NamedTuple):
    """A part `start <= t < end` of the column that starts at `column`: whole UTC buckets of a grain, those of a time zone
    (`zone_grain`), or with grain "call" less than an hour."""

    grain: str
    start: datetime
    end: datetime
    column: datetime


@dataclass(frozen=True)
class Period:
    """A half-open time range `start <= t < end`, aligned to hours or days of `zone`, and its chart columns.

    `step` is the width of a chart column. A period has at most 62 columns. `start`, `end` and the
    columns are in `zone`; a day lasts from midnight to midnight on its clock.
    """

    name: str
    start: datetime
    end: datetime
    step: Step
    zone: tzinfo = UTC

    @property
    def first_day(self) -> date:
        return self.start.date()

    @property
    def last_day(self) -> date:
        return (self.end.astimezone(UTC) - timedelta(microseconds=1)).astimezone(self.zone).date()

    def whole_steps(self) -> tuple[datetime, datetime]:
        """The part of the period made of whole steps; a period by week may have days before and after it."""
        if self.step != "week":
            return self.start, self.end
        first, end = self.first_day, self.last_day + timedelta(days=1)
        return (
            midnight(first + timedelta(days=-first.weekday() % 7), self.zone),
            midnight(end - timedelta(days=end.weekday()), self.zone),
        )

    def before(self) -> "Period":
        """The period of the same length that ends where this one starts."""
        if self.step == "hour":
            start = self.start.astimezone(UTC) - (self.end.astimezone(UTC) - self.start.astimezone(UTC))
            return Period("before", start.astimezone(self.zone), self.start, self.step, self.zone)
        days = self.last_day - self.first_day + timedelta(days=1)
        return Period("before", midnight(self.first_day - days, self.zone), self.start, self.step, self.zone)

    def columns(self) -> list[datetime]:
        """The start of each column, in order. Weeks start on Monday, the first one no earlier than the period."""
        if self.step == "hour":
            # elapsed hours: on the clock, one is missing or doubled when it changes
            start = self.start.astimezone(UTC)
            count = -(-(self.end.astimezone(UTC) - start) // timedelta(hours=1))
            return [(start + timedelta(hours=index)).astimezone(self.zone) for index in range(count)]
        days = [
            self.first_day + timedelta(days=each) for each in range((self.last_day - self.first_day).days + 1)
        ]
        if self.step == "week":
            days = [day for day in days if day == self.first_day or day.weekday() == 0]
        return [midnight(day, self.zone) for day in days]

    def parts(self, counted: datetime | None = None) -> list[PeriodPart]:
        """The largest UTC weeks, days and hours that make up each column, and what is left of the hours at its ends: where
        midnight is not at a full hour of UTC. `counted`: the weeks and days of the zone before this midnight are rollups too."""
        columns = self.columns_as_parts()
        if counted is None or self.step == "hour":
            return [part for each in columns for part in utc_parts(each.start, each.end, each.start)]
        return [part for each in columns for part in self._zone_parts(each, counted.astimezone(UTC))]

    def _zone_parts(self, whole: PeriodPart, counted: datetime) -> list[PeriodPart]:
        start, end, column = whole.start, whole.end, whole.column
        until = max(start, min(end, counted))
        first, last = start.astimezone(self.zone), until.astimezone(self.zone)
        weeks = self.step == "week" and until == end and first.weekday() == last.weekday() == 0
        grain = zone_grain("week" if weeks else "day", self.zone)
        parts = [PeriodPart(grain, start, until, column)] if start < until else []
        return parts + utc_parts(until, end, column)

    def columns_as_parts(self) -> list[PeriodPart]:
        """Each column as one part, to read all its calls."""
        starts = [start.astimezone(UTC) for start in self.columns()]
        ends = [*starts[1:], self.end.astimezone(UTC)]
        return [PeriodPart("call", start, end, start) for start, end in zip(starts, ends, strict=True)]


def zone_grain(grain: Step, zone: tzinfo) -> str:
    """The grain of rollups of whole days or weeks of a time zone."""
    return f"{grain} {zone}"


def utc_parts(
    start: datetime, end: datetime, column: datetime, grains: tuple[Step, ...] = GRAINS
) -> list[PeriodPart]:
    """The largest UTC weeks, days and hours between two times in UTC, and what is left of hours."""
    if start >= end:
        return []
    if not grains:
        return [PeriodPart("call", start, end, column)]
    grain, *finer = grains
    first, last = _bucket(start, grain), _bucket(end, grain)
    if first < start:
        first += SIZES[grain]
    if first >= last:
        return utc_parts(start, end, column, tuple(finer))
    return [
        *utc_parts(start, first, column, tuple(finer)),
        PeriodPart(grain, first, last, column),
        *utc_parts(last, end, column, tuple(finer)),
    ]


def _bucket(moment: datetime, grain: Step) -> datetime:
    """The start of the UTC week, day or hour of a time in UTC."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    if grain == "hour":
        return hour
    day = hour.replace(hour=0)
    return day if grain == "day" else day - timedelta(days=day.weekday())


def preset(name: str, now: datetime, zone: tzinfo = UTC) -> Period:
    """The preset period up to and including the current hour (24h) or day (7d, 30d)."""
    now = now.astimezone(zone)
    if name == "24h":
        end = now.astimezone(UTC) + timedelta(hours=1)
        end -= timedelta(minutes=now.minute, seconds=now.second, microseconds=now.microsecond)
        return Period(name, (end - timedelta(hours=24)).astimezone(zone), end.astimezone(zone), "hour", zone)
    first = now.date() - timedelta(days={"7d": 7, "30d": 30}[name] - 1)
    return Period(name, midnight(first, zone), midnight(now.date() + timedelta(days=1), zone), "day", zone)


def between(first: date, last: date, zone: tzinfo = UTC) -> Period:
    """The days `first` to `last`, inclusive: hourly columns up to two days, daily up to 62, else weekly."""
    days = (last - first).days + 1
    step: Step = "hour" if days <= _MAX_DAYS_BY_HOUR else "day" if days <= _MAX_DAYS_BY_DAY else "week"
    return Period("custom", midnight(first, zone), midnight(last + timedelta(days=1), zone), step, zone)


def parse_period(name: str, first: str, last: str, now: datetime, zone: tzinfo = UTC) -> Period:
    """Parse the period of a page or an export.

    `name` is a preset, or `custom` with two ISO dates (days of `zone`, inclusive).
    Raises Invalid with a message for each invalid field (`range`, `from`, `to`).
    """
    if name in PRESETS:
        return preset(name, now, zone)
    if name != "custom":
        raise Invalid("Unknown range", fields={"range": "Choose 24h, 7d, 30d or two dates"})
    today = now.astimezone(zone).date()
    fields: dict[str, str] = {}
    start = _day(first, "from", today, zone, fields)
    end = _day(last, "to", today, zone, fields)
    if start and end:
        if end < start:
            fields["to"] = f"Enter {start:%-d %b %Y} or a later day, or change the first day"
        elif (end - start).days >= MAX_DAYS:
            fields["from"] = (
                f"Choose at most {MAX_DAYS} days: with this last day, start on {_earliest_start(end)} or later"
            )
    if fields or not start or not end:
        raise Invalid("Invalid dates", fields=fields)
    return between(start, end, zone)


def _earliest_start(end: date) -> str:
    return f"{end - timedelta(days=MAX_DAYS - 1):%-d %b %Y}"


def _day(text: str, field: str, today: date, zone: tzinfo, fields: dict[str, str]) -> date | None:
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
        fields[field] = f"Enter a day up to today, {today:%-d %b %Y} ({zone})"
    elif day < EARLIEST:
        fields[field] = f"Enter {EARLIEST:%-d %b %Y} or a later day"
    else:
        return day
    return None
