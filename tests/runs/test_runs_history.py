"""Lists of runs and their totals: ownership, cost, pagination."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.core.errors import Invalid, NotFound
from models.runs import history
from models.runs.history import RunFilter
from models.runs.run_totals import RunTotals, totals_of
from tests import factories
from tests.factories import Person, now

pytestmark = pytest.mark.usefixtures("kind")


@pytest.fixture
def domain(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


def test_a_list_holds_only_my_runs_newest_first(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    old = factories.run(alice.user, created_at=now() - timedelta(hours=2), status="completed")
    new = factories.run(alice.user, created_at=now() - timedelta(hours=1), status="failed")
    factories.run(mallory.user)
    page = history.runs_of(alice.account_id, RunFilter())
    assert [summary.run.id for summary in page.runs] == [new.id, old.id]
    assert page.next is None


def test_pages_meet_without_gap_or_repeat_even_when_runs_start_together(
    domain: None, session: OrmSession, alice: Person
) -> None:
    together = now() - timedelta(minutes=5)
    made = {factories.run(alice.user, created_at=together).id for _ in range(7)}
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(4):
        page = history.runs_of(alice.account_id, RunFilter(), cursor, limit=2)
        seen += [summary.run.id for summary in page.runs]
        cursor = page.next
    assert cursor is None
    assert len(seen) == 7
    assert set(seen) == made


@pytest.mark.parametrize(
    "cursor", ["x", "%%%", "YWJj", "MjAyNi0xMS0yMFQxMDowMDowMCBpZA", "AAAA", "é", "a" * 10_000]
)
def test_a_malformed_cursor_is_rejected(domain: None, alice: Person, cursor: str) -> None:
    with pytest.raises(Invalid) as refused:
        history.runs_of(alice.account_id, RunFilter(), cursor)
    assert refused.value.status == 400


def test_filters_by_agent_status_and_time(domain: None, session: OrmSession, alice: Person) -> None:
    base = datetime(2026, 11, 1, tzinfo=UTC)
    review = factories.run(alice.user, "acme/code-reviewer@2.4.1", status="failed", created_at=base)
    local = factories.run(alice.user, "my_100%_agent", created_at=base + timedelta(days=2))

    def found(filter: RunFilter) -> list[str]:
        return [summary.run.id for summary in history.runs_of(alice.account_id, filter).runs]

    assert found(RunFilter(agent="Reviewer")) == [review.id]
    assert found(RunFilter(agent="100%_")) == [local.id]
    assert found(RunFilter(agent="100x_")) == []
    assert found(RunFilter(status="failed")) == [review.id]
    assert found(RunFilter(since=base + timedelta(days=1))) == [local.id]
    assert found(RunFilter(until=base + timedelta(days=1))) == [review.id]
    assert found(RunFilter(agent="reviewer", status="completed")) == []


def test_spawned_runs_are_listed_only_when_asked_for(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    top = factories.run(alice.user, created_at=now() - timedelta(minutes=3))
    child = factories.run(alice.user, parent=top, created_at=now() - timedelta(minutes=2))
    strangers = factories.run(mallory.user)
    orphan = factories.run(alice.user, parent=strangers, created_at=now() - timedelta(minutes=1))
    lost = factories.run(alice.user, ancestor_run_ids=["gone"], created_at=now())
    plain = [summary.run.id for summary in history.runs_of(alice.account_id, RunFilter()).runs]
    assert plain == [lost.id, orphan.id, top.id]
    every = [summary.run.id for summary in history.runs_of(alice.account_id, RunFilter(spawned=True)).runs]
    assert every == [lost.id, orphan.id, child.id, top.id]


def test_totals_hold_what_spawned_runs_cost_and_never_a_strangers(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    top = factories.run(alice.user)
    child = factories.run(alice.user, parent=top, status="failed")
    grandchild = factories.run(alice.user, parent=child)
    claims = factories.run(mallory.user, parent=top)
    factories.call(alice.user, run_id=top.id, credits=5, cost=Decimal("0.05"), output_tokens=7)
    factories.call(alice.user, run_id=top.id, state="failed", error="boom")
    factories.call(alice.user, run_id=child.id, credits=3, uncached_input_tokens=100)
    factories.call(alice.user, run_id=grandchild.id, credits=2, cache_read_tokens=10)
    factories.call(mallory.user, run_id=claims.id, credits=100)
    factories.call(mallory.user, run_id=top.id, credits=100)
    factories.step(top, 1)
    totals = totals_of(alice.account_id, [top.id, child.id, claims.id])
    assert totals[top.id].own.credits == 5
    assert totals[top.id].own.cost == Decimal("0.05")
    assert (totals[top.id].own.calls, totals[top.id].own.failed) == (2, 1)
    assert totals[top.id].all.credits == 10
    assert totals[top.id].all.tokens == 117
    assert (totals[top.id].steps, totals[top.id].spawned, totals[top.id].spawned_failed) == (1, 2, 1)
    assert totals[child.id].all.credits == 5
    assert totals[claims.id] == RunTotals()
    assert totals_of(alice.account_id, []) == {}


def test_calls_on_the_callers_own_provider_key_are_not_billed(
    domain: None, session: OrmSession, alice: Person
) -> None:
    run = factories.run(alice.user)
    for byok in (True, False):
        message = factories.message(alice.user, 4, byok=byok)
        factories.call(alice.user, message=message, run_id=run.id)
    spent = totals_of(alice.account_id, [run.id])[run.id].own
    assert (spent.calls, spent.credits, spent.cost) == (2, 4, Decimal("0.08"))


def test_a_strangers_run_is_not_found(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    run = factories.run(alice.user)
    assert history.summary_of(alice.account_id, run.id).run.id == run.id
    for user_id, run_id in ((mallory.id, run.id), (alice.id, "nope"), (alice.id, "nul\x00"), (alice.id, "")):
        with pytest.raises(NotFound):
            history.summary_of(user_id, run_id)


def test_a_running_run_without_news_for_a_day_is_silent(
    domain: None, session: OrmSession, alice: Person
) -> None:
    long_ago = now() - timedelta(days=3)
    silent = factories.run(alice.user, created_at=long_ago)
    factories.step(silent, 1, created_at=long_ago, completed_at=long_ago + timedelta(minutes=1))
    called = factories.run(alice.user, created_at=long_ago)
    factories.call(alice.user, run_id=called.id)
    waiting = factories.run(alice.user, created_at=long_ago)
    factories.run(alice.user, parent=waiting)
    ended = factories.run(alice.user, created_at=long_ago, status="completed", completed_at=long_ago)
    summary = history.summary_of(alice.account_id, silent.id)
    assert summary.state == "silent"
    assert not summary.live
    assert summary.last_activity == long_ago + timedelta(minutes=1)
    assert summary.duration_ms == 60_000
    assert history.summary_of(alice.account_id, called.id).live
    assert history.summary_of(alice.account_id, waiting.id).live
    assert history.summary_of(alice.account_id, ended.id).state == "completed"


def test_agents_are_suggested_by_how_often_they_ran(
    domain: None, session: OrmSession, alice: Person, mallory: Person
) -> None:
    for agent in ("acme/rare@1.0.0", "often", "acme/rarer@2.0.0", "often", ""):
        factories.run(alice.user, agent)
    factories.run(mallory.user, "hers")
    assert history.agents_of(alice.account_id) == ["often", "rare", "rarer"]
    assert history.has_runs(alice.account_id)
    assert not history.has_runs("nobody")
