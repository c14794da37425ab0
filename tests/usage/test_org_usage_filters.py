"""Filters of an organisation's usage: exact for any combination, failed calls included, and the same before and after counting."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from sqlalchemy import func, select

from models.core.db import db
from models.gateway import GatewayCall
from models.orgs import Org
from models.usage import Message
from models.usage.org_report import org_spending, org_spending_before
from models.usage.org_usage import count_calls
from models.usage.period import Period, between, preset
from models.usage.usage_report import By, UsageTotals, sum_totals
from tests import factories
from tests.factories import Person
from tests.usage.billed_calls import set_zone

NOW = datetime(2026, 11, 20, 14, 35, 7, tzinfo=UTC)
VALUES = {
    "member": "user_id",
    "key": "key_id",
    "model": "model",
    "version": "agent_id",
    "run": "client_request_id",
}


@pytest.fixture
def calls(acme: Org, alice: Person, bob: Person) -> list[Message]:
    """Calls of two members with two models and keys, and a failed call of bob for every fourth of them."""
    factories.account(acme)
    made, moment = [], NOW - timedelta(days=40)
    failed = []
    for number in range(200):
        moment += timedelta(minutes=283)
        person = (alice, bob)[number % 2]
        made.append(
            Message(
                id=factories.new_id("gen-"),
                finished_at=moment,
                model=f"m{number % 3}",
                agent_id=("acme/fixer@1.0.0", "acme/fixer@1.1.0", None)[number % 3],
                client_request_id=f"run-{number // 20}",
                response="text",
                input_tokens=100,
                output_tokens=10,
                cost=Decimal("0.01"),
                credits=number % 7,
                byok=number % 11 == 0,
                latency_ms=number * 10,
                user_id=person.id,
                org_id=acme.id,
                key_id=f"key-{number % 2}",
            )
        )
        if number % 4 == 0:
            failed.append(
                GatewayCall(
                    request_id=factories.new_id("req-"),
                    account_id=acme.id,
                    user_id=bob.id,
                    key_id="key-1",
                    door="openai",
                    requested_model="m0",
                    state="failed",
                    error=("upstream_error", "upstream_timeout")[number % 8 == 0],
                    latency_ms=9,
                    started_at=moment,
                    finished_at=moment,
                )
            )
    db.session.add_all(made)
    db.session.flush()
    db.session.add_all([*failed, *(_settled(call) for call in made)])
    db.session.flush()
    for day in range(41):
        db.session.execute(select(func.usage_recount(acme.id, NOW - timedelta(days=day))))
    db.session.commit()
    return made


def _settled(message: Message) -> GatewayCall:
    return GatewayCall(
        request_id=factories.new_id("req-"),
        message_id=message.id,
        account_id=message.org_id,
        user_id=message.user_id,
        key_id=message.key_id,
        door="openai",
        requested_model=message.model,
        model=message.model,
        state="settled",
        uncached_input_tokens=100,
        output_tokens=10,
        cost=message.cost,
        latency_ms=message.latency_ms,
        started_at=message.finished_at,
        finished_at=message.finished_at,
    )


UTC_ZONE, KOLKATA = ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")


def periods(zone: ZoneInfo) -> list[Period]:
    """By hour, day and week."""
    return [
        preset("24h", NOW - timedelta(days=2), zone),
        preset("30d", NOW, zone),
        between(NOW.date() - timedelta(days=90), NOW.date(), zone),
    ]


FILTERS: list[dict[str, str]] = [
    {},
    {"model": "m1"},
    {"key": "key-1", "model": "m2"},
    {"version": "acme/fixer@1.0.0"},
    {"agent": "acme/fixer", "key": "key-0"},
    {"error": ""},
    {"state": "settled", "key": "key-0"},
]


@pytest.mark.parametrize("zone", [UTC_ZONE, KOLKATA], ids=str)
def test_groups_add_up_to_the_messages(app: Flask, acme: Org, calls: list[Message], zone: ZoneInfo) -> None:
    set_zone(acme, str(zone))
    for counted in (False, True):
        if counted:
            while count_calls(acme.id, NOW):
                db.session.commit()
            db.session.commit()
        for period, filters in product(periods(zone), FILTERS):
            _check_groups(acme, calls, period, filters)


def _check_groups(acme: Org, calls: list[Message], period: Period, filters: dict[str, str]) -> None:
    groups: tuple[By, ...] = ("member", "key", "model", "agent", "version", "repository", "error", "run")
    inside = [call for call in calls if _matches(call, period, filters)]
    for by in groups:
        report = org_spending(acme, period, by, NOW, filters=filters, limit=3)
        assert report.total.calls == len(inside), (period, filters, by)
        assert report.total.credits == sum(0 if call.byok else call.credits for call in inside)
        assert report.total.latency_max == max((call.latency_ms or 0 for call in inside), default=0)
        assert _plain(sum_totals([each.total for each in report.series])) == _plain(report.total)
        assert _plain(sum_totals(report.columns)) == _plain(report.total)


@pytest.mark.parametrize("zone", [UTC_ZONE, KOLKATA], ids=str)
def test_failed_calls_by_what_and_whom(
    app: Flask, acme: Org, bob: Person, calls: list[Message], zone: ZoneInfo
) -> None:
    set_zone(acme, str(zone))
    period = preset("30d", NOW, zone)
    inside = [
        n for n, call in enumerate(calls) if n % 4 == 0 and period.start <= call.finished_at < period.end
    ]
    for counted in (False, True):
        if counted:
            while count_calls(acme.id, NOW):
                db.session.commit()
        for filters in ({}, {"state": "failed"}, {"key": "key-1"}, {"member": bob.id}):
            report = org_spending(acme, period, "error", NOW, filters=filters)
            failed = {each.key: each.total.failed for each in report.series if each.key}
            assert sum(failed.values()) == report.total.failed == len(inside)
            assert failed["upstream_timeout"] == sum(n % 8 == 0 for n in inside)
        assert org_spending(acme, period, "model", NOW, filters={"key": "key-0"}).total.failed == 0


@pytest.mark.parametrize("zone", [UTC_ZONE, KOLKATA], ids=str)
def test_the_period_before(app: Flask, acme: Org, calls: list[Message], zone: ZoneInfo) -> None:
    set_zone(acme, str(zone))
    period = preset("7d", NOW, zone)
    for filters in ({}, {"model": "m1"}):
        earlier = [call for call in calls if _matches(call, period.before(), filters)]
        before = org_spending_before(
            acme, org_spending(acme, period, "key", NOW, filters=filters), NOW, filters=filters
        )
        assert before.total.calls == len(earlier) > 0
        assert before.keys == {
            key: sum(call.credits for call in earlier if call.key_id == key and not call.byok)
            for key in ("key-0", "key-1")
        }
        assert [column.calls for column in before.columns] == [
            sum(start <= call.finished_at < start + timedelta(days=1) for call in earlier)
            for start in before.period.columns()
        ]


def _matches(call: Message, period: Period, filters: dict[str, str]) -> bool:
    named = {name: value for name, value in filters.items() if name in VALUES}
    return (
        period.start <= call.finished_at < period.end
        and all(getattr(call, VALUES[name]) == value for name, value in named.items())
        and ("agent" not in filters or (call.agent_id or "").startswith("acme/fixer@"))
    )


def _plain(totals: UsageTotals) -> tuple[object, ...]:
    return (*totals[:-1], tuple(totals.histogram))
