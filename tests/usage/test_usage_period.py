"""Periods of usage reports."""

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from models.core.errors import Invalid
from models.usage.period import EARLIEST, MAX_DAYS, between, parse_period, preset

NOW = datetime(2026, 11, 20, 14, 35, 7, tzinfo=UTC)


def test_24h_is_24_hours_including_the_current_one() -> None:
    period = preset("24h", NOW)
    assert period.start == datetime(2026, 11, 19, 15, tzinfo=UTC)
    assert period.end == datetime(2026, 11, 20, 15, tzinfo=UTC)
    assert period.step == "hour"
    assert len(period.columns()) == 24


@pytest.mark.parametrize(("name", "days"), [("7d", 7), ("30d", 30)])
def test_days_are_utc_days_including_today(name: str, days: int) -> None:
    period = preset(name, NOW)
    assert period.end == datetime(2026, 11, 21, tzinfo=UTC)
    assert (period.end - period.start).days == days
    assert period.last_day == date(2026, 11, 20)
    assert len(period.columns()) == days


def test_the_callers_zone_does_not_move_the_days() -> None:
    abroad = NOW.astimezone(timezone(timedelta(hours=13)))
    for name in ("24h", "7d", "30d"):
        assert preset(name, abroad) == preset(name, NOW)


def test_daylight_saving_does_not_change_a_day() -> None:
    columns = between(date(2026, 3, 27), date(2026, 3, 31)).columns()
    assert {later - earlier for earlier, later in pairwise(columns)} == {timedelta(days=1)}


@pytest.mark.parametrize(
    ("first", "last", "step", "columns"),
    [
        (date(2026, 11, 20), date(2026, 11, 20), "hour", 24),
        (date(2026, 11, 19), date(2026, 11, 20), "hour", 48),
        (date(2026, 11, 18), date(2026, 11, 20), "day", 3),
        (date(2026, 9, 20), date(2026, 11, 20), "day", 62),
        (date(2026, 9, 19), date(2026, 11, 20), "week", 10),
        (date(2025, 11, 20), date(2026, 11, 20), "week", 53),
    ],
)
def test_a_longer_period_has_wider_columns(first: date, last: date, step: str, columns: int) -> None:
    period = between(first, last)
    assert period.step == step
    assert len(period.columns()) == columns
    assert (period.first_day, period.last_day) == (first, last)


def test_weeks_start_on_monday_but_not_before_the_period() -> None:
    columns = between(date(2026, 8, 5), date(2026, 11, 20)).columns()
    assert columns[0].date() == date(2026, 8, 5)
    assert all(start.weekday() == 0 for start in columns[1:])
    monday = between(date(2026, 8, 3), date(2026, 11, 20)).columns()
    assert monday[0].date() == date(2026, 8, 3)
    assert monday[1].date() == date(2026, 8, 10)


def test_custom_dates_are_inclusive() -> None:
    period = parse_period("custom", " 2026-11-01 ", "2026-11-20", NOW)
    assert period.start == datetime(2026, 11, 1, tzinfo=UTC)
    assert period.end == datetime(2026, 11, 21, tzinfo=UTC)


def test_the_longest_period_is_accepted_and_one_day_more_is_not() -> None:
    last = NOW.date()
    assert parse_period("custom", str(last - timedelta(days=MAX_DAYS - 1)), str(last), NOW).last_day == last
    with pytest.raises(Invalid) as refused:
        parse_period("custom", str(last - timedelta(days=MAX_DAYS)), str(last), NOW)
    assert "at most 366 days" in refused.value.fields["from"]
    assert "20 Nov 2025" in refused.value.fields["from"]


@pytest.mark.parametrize(
    ("name", "first", "last", "field", "text"),
    [
        ("1y", "", "", "range", "24h, 7d, 30d"),
        ("", "", "", "range", "24h, 7d, 30d"),
        ("custom", "", "2026-11-01", "from", "Enter a day"),
        ("custom", "2026-11-01", "", "to", "Enter a day"),
        ("custom", "yesterday", "2026-11-01", "from", "YYYY-MM-DD"),
        ("custom", "2026-02-30", "2026-11-01", "from", "YYYY-MM-DD"),
        ("custom", "20261101", "2026-11-02", "from", "YYYY-MM-DD"),
        ("custom", "2026-W45-1", "2026-11-02", "from", "YYYY-MM-DD"),
        ("custom", "٢٠٢٦-١١-٠١", "2026-11-02", "from", "YYYY-MM-DD"),
        ("custom", "2026-11-02", "2026-11-01", "to", "2 Nov 2026 or a later day"),
        ("custom", "2026-11-02", "2026-11-21", "to", "up to today, 20 Nov 2026"),
        ("custom", "9999-12-31", "9999-12-31", "from", "up to today"),
        ("custom", "0001-01-01", "0001-01-01", "from", "1 Jan 2000 or a later day"),
        ("custom", "2026-11-02\x00", "2026-11-02", "from", "YYYY-MM-DD"),
        ("custom", "9" * 5000, "2026-11-02", "from", "YYYY-MM-DD"),
    ],
)
def test_a_wrong_period_is_refused_by_field(name: str, first: str, last: str, field: str, text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_period(name, first, last, NOW)
    assert text in refused.value.fields[field]
    assert refused.value.status == 422


def test_the_earliest_day_is_accepted() -> None:
    assert parse_period("custom", str(EARLIEST), str(EARLIEST), NOW).first_day == EARLIEST
