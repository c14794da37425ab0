"""Usage of organisations: counted cells and uncounted calls add up exactly, on the clock of the organisation."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from flask import Flask

from models.core.db import db
from models.orgs import Org
from models.usage import Message, OrgUsage
from models.usage.org_report import org_spending
from models.usage.org_usage import count_calls, orgs_to_count, recount
from models.usage.period import Period, between, preset
from models.usage.usage_report import By, UsageReport
from tests import factories
from tests.factories import Person
from tests.usage.billed_calls import set_zone

NOW = datetime(2026, 11, 20, 14, 35, 7, tzinfo=UTC)
ZONES = ("America/New_York", "Asia/Kolkata")


def a_message(org: Org, person: Person, at: datetime, credits: int, **columns: object) -> Message:
    values: dict[str, object] = {
        "id": factories.new_id("gen-"),
        "finished_at": at,
        "model": "north/large-4",
        "response": "text",
        "input_tokens": 100,
        "output_tokens": 10,
        "cost": Decimal("0.01"),
        "credits": credits,
        "latency_ms": 1200,
        "user_id": person.id,
        "org_id": org.id,
    }
    return Message(**(values | columns))


@pytest.fixture
def calls(acme: Org, alice: Person, bob: Person) -> list[Message]:
    """A call every 97 minutes from before the clocks change until now, by alice and bob in turn."""
    made = []
    moment, number = NOW - timedelta(days=40), 0
    while moment < NOW:
        number += 1
        made.append(
            a_message(
                acme,
                (alice, bob)[number % 2],
                moment,
                number % 7,
                byok=number % 11 == 0,
                repo_url=(None, "https://github.com/acme/api")[number % 3 == 0],
                agent_id=(None, "acme/fixer@1.0.0", "acme/fixer@1.1.0", "local")[number % 4],
                client_request_id=f"run-{number // 20}",
            )
        )
        moment += timedelta(minutes=97)
    db.session.add_all(made)
    db.session.commit()
    return made


def charged(message: Message) -> int:
    return 0 if message.byok else message.credits


def assert_exact(report: UsageReport, calls: list[Message], key: dict[str, str]) -> None:
    """The report says what adding up the calls one by one says."""
    period = report.period
    inside = [call for call in calls if period.start <= call.finished_at < period.end]
    assert report.total.calls == len(inside)
    assert report.total.credits == sum(map(charged, inside))
    by_key: Counter[str] = Counter()
    for call in inside:
        by_key[key[call.id]] += charged(call)
    assert {each.key: each.total.credits for each in report.series} == by_key
    edges = [*report.starts, period.end]
    expected = [
        sum(charged(call) for call in inside if low <= call.finished_at < high)
        for low, high in pairwise(edges)
    ]
    assert [column.credits for column in report.columns] == expected


@pytest.mark.parametrize("zone", ZONES)
def test_report_is_exact_before_while_and_after_counting(
    app: Flask, acme: Org, calls: list[Message], zone: str
) -> None:
    set_zone(acme, zone)
    clock = ZoneInfo(zone)
    keys: dict[By, dict[str, str]] = {
        "member": {call.id: call.user_id or "" for call in calls},
        "agent": {call.id: (call.agent_id or "").partition("@")[0] for call in calls},
        "version": {call.id: call.agent_id or "" for call in calls},
        "repository": {call.id: call.repo_url or "" for call in calls},
    }
    periods = [
        preset("24h", NOW, clock),
        preset("30d", NOW, clock),
        between(date(2026, 10, 31), date(2026, 11, 1), clock),
        between(date(2026, 9, 1), date(2026, 11, 19), clock),
    ]

    def check(periods: list[Period]) -> None:
        for period in periods:
            for by, key in keys.items():
                assert_exact(org_spending(acme, period, by, NOW), calls, key)

    check(periods[1:2])
    assert orgs_to_count(NOW - timedelta(days=15)) == [acme.id]
    count_calls(acme.id, NOW - timedelta(days=15))
    check(periods[1:2])
    count_calls(acme.id, NOW)
    db.session.commit()
    assert orgs_to_count(NOW) == []
    check(periods)
    mine = [call for call in calls if call.user_id == calls[0].user_id]
    for period in periods:
        report = org_spending(acme, period, "version", NOW, user_id=calls[0].user_id or "")
        assert_exact(report, mine, keys["version"])


def test_counting_again_changes_nothing(app: Flask, acme: Org, alice: Person, calls: list[Message]) -> None:
    def cells() -> set[tuple[object, ...]]:
        db.session.expire_all()
        rows = db.session.query(OrgUsage).all()
        return {
            (
                row.user_id,
                row.dimension,
                row.grain,
                row.bucket,
                row.key,
                row.calls,
                row.credits,
                *row.histogram,
            )
            for row in rows
        }

    count_calls(acme.id, NOW)
    first = cells()
    count_calls(acme.id, NOW)
    recount(acme.id, NOW - timedelta(days=9))
    assert cells() == first
    late = a_message(acme, alice, NOW - timedelta(days=8), 50)
    db.session.add(late)
    db.session.flush()
    recount(acme.id, NOW - timedelta(days=9))
    total = org_spending(acme, preset("30d", NOW), "model", NOW).total
    assert total.credits == sum(
        charged(call) for call in [*calls, late] if call.finished_at >= preset("30d", NOW).start
    )


def test_new_time_zone_moves_the_days_at_once(app: Flask, acme: Org, calls: list[Message]) -> None:
    count_calls(acme.id, NOW)
    set_zone(acme, "Asia/Tokyo")
    period = preset("30d", NOW, ZoneInfo("Asia/Tokyo"))
    key = {call.id: call.user_id or "" for call in calls}
    assert_exact(org_spending(acme, period, "member", NOW), calls, key)
    assert orgs_to_count(NOW) == [acme.id]
    count_calls(acme.id, NOW)
    assert_exact(org_spending(acme, period, "member", NOW), calls, key)
