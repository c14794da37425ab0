"""Statistics of agents: effects of finished, billed, corrected and deleted runs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.core import jobs
from models.core.pool import Pool
from models.core.settings import Settings
from models.runs import recording
from models.store import Agent, AgentRunBill, Publisher
from models.store.statistics import counting, durations
from tests import factories
from tests.factories import Person
from tests.ledger.stage import Payer, admit, call, give, payer
from tests.store.ledger import (
    NOW,
    assert_proved,
    count_waiting,
    counted,
    finish,
    settle,
    start,
    week_from,
)


@pytest.fixture
def acme_publisher(session: Session) -> Publisher:
    """`acme/reviewer@1.0.0` and `@1.1.0`, with a 7-day window that started six days before NOW."""
    owner = factories.user("owner")
    made = factories.publisher(owner, "acme")
    factories.agent(made, "reviewer", "1.0.0")
    factories.agent_version(made, "reviewer", "1.1.0")
    week_from(session, NOW - timedelta(days=6))
    return made


@pytest.fixture
def rich(session: Session) -> Payer:
    """A user with credits and a key."""
    who = payer(session, "rich")
    give(session, who.account, 100_000)
    return who


@pytest.mark.usefixtures("acme_publisher")
def test_a_run_counts_when_it_ends_with_what_its_calls_were_billed(
    session: Session, gate: Pool, rich: Payer
) -> None:
    run = start(session, rich.id)
    spend(gate, rich, run, 7)
    spend(gate, rich, run, 5)
    assert counted(session).runs == 0
    finish(session, run, seconds=3)
    agent = counted(session)
    assert (agent.runs, agent.credits, agent.weekly_runs, agent.weekly_credits) == (1, 12, 1, 12)
    assert (agent.unique_users, agent.last_used, agent.failed) == (1, NOW, 0)
    assert agent.durations[4] == sum(agent.durations) == 1
    assert counted(session, "1.0.0").credits == 12
    assert counted(session, "1.1.0").runs == 0
    assert_proved(session)


def spend(gate: Pool, who: Payer, run: str, credits: int, **facts: object) -> None:
    """Admit and settle a call of a running run."""
    admission = admit(gate, who, hold=0, run_id=run)
    assert admission.outcome == "admitted", admission
    ledger.settle(gate, admission, call(credits, **facts), now=NOW)


@pytest.mark.usefixtures("acme_publisher")
def test_totals_reported_by_the_client_do_not_count(
    app: Flask, session: Session, gate: Pool, rich: Payer, settings: Settings
) -> None:
    run = start(session, rich.id, created_at=NOW)
    spend(gate, rich, run, 4)
    with app.app_context():
        from models.core.db import db

        assert recording.finish(
            rich.id,
            run,
            status="completed",
            total_steps=3,
            direct_credits=Decimal(900),
            total_credits=Decimal(1000),
            settings=settings,
        )
        db.session.commit()
    assert counted(session).credits == 4
    assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_the_api_counts_and_a_retry_changes_nothing(session: Session, alice: Person) -> None:
    started = alice.browser.post(
        "/api/v1/agent-runs",
        json={"action": "START", "agentId": "acme/reviewer@1.1.0"},
        headers=alice.headers,
    )
    asked = {
        "action": "FINISH",
        "runId": started.get_json()["runId"],
        "status": "completed",
        "totalSteps": 1,
        "directCredits": 3,
        "totalCredits": 3,
        "steps": [{"stepNumber": 1}],
    }
    settle(session, alice.id, asked["runId"])
    for _ in range(3):
        assert alice.browser.post("/api/v1/agent-runs", json=asked, headers=alice.headers).status_code == 200
    assert (counted(session).runs, counted(session, "1.1.0").runs) == (1, 1)
    assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_a_settlement_after_the_finish_is_counted(session: Session, gate: Pool, rich: Payer) -> None:
    run = start(session, rich.id)
    late = admit(gate, rich, hold=5, run_id=run)
    finish(session, run)
    assert counted(session).credits == 0
    ledger.settle(gate, late, call(9), now=NOW)
    assert (counted(session).runs, counted(session).credits, counted(session, "1.0.0").credits) == (1, 9, 9)
    ledger.settle(gate, late, call(9), now=NOW)
    assert counted(session).credits == 9
    assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_own_key_and_failed_calls_cost_nothing(session: Session, gate: Pool, rich: Payer) -> None:
    run = start(session, rich.id)
    spend(gate, rich, run, 50, byok=True)
    failed = admit(gate, rich, hold=5, run_id=run)
    ledger.fail(
        gate,
        failed,
        ledger.CallFailure(requested_model="north/large", latency_ms=5, error="gone", started_at=NOW),
        now=NOW,
    )
    finish(session, run)
    late = start(session, rich.id)
    own = admit(gate, rich, hold=5, run_id=late)
    finish(session, late)
    ledger.settle(gate, own, call(50, byok=True), now=NOW)
    assert (counted(session).runs, counted(session).credits) == (2, 0)
    assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_corrections_update_statistics(session: Session, gate: Pool, rich: Payer) -> None:
    run = start(session, rich.id)
    spend(gate, rich, run, 3)
    for status, expected in (
        ("completed", (1, 0, 0, 3, 1, NOW)),
        ("failed", (0, 1, 0, 0, 0, None)),
        ("cancelled", (0, 0, 1, 0, 0, None)),
        ("completed", (1, 0, 0, 3, 1, NOW)),
        ("running", (0, 0, 0, 0, 0, None)),
        ("completed", (1, 0, 0, 3, 1, NOW)),
    ):
        finish(session, run, status)
        for each in (counted(session), counted(session, "1.0.0")):
            found = (each.runs, each.failed, each.cancelled, each.credits, each.unique_users, each.last_used)
            assert found == expected, status
        assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_runs_of_unpublished_agents_do_not_count(session: Session, rich: Payer) -> None:
    for agent in ("test-agent", "reviewer", "acme/nobody@1.0.0", "other/reviewer@1.0.0"):
        finish(session, start(session, rich.id, agent))
    assert session.query(AgentRunBill).count() == 0
    assert counted(session).runs == 0
    finish(session, start(session, rich.id, "acme/reviewer@9.9.9"))
    assert counted(session).runs == 1  # unpublished versions count for the agent
    assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_deleting_a_run_or_its_user_subtracts(session: Session, rich: Payer, alice: Person) -> None:
    for days, version in ((3, "1.0.0"), (2, "1.0.0"), (1, "1.1.0")):
        finish(
            session,
            start(session, rich.id, f"acme/reviewer@{version}", created_at=NOW - timedelta(days=days)),
        )
    latest = start(session, alice.id, created_at=NOW)
    finish(session, latest)
    assert (counted(session).unique_users, counted(session).last_used) == (2, NOW)
    session.execute(text("DELETE FROM agent_run WHERE id = :id"), {"id": latest})
    session.commit()
    agent = counted(session)
    assert (agent.runs, agent.unique_users, agent.last_used) == (3, 1, NOW - timedelta(days=1))
    assert counted(session, "1.0.0").last_used == NOW - timedelta(days=2)
    assert_proved(session)
    session.delete(session.get_one(User, rich.id))
    session.commit()
    agent = counted(session)
    assert (agent.runs, agent.weekly_runs, agent.unique_users, agent.last_used) == (0, 0, 0, None)
    assert_proved(session)


def test_publishing_counts_earlier_runs(session: Session, gate: Pool, rich: Payer) -> None:
    run = start(session, rich.id)
    spend(gate, rich, run, 6)
    finish(session, run)
    made = factories.publisher(factories.user("owner"), "acme")
    week_from(session, NOW - timedelta(days=6))
    counting.lock_agents("acme", ["reviewer", "nobody"])
    factories.agent(made, "reviewer", "1.0.0")
    counting.count_earlier_runs("acme", {"reviewer": "1.0.0"})
    session.commit()
    assert (counted(session).runs, counted(session).credits, counted(session, "1.0.0").weekly_credits) == (
        1,
        6,
        6,
    )
    assert_proved(session)


def test_a_version_that_ran_before_it_was_published(
    session: Session, rich: Payer, acme_publisher: Publisher
) -> None:
    finish(session, start(session, rich.id, "acme/reviewer@2.0.0"))
    counting.lock_agents("acme", ["reviewer"])
    factories.agent_version(acme_publisher, "reviewer", "2.0.0")
    counting.count_earlier_runs("acme", {"reviewer": "2.0.0"})
    session.commit()
    assert (counted(session).runs, counted(session, "2.0.0").runs) == (1, 1)
    assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_the_window_advances(session: Session, gate: Pool, rich: Payer) -> None:
    ages = (timedelta(days=5), timedelta(days=2), timedelta(0))
    for age, credits in zip(ages, (1, 2, 4), strict=True):
        run = start(session, rich.id, created_at=NOW - age)
        spend(gate, rich, run, credits)
        finish(session, run)
    assert (counted(session).weekly_runs, counted(session).weekly_credits) == (3, 7)
    for later, weekly in (
        (timedelta(0), 7),
        (timedelta(days=3), 6),
        (timedelta(days=30), 0),
        (timedelta(0), 0),
    ):
        advance_to(session, later)
        assert counted(session).weekly_credits == counted(session, "1.0.0").weekly_credits == weekly
        assert_proved(session)
    assert (counted(session).credits, counted(session).runs) == (7, 3)


def advance_to(session: Session, later: timedelta) -> None:
    """Advance the window repeatedly, like the job, until it starts `later`."""
    since = None
    while since is None or since < NOW + later - timedelta(days=7):
        since = counting.advance_window(NOW + later)
        session.commit()


@pytest.mark.usefixtures("acme_publisher")
def test_a_missing_window_is_recreated(session: Session, rich: Payer) -> None:
    session.execute(text("DELETE FROM store_window"))
    session.commit()
    finish(session, start(session, rich.id))
    assert_proved(session)
    assert session.execute(text("SELECT count(*) FROM store_window")).scalar_one() == 1
    session.rollback()
    session.execute(text("DELETE FROM store_window"))
    session.commit()
    counting.advance_window(factories.now())
    session.commit()
    assert session.execute(text("SELECT count(*) FROM store_window")).scalar_one() == 1


def test_the_database_and_the_pages_know_the_same_buckets(session: Session) -> None:
    for edge in (0, *durations.EDGES_MS):
        at = session.execute(text("SELECT store_bucket(:ms)"), {"ms": edge}).scalar_one()
        assert at == 1 + sum(edge >= each for each in durations.EDGES_MS)
    assert session.execute(text("SELECT store_bucket(2147483647)")).scalar_one() == 16


@pytest.mark.usefixtures("acme_publisher")
def test_stricter_isolation_is_refused(rich: Payer, session: Session) -> None:
    finish(session, start(session, rich.id))
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    with pytest.raises(Exception, match="READ COMMITTED"):
        counting.apply_queue()
    session.rollback()


@pytest.mark.usefixtures("acme_publisher")
def test_a_job_counts_what_waits(app: Flask, session: Session, rich: Payer) -> None:
    for _ in range(3):
        finish(session, start(session, rich.id))
    jobs.enqueue(jobs.apply_runs, timestamp=0)
    session.commit()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(jobs.work, app.app_context, wait=False).result()
    assert session.get_one(Agent, ("acme", "reviewer")).runs == 3
    session.rollback()
    assert_proved(session)


@pytest.mark.usefixtures("acme_publisher")
def test_flask_store_prove_reports_and_repairs(app: Flask, session: Session, rich: Payer) -> None:
    finish(session, start(session, rich.id))
    runner = app.test_cli_runner()
    for waiting in (True, False):
        fine = runner.invoke(args=["store", "prove"])
        assert (fine.exit_code, "all statistics agree" in fine.output) == (0, True), fine.output
        assert ("1 more are waiting to be counted." in fine.output) == waiting
        count_waiting(session)
    session.execute(text("UPDATE agent SET runs = 5, last_used = NULL"))
    session.execute(text("UPDATE agent_day SET credits = 3"))
    session.execute(text("DELETE FROM agent_user"))
    session.execute(
        text("UPDATE agent_version SET durations = array_fill(1::bigint, ARRAY[16]) WHERE version = '1.1.0'")
    )
    session.commit()
    drift = runner.invoke(args=["store", "prove"])
    assert drift.exit_code == 1
    assert drift.output.count("expected") == 5, drift.output
    assert "acme/reviewer, version 1.1.0: expected (0,0,0,0,0,0,0," in drift.output
    mended = runner.invoke(args=["store", "prove", "--repair"])
    assert (mended.exit_code, "Recounted 1 agent." in mended.output) == (0, True), mended.output
    assert_proved(session)
