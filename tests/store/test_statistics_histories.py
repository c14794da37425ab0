"""Property test: after any random history, all statistics match a query over the rows."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import ledger
from models.core.pool import Pool
from models.ledger import Admission
from models.store import Agent
from models.store.statistics import counting
from tests import factories
from tests.ledger.stage import Payer, admit, call, give, payer
from tests.store.ledger import NOW, assert_proved, finish, start, week_from

AGENTS = ("reviewer", "tester")
VERSIONS = ("1.0.0", "1.1.0", "2.0.0")


class History(RuleBasedStateMachine):
    """A publisher's agents and the users who run them."""

    runs: Bundle[tuple[Payer, str]] = Bundle("runs")
    calls: Bundle[Admission] = Bundle("calls")

    def __init__(self, session: Session, gate: Pool) -> None:
        super().__init__()
        self.session = session
        self.gate = gate
        self.people: dict[int, Payer] = {}
        self.published: set[tuple[str, str]] = set()

    @initialize()
    def begin(self) -> None:
        owner = factories.user(factories.new_id("owner-"))
        org = factories.org(owner, factories.new_id("Org "))
        self.org_id = org.id
        self.publisher = factories.publisher(org, factories.new_id("p-"))
        week_from(self.session, NOW - timedelta(days=7))

    def person(self, number: int) -> Payer:
        if number not in self.people:
            who = payer(self.session, factories.new_id("user-"), next_quota_reset=NOW + timedelta(days=3000))
            give(self.session, who.account, 100_000)
            self.people[number] = who
        return self.people[number]

    @rule(agent=st.sampled_from(AGENTS), version=st.sampled_from(VERSIONS))
    def publish(self, agent: str, version: str) -> None:
        if (agent, version) in self.published:
            return
        self.published.add((agent, version))
        counting.lock_agents(self.publisher.id, [agent])
        factories.agent_version(self.publisher, agent, version)
        counting.count_earlier_runs(self.publisher.id, {agent: version})
        self.session.commit()

    @rule(
        target=runs,
        number=st.integers(0, 2),
        agent=st.sampled_from([*AGENTS, "unpublished"]),
        version=st.sampled_from(VERSIONS),
        hours=st.integers(0, 24 * 12),
    )
    def run_starts(self, number: int, agent: str, version: str, hours: int) -> tuple[Payer, str]:
        who = self.person(number)
        name = f"{self.publisher.id}/{agent}@{version}"
        return who, start(self.session, who.id, name, called=False, created_at=NOW - timedelta(hours=hours))

    @rule(
        target=runs,
        above=runs,
        agent=st.sampled_from([*AGENTS, "unpublished"]),
        stranger=st.sampled_from([False, False, False, True]),
    )
    def run_is_spawned(self, above: tuple[Payer, str], agent: str, stranger: bool) -> tuple[Payer, str]:
        who = self.person(0) if stranger else above[0]
        ancestors = self.session.scalar(
            text("SELECT ancestor_run_ids FROM agent_run WHERE id = :id"), {"id": above[1]}
        )
        if who.id not in [each.id for each in self.people.values()]:
            who = self.person(1)
        name = f"{self.publisher.id}/{agent}@{VERSIONS[0]}"
        chain = [*(ancestors or []), above[1]]
        return who, start(self.session, who.id, name, called=False, ancestor_run_ids=chain)

    @rule(number=st.integers(0, 2))
    def person_joins_or_leaves_the_publisher(self, number: int) -> None:
        who = self.person(number)
        gone = self.session.execute(
            text("DELETE FROM org_member WHERE user_id = :user RETURNING user_id"), {"user": who.id}
        ).all()
        if not gone:
            self.session.execute(
                text("INSERT INTO org_member (org_id, user_id, role) VALUES (:org, :user, 'member')"),
                {"org": self.org_id, "user": who.id},
            )
        self.session.commit()

    @rule(number=st.sampled_from([None, None, 0, 1, 2]))
    def publisher_changes_hands(self, number: int | None) -> None:
        owner = None if number is None else self.person(number).id
        self.session.execute(
            text("UPDATE publisher SET user_id = :user, org_id = :org WHERE id = :id"),
            {"id": self.publisher.id, "user": owner, "org": None if owner else self.org_id},
        )
        self.session.commit()

    @rule(target=calls, run=runs)
    def call_begins(self, run: tuple[Payer, str]) -> Any:
        return admit(self.gate, run[0], hold=1, run_id=run[1])

    @rule(admission=consumes(calls), credits=st.integers(0, 30), byok=st.booleans())
    def call_settles(self, admission: Admission, credits: int, byok: bool) -> None:
        if admission.outcome == "admitted":
            ledger.settle(self.gate, admission, call(credits, byok=byok), now=NOW)

    @rule(
        run=runs,
        status=st.sampled_from(["completed", "completed", "completed", "failed", "cancelled", "running"]),
        seconds=st.sampled_from([-5, 0, 0.3, 8, 100, 5000, 10**7]),
    )
    def run_ends(self, run: tuple[Payer, str], status: str, seconds: float) -> None:
        finish(self.session, run[1], status, seconds)

    @rule(run=runs)
    def run_is_deleted(self, run: tuple[Payer, str]) -> None:
        self.session.execute(text("DELETE FROM agent_run WHERE id = :id"), {"id": run[1]})
        self.session.commit()

    @rule(number=st.integers(0, 2))
    def person_leaves(self, number: int) -> None:
        if number in self.people:
            self.session.execute(
                text("UPDATE publisher SET user_id = NULL, org_id = :org WHERE user_id = :id"),
                {"org": self.org_id, "id": self.people[number].id},
            )
            self.session.execute(
                text('DELETE FROM "user" WHERE id = :id'), {"id": self.people.pop(number).id}
            )
            self.session.commit()

    @rule(hours=st.integers(0, 24 * 12))
    def week_moves(self, hours: int) -> None:
        counting.advance_window(NOW + timedelta(hours=hours))
        self.session.commit()

    @rule(agent=st.sampled_from(AGENTS))
    def agent_is_counted_anew(self, agent: str) -> None:
        counting.recount(self.publisher.id, agent)
        self.session.commit()

    @invariant()
    def figures_are_what_the_rows_say(self) -> None:
        assert_proved(self.session)
        for agent in self.session.query(Agent).populate_existing():
            assert (
                min(agent.runs, agent.weekly_runs, agent.unique_users, agent.own_runs, *agent.durations) >= 0
            )

    def teardown(self) -> None:
        # the next history resets the window, which requires that nothing is counted
        self.session.rollback()
        self.session.execute(text("DELETE FROM agent_run"))
        self.session.commit()


@pytest.mark.timeout(300)
def test_any_history(session: Session, gate: Pool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: History(session, gate),
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
