"""Usage reports from rollups: correct totals, order, colours, bounds, and only the account's own data."""

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from models.usage.period import Period, between, preset
from models.usage.usage_report import By, UsageReport, spending
from tests.usage.billed_calls import Call, insert_calls, person

NOW = datetime(2026, 11, 20, 14, 35, 7, tzinfo=UTC)


def history(rng: random.Random, days: float, count: int, models: int = 12, agents: int = 5) -> list[Call]:
    """Random calls of the last `days` days before NOW."""
    return [
        Call(
            at=NOW - timedelta(seconds=rng.randrange(int(days * 86_400))),
            model=f"lab/model-{rng.randrange(models)}",
            agent=rng.choice(["", *(f"pub/agent-{n}@1.0.0" for n in range(agents))]),
            credits=rng.randrange(30),
            cost=Decimal(rng.randrange(10**6)) / 10**7,
            uncached=rng.randrange(5000),
            cache_write=rng.choice([0, rng.randrange(500)]),
            cache_read=rng.choice([0, rng.randrange(9000)]),
            output=rng.randrange(500, 1000),
            reasoning=rng.randrange(500),
            latency_ms=rng.randrange(1, 100_000),
            ttft_ms=rng.choice([None, rng.randrange(900)]),
        )
        for _ in range(count)
    ]


def within(calls: list[Call], period: Period) -> list[Call]:
    return [call for call in calls if period.start <= call.at < period.end]


ZONES = (UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kathmandu"))
"""The second changes its clock within the year; midnight of the third is not at a full hour of UTC."""
PERIODS = [
    period
    for zone in ZONES
    for period in (
        preset("24h", NOW, zone),
        preset("7d", NOW, zone),
        preset("30d", NOW, zone),
        between(date(2026, 11, 19), date(2026, 11, 20), zone),
        between(date(2026, 8, 5), date(2026, 11, 20), zone),
        between(date(2025, 11, 20), date(2026, 11, 20), zone),
    )
]


def test_totals_are_the_sums_of_their_calls(session: Session) -> None:
    alice = person(session, "alice@example.org")
    calls = history(random.Random(11), 400, 600) + history(random.Random(12), 2, 200)
    insert_calls(session, alice, calls)
    session.commit()
    groups: tuple[By, ...] = ("model", "agent")
    for period in PERIODS:
        for by in groups:
            _check(spending(alice, period, by, NOW), period, by, within(calls, period))


def _check(report: UsageReport, period: Period, by: By, mine: list[Call]) -> None:
    assert report.total.calls == len(mine)
    assert report.total.credits == sum(call.credits for call in mine)
    assert report.total.cost == sum((call.cost for call in mine), Decimal(0))
    assert report.total.tokens == sum(c.uncached + c.cache_write + c.cache_read + c.output for c in mine)
    assert report.total.reasoning_tokens == sum(call.reasoning for call in mine)
    assert sum(report.total.histogram) == len(mine)
    assert sum(column.credits for column in report.columns) == report.total.credits
    assert sum(one.total.calls for one in report.series) == len(mine)
    named = [one.key for one in report.series if one.key is not None]
    for index, start in enumerate(report.starts):
        end = report.starts[index + 1] if index + 1 < len(report.starts) else period.end
        in_column = [call for call in mine if start <= call.at < end]
        assert report.columns[index].calls == len(in_column)
        for one in report.series:
            part = [
                c
                for c in in_column
                if (_key(c, by) == one.key if one.key is not None else _key(c, by) not in named)
            ]
            assert one.columns[index].credits == sum(call.credits for call in part)
            assert one.columns[index].cost == sum((call.cost for call in part), Decimal(0))


def _key(call: Call, by: By) -> str:
    return call.model if by == "model" else call.agent


def test_the_top_seven_are_named_and_the_rest_is_other(session: Session) -> None:
    alice = person(session, "alice@example.org")
    insert_calls(session, alice, [Call(at=NOW, model=f"m{n}", credits=n) for n in range(10)])
    session.commit()

    report = spending(alice, preset("30d", NOW), "model", NOW)

    assert [one.key for one in report.series] == ["m9", "m8", "m7", "m6", "m5", "m4", "m3", None]
    assert [one.slot for one in report.series] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert report.series[-1].total.credits == 0 + 1 + 2


def test_equal_costs_are_ordered_by_calls_then_name(session: Session) -> None:
    alice = person(session, "alice@example.org")
    calls = [Call(at=NOW, model=name, credits=0) for name in ("b", "a", "c", "c")]
    insert_calls(session, alice, calls)
    session.commit()
    assert [one.key for one in spending(alice, preset("7d", NOW), "model", NOW).series] == [
        "c",
        "a",
        "b",
    ]


def test_a_series_keeps_its_colour_when_the_range_changes(session: Session) -> None:
    alice = person(session, "alice@example.org")
    old, today = NOW - timedelta(days=10), NOW
    calls = [Call(at=old, model="a", credits=100), Call(at=old, model="b", credits=50)]
    calls += [Call(at=today, model="b", credits=2), Call(at=today, model="c", credits=9)]
    insert_calls(session, alice, calls)
    session.commit()

    month = {one.key: one.slot for one in spending(alice, preset("30d", NOW), "model", NOW).series}
    day = spending(alice, preset("24h", NOW), "model", NOW).series

    assert month == {"a": 1, "b": 2, "c": 3}
    assert [(one.key, one.slot) for one in day] == [("c", 3), ("b", 2)]


def test_colours_are_never_used_twice(session: Session) -> None:
    alice = person(session, "alice@example.org")
    long_ago = NOW - timedelta(days=200)
    calls = [Call(at=NOW, model=f"new-{n}", credits=9 - n) for n in range(9)]
    calls += [Call(at=long_ago, model=f"old-{n}", credits=20) for n in range(5)]
    calls += [Call(at=long_ago, model="new-1", credits=30)]
    insert_calls(session, alice, calls)
    session.commit()
    series = spending(alice, between(date(2026, 1, 1), date(2026, 11, 20)), "model", NOW).series
    slots = [one.slot for one in series]
    assert sorted(slots) == list(range(1, 9))
    assert next(one.slot for one in series if one.key == "new-1") == 2


def test_no_usage_is_zero(session: Session) -> None:
    alice = person(session, "alice@example.org")
    session.commit()
    report = spending(alice, preset("30d", NOW), "model", NOW)
    assert report.series == []
    assert len(report.columns) == 30
    assert report.total.credits == report.total.calls == 0
    assert report.total.p50_ms is None


def test_a_report_has_only_the_accounts_own_calls(session: Session) -> None:
    alice, mallory = person(session, "alice@example.org"), person(session, "mallory@example.org")
    insert_calls(session, mallory, [Call(at=NOW, credits=77)])
    session.commit()
    assert spending(alice, preset("30d", NOW), "model", NOW).total.calls == 0


@pytest.mark.parametrize("name", ["24h", "7d", "30d"])
def test_a_call_at_midnight_utc_counts_on_the_day_that_begins(session: Session, name: str) -> None:
    alice = person(session, "alice@example.org")
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    before = midnight - timedelta(microseconds=1)
    insert_calls(session, alice, [Call(at=midnight, credits=3), Call(at=before, credits=4)])
    session.commit()
    report = spending(alice, preset(name, NOW), "model", NOW)
    at = report.starts.index(midnight)
    assert (report.columns[at - 1].credits, report.columns[at].credits) == (4, 3)


def test_one_query_and_few_rows_whatever_the_range(session: Session, engine: Engine) -> None:
    alice = person(session, "alice@example.org")
    insert_calls(session, alice, history(random.Random(5), 360, 2000, models=40, agents=20))
    session.commit()
    queries: list[tuple[str, int]] = []

    def note(conn: object, cursor: Any, statement: str, *rest: object) -> None:
        queries.append((statement, cursor.rowcount))

    event.listen(engine, "after_cursor_execute", note)
    for period in (preset("24h", NOW), preset("30d", NOW), between(date(2025, 11, 20), date(2026, 11, 20))):
        queries.clear()
        spending(alice, period, "agent", NOW)
        ((query, rows),) = queries
        assert 0 < rows <= 62 * 8
        assert "message" not in query.lower()
    event.remove(engine, "after_cursor_execute", note)


def test_quantiles_of_a_column(session: Session) -> None:
    alice = person(session, "alice@example.org")
    calls = [Call(at=NOW, latency_ms=ms, ttft_ms=100) for ms in (300, 320, 340, 3000)]
    insert_calls(session, alice, [*calls, Call(at=NOW, latency_ms=40, ttft_ms=None)])
    session.commit()
    report: UsageReport = spending(alice, preset("24h", NOW), "model", NOW)
    last = report.columns[-1]
    assert 200 <= (last.p50_ms or 0) <= 350
    assert 2500 <= (last.p95_ms or 0) <= 4000
