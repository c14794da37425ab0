"""Rollups by key and error: what settling and failing write is what counting the calls anew finds."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.core.db import midnight
from models.core.pool import Pool
from models.ledger import AdmissionRequest, CallFailure, CreditAccount, admit, fail, prove, settle
from models.usage import Message, UsageRecounting, UsageRollup, zone_rollups
from models.usage.period import between, preset
from models.usage.rollup_recount import recount_next_day
from models.usage.usage_facts import report_from_calls
from models.usage.usage_report import By, UsageReport, spending_before, sum_totals
from models.usage.usage_report import spending as spending_of
from tests import factories
from tests.ledger.stage import NOW, Payer, call, give, key_of, payer

COLUMNS = list(UsageRollup.__table__.columns)


@pytest.fixture
def pool(postgres_url: str) -> Iterator[Pool]:
    gateway = Pool(postgres_url, 2)
    yield gateway
    gateway.close()


def rollups(session: Session) -> list[Any]:
    session.expire_all()
    return list(map(tuple, session.execute(select(*COLUMNS).order_by(*COLUMNS[:10])).all()))


def history(session: Session, pool: Pool, alice: Payer) -> None:
    """Calls with two keys over ten days: settled, failed, and settled after they failed."""
    rng = random.Random(4)
    keys = [alice.key, key_of(session, alice, alice.account.org_id)]
    for number in range(60):
        moment = NOW - timedelta(minutes=rng.randrange(10 * 1440))
        request = AdmissionRequest(
            token_hash=rng.choice(keys), request_id=factories.new_id("req-"), hold=1, model="m"
        )
        admission = admit(pool, request, worker="test", free_credits=0, now=moment)
        assert admission.outcome == "admitted"
        if number % 3 == 0:
            error = rng.choice(["upstream_error", "upstream_timeout", "x" * 300, None])
            failure = CallFailure(
                requested_model="m", model="m", started_at=moment, latency_ms=9, error=error
            )
            fail(pool, admission, failure, now=moment)
            fail(pool, admission, failure, now=moment)
        if number % 3 or number % 9 == 0:
            settled = call(rng.randrange(4), model=f"m{number % 2}", latency_ms=rng.randrange(90_000))
            settle(pool, admission, settled, now=moment + timedelta(hours=2))


def test_counting_anew_finds_what_settling_and_failing_wrote(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    history(session, pool, alice)
    written = rollups(session)
    assert {row[-2] for row in written} >= {0, 1}
    assert prove().clean

    # as an older release wrote them: no failures, no largest latency, no providers and types
    session.execute(UsageRollup.__table__.delete().where(UsageRollup.error != ""))
    session.execute(UsageRollup.__table__.update().values(latency_max=0, provider="", type=""))
    account = session.scalars(select(CreditAccount.id)).one()
    session.add(UsageRecounting(account_id=account, day=NOW + timedelta(days=1)))
    session.commit()
    assert prove().clean  # until they are counted anew, they are not compared
    while recount_next_day():
        session.commit()
    session.commit()
    assert rollups(session) == written
    assert prove().clean


def test_the_proof_finds_a_wrong_number_of_failures(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    history(session, pool, alice)
    session.execute(UsageRollup.__table__.update().where(UsageRollup.error != "").values(failed=7))
    session.commit()
    assert {check.name for check in prove().checks if check.count} == {
        "rollups of failures are the numbers of failed calls"
    }


FILTERS: list[dict[str, str]] = [
    {},
    {"model": "m1"},
    {"error": "upstream_error"},
    {"error": ""},
    {"state": "failed"},
    {"state": "settled", "model": "m0"},
]


def test_groups_add_up_to_the_messages_and_rollups_say_what_the_calls_say(
    session: Session, pool: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    history(session, pool, alice)
    id, period = alice.account.id, preset("30d", NOW)
    charged, cost = session.execute(select(func.sum(Message.credits), func.sum(Message.cost))).one()
    groups: tuple[By, ...] = ("model", "agent", "key", "error")
    for filters in (*FILTERS, {"key": alice.key}, {"key": alice.key, "state": "failed"}):
        totals = set()
        for by in groups:
            report = spending_of(id, period, by, NOW, filters=filters)
            direct = report_from_calls(id, period, _of_calls(by), NOW, filters=filters, limit=7, ranks=None)
            assert _figures(report) == _figures(direct)
            whole = sum_totals([each.total for each in report.series])
            assert whole == sum_totals(report.columns) == report.total
            totals.add((whole.credits, whole.calls, whole.failed, whole.cost, whole.latency_max))
        assert len(totals) == 1
        if not filters:
            ((credits, calls, failed, costs, _),) = totals
            assert (credits, costs) == (charged, cost)
            assert (calls, failed) == (47, 13)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "America/Los_Angeles"])
def test_days_counted_in_a_time_zone_change_no_figure(session: Session, pool: Pool, zone: str) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    history(session, pool, alice)
    id, clock, later = alice.account.id, ZoneInfo(zone), NOW + timedelta(days=3)
    periods = [
        preset("30d", later, clock),
        between(NOW.date() - timedelta(days=6), NOW.date() - timedelta(days=2), clock),
        between(NOW.date() - timedelta(days=100), NOW.date(), clock),
    ]

    def reports() -> list[Any]:
        found = []
        for period in periods:
            report = spending_of(id, period, "key", NOW, filters={"model": "m1"})
            before = spending_before(id, spending_of(id, period, "model", NOW))
            found += [_figures(report), report.columns, before]
        return found

    by_hour = reports()
    zone_rollups.note_view(id, clock, NOW)
    for moment in (NOW - timedelta(days=1), later, later):
        assert (id, zone) in zone_rollups.zones_to_count(moment) or moment == later
        while zone_rollups.count_days(id, zone, moment):
            session.commit()
        session.commit()
        assert reports() == by_hour
    assert zone_rollups.zones_to_count(later) == []
    assert "week" in {part.grain.split(" ")[0] for part in periods[2].parts(midnight(NOW.date(), clock))}
    assert session.scalars(select(func.count()).where(UsageRollup.grain == f"week {zone}")).one()
    assert prove().clean
    assert zone_rollups.zones_to_count(later + timedelta(days=40)) == [(id, zone)]
    assert not zone_rollups.count_days(id, zone, later + timedelta(days=40))
    assert session.scalars(select(func.count()).where(UsageRollup.grain.contains(zone))).one() == 0


def _of_calls(by: By) -> By:
    return "version" if by == "agent" else by


def _figures(report: UsageReport) -> dict[str | None, Any]:
    return {each.key: (each.columns, each.total) for each in report.series}
