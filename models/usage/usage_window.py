"""Time ranges of the usage API: any two moments, in hours, days, weeks or months on the clock of a time zone."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Literal

from models.core.db import midnight
from models.core.errors import Invalid
from models.usage.period import PeriodPart, utc_parts, zone_grain

Group = Literal["hour", "day", "week", "month"]
GROUPS: tuple[Group, ...] = ("hour", "day", "week", "month")
MOST_COLUMNS = 800
"""Hours, days, weeks or months of a series: a month by hour, two years by day."""
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class UsageWindow:
    """A half-open range `start <= t < end` of any two moments in UTC, and the zone in which its days are formed."""

    start: datetime
    end: datetime
    zone: tzinfo = UTC

    def columns(self, group: Group) -> list[tuple[str, datetime]]:
        """The name and the first moment in the range of each hour, day, week (from Monday) or month that it touches, in order. A name
        is a date, or of an hour an ISO time with its offset; hours are full hours of UTC, so none is missing or double when the
        clock changes. Raises Invalid (422) for more than 800."""
        if self.start >= self.end:
            return []
        found = self._hours() if group == "hour" else self._days(_NEXT[group], self._first(group))
        return [(name, max(start, self.start)) for name, start in found]

    def parts(self, starts: list[datetime], counted: datetime | None) -> list[PeriodPart]:
        """The largest rollups that make up the ranges from each of `starts` to the next one, and what is left of the hours at both
        ends of the window and where days begin within an hour of UTC. The days of the zone before `counted` are rollups too."""
        spans = pairwise([*starts, self.end])
        return [part for start, end in spans if start < end for part in self._parts(start, end, counted)]

    def _parts(self, start: datetime, end: datetime, counted: datetime | None) -> list[PeriodPart]:
        first = self._midnight_from(start)
        last = self._midnight_until(min(end, counted)) if counted else first
        if first >= last:
            return utc_parts(start, end, start)
        day, week = zone_grain("day", self.zone), zone_grain("week", self.zone)
        monday = self._monday(first, -first.astimezone(self.zone).weekday() % 7)
        until = self._monday(last, -last.astimezone(self.zone).weekday())
        spans = [(day, first, monday), (week, monday, until), (day, until, last)]
        if monday >= until:
            spans = [(day, first, last)]
        zoned = [PeriodPart(grain, begin, stop, start) for grain, begin, stop in spans if begin < stop]
        return [*utc_parts(start, first, start), *zoned, *utc_parts(last, end, start)]

    def _midnight_from(self, moment: datetime) -> datetime:
        """The first midnight of the zone that is not before the moment."""
        day = moment.astimezone(self.zone).date()
        found = _utc_midnight(day, self.zone)
        return found if found >= moment else _utc_midnight(day + timedelta(days=1), self.zone)

    def _midnight_until(self, moment: datetime) -> datetime:
        return _utc_midnight(moment.astimezone(self.zone).date(), self.zone)

    def _monday(self, of: datetime, days: int) -> datetime:
        return _utc_midnight(of.astimezone(self.zone).date() + timedelta(days=days), self.zone)

    def _hours(self) -> list[tuple[str, datetime]]:
        first = self.start.replace(minute=0, second=0, microsecond=0)
        count = -(-(self.end - first) // HOUR)
        _check_columns(count)
        hours = [first + number * HOUR for number in range(count)]
        return [(hour.astimezone(self.zone).isoformat(timespec="minutes"), hour) for hour in hours]

    def _first(self, group: Group) -> date:
        day = self.start.astimezone(self.zone).date()
        if group == "month":
            return day.replace(day=1)
        return day - timedelta(days=day.weekday()) if group == "week" else day

    def _days(self, following: Callable[[date], date], day: date) -> list[tuple[str, datetime]]:
        found: list[tuple[str, datetime]] = []
        start = _utc_midnight(day, self.zone)
        while start < self.end:
            found.append((day.isoformat(), start))
            _check_columns(len(found))
            day = following(day)
            start = _utc_midnight(day, self.zone)
        return found


def _check_columns(count: int) -> None:
    if count > MOST_COLUMNS:
        text = (
            f"The series would have more than {MOST_COLUMNS} dates. Choose a shorter range or longer steps."
        )
        raise Invalid(text, fields={"group_by": text})


def _utc_midnight(day: date, zone: tzinfo) -> datetime:
    return midnight(day, zone).astimezone(UTC)


_NEXT: dict[Group, Callable[[date], date]] = {
    "day": lambda day: day + timedelta(days=1),
    "week": lambda day: day + timedelta(days=7),
    "month": lambda day: (day + timedelta(days=32)).replace(day=1),
}
