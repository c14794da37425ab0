"""Envelopes of runs: random trees of runs, calls in flight, and runs that end in any order."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from flask import Flask
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import ledger
from models.accounts import User
from models.core.db import db
from models.core.pool import Pool
from models.ledger import Admission, BudgetRefusal, CallFailure, run_budgets
from models.runs import AgentRun
from tests import factories
from tests.ledger.stage import NOW, Payer, admit, assert_proved, call, give, payer

LIMIT = 100


@dataclass
class Run:
    """A run of the model: its own limit, or None if it shares its parent's envelope; and what its calls cost."""

    row: AgentRun
    parent: "Run | None"
    limit: int | None
    cost: int = 0
    ended: bool = False
    children: list["Run"] = field(default_factory=list)

    def total(self) -> int:
        return self.cost + sum(child.total() for child in self.children)


class Trees(RuleBasedStateMachine):
    """Runs start with and without envelopes, call, abort and end. No run's tree ever costs more than its envelope, and when
    all have ended, the root's envelope is what its calls cost."""

    session: Session
    pool: Pool
    alice: Payer

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []
        self.calls: list[tuple[Run, Admission, int]] = []
        self.start(0, LIMIT)

    def start(self, parent: int, limit: int | None) -> str | None:
        above = self.runs[parent % len(self.runs)] if self.runs else None
        owner = self.session.get_one(User, self.alice.id)
        row = factories.run(owner, **({"parent": above.row} if above else {}))
        refusal = run_budgets.open_run_budget(row.id, limit, "start", now=NOW)
        self.session.commit()
        if refusal is None:
            made = Run(row, above, limit)
            self.runs.append(made)
            if above:
                above.children.append(made)
            return None
        row.status = "cancelled"
        self.session.commit()
        return refusal.level

    @rule(parent=st.integers(0, 20), limit=st.one_of(st.none(), st.integers(0, 60)))
    def start_sub_run(self, parent: int, limit: int | None) -> None:
        above = self.runs[parent % len(self.runs)]
        if not above.ended:
            self.start(parent, limit)

    @rule(which=st.integers(0, 20), hold=st.integers(1, 40))
    def begin_call(self, which: int, hold: int) -> None:
        run = self.runs[which % len(self.runs)]
        admitted = admit(self.pool, self.alice, hold, run_id=run.row.id)
        if admitted.outcome == "admitted":
            assert not run.ended
            self.calls.append((run, admitted, hold))
        else:
            assert (
                admitted.outcome == "run_not_running"
                if run.ended
                else admitted.outcome in ("budget", "budget_held")
            )

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 20), part=st.floats(0, 1))
    def settle(self, which: int, part: float) -> None:
        run, admitted, hold = self.calls.pop(which % len(self.calls))
        settled = ledger.settle(self.pool, admitted, call(round(hold * part)), now=NOW)
        run.cost += settled.credits

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 20))
    def abort(self, which: int) -> None:
        _, admitted, _ = self.calls.pop(which % len(self.calls))
        failure = CallFailure(requested_model="m", started_at=NOW, latency_ms=1, error="client gone")
        ledger.fail(self.pool, admitted, failure, now=NOW)

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 20), more=st.integers(1, 30))
    def grow(self, which: int, more: int) -> None:
        index = which % len(self.calls)
        run, admitted, hold = self.calls[index]
        grown = ledger.grow_hold(self.pool, admitted.request_id, needed=hold, requested=hold + more, now=NOW)
        assert isinstance(grown, int)
        self.calls[index] = (run, admitted, grown)

    @rule(which=st.integers(0, 20))
    def end(self, which: int) -> None:
        run = self.runs[which % len(self.runs)]
        if run.ended or run.parent is None:
            return
        self._end(run)

    def _end(self, run: Run) -> None:
        run.row.status = "completed"
        run_budgets.close_run_budget(run.row.id, now=NOW)
        self.session.commit()
        run.ended = True

    @invariant()
    def nothing_is_overspent(self) -> None:
        for run in self.runs:
            if run.limit is not None:
                assert run.total() <= run.limit

    def teardown(self) -> None:
        while self.calls:
            self.settle(0, 1.0)
        self.nothing_is_overspent()
        for run in reversed(self.runs):
            if not run.ended:
                self._end(run)
        root = self.runs[0]
        row = self.session.execute(
            text("SELECT spent, reserved FROM run_budget WHERE run_id = :id"), {"id": root.row.id}
        ).one()
        assert tuple(row) == (root.total(), 0)
        assert_proved(self.session)


def test_no_envelope_is_overspent_and_all_returns(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 10**9)
    machine = type("Case", (Trees,), {"session": session, "pool": pool, "alice": alice})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_run_keeps_its_first_envelope_and_a_sub_run_takes_its_own_from_it(
    session: Session, pool: Pool
) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    owner = session.get_one(User, alice.id)
    root = factories.run(owner)
    assert run_budgets.open_run_budget(root.id, 50, "start", now=NOW) is None
    assert run_budgets.open_run_budget(root.id, 500, "call", now=NOW) is None
    session.commit()
    child = factories.run(owner, parent=root)
    refusal = run_budgets.open_run_budget(child.id, 51, "start", now=NOW)
    assert isinstance(refusal, BudgetRefusal)
    assert (refusal.level, refusal.free, refusal.needed) == ("run", 50, 51)
    assert run_budgets.open_run_budget(child.id, 30, "start", now=NOW) is None
    session.commit()
    one = admit(pool, alice, 20, run_id=root.id)
    assert (one.outcome, one.run_left) == ("admitted", 0)
    assert admit(pool, alice, 31, run_id=child.id).outcome == "budget"
    held = admit(pool, alice, 10, run_id=root.id)
    assert (held.outcome, held.budget and held.budget.free) == ("budget_held", 0)
    assert ledger.settle(pool, one, call(5), now=NOW).run_left == 15
    run_budgets.close_run_budget(child.id, now=NOW)
    session.commit()
    assert admit(pool, alice, 45, run_id=root.id).outcome == "admitted"


def test_the_first_call_may_name_the_envelope(session: Session, pool: Pool) -> None:
    alice = payer(session)
    give(session, alice.account, 1000)
    run = factories.run(session.get_one(User, alice.id))

    def ask(hold: int, run_budget: int | None) -> Admission:
        request = ledger.AdmissionRequest(
            token_hash=alice.key,
            request_id=factories.new_id("req-"),
            hold=hold,
            run_id=run.id,
            run_budget=run_budget,
        )
        return ledger.admit(pool, request, now=NOW)

    first = ask(10, 25)
    assert (first.outcome, first.run_left) == ("admitted", 15)
    assert ask(20, 1000).outcome == "budget_held"
    assert ask(15, None).outcome == "admitted"
    session.rollback()
    found = session.execute(text("SELECT limit_credits, source FROM run_budget")).one()
    assert tuple(found) == (25, "call")


def test_parallel_sub_agents_cannot_overspend_the_run_above(
    app: Flask, session: Session, pool: Pool, postgres_url: str
) -> None:
    """Sub-runs start, call and end at the same time over two pools, with calls in flight when their runs end; nothing waits for
    anything in a circle."""
    alice = payer(session)
    give(session, alice.account, 10**6)
    owner = session.get_one(User, alice.id)
    root = factories.run(owner)
    run_budgets.open_run_budget(root.id, 150, "start", now=NOW)
    children = [factories.run(owner, parent=root) for _ in range(12)]
    session.commit()
    ids = [(child.id, 20 if number % 3 else None) for number, child in enumerate(children)]
    other = Pool(postgres_url, 8)

    def work(number: int) -> int:
        run_id, limit = ids[number]
        with app.app_context():
            refused = run_budgets.open_run_budget(run_id, limit, "start", now=NOW)
            db.session.commit()
            numbers, spent = random.Random(number), 0
            in_flight = []
            for _ in range(0 if refused else 10):
                worker = (pool, other)[numbers.randrange(2)]
                admitted = admit(worker, alice, 4, run_id=run_id)
                if admitted.outcome == "admitted":
                    in_flight.append(admitted)
                if in_flight and numbers.random() < 0.6:
                    spent += ledger.settle(
                        worker, in_flight.pop(0), call(numbers.randint(1, 4)), now=NOW
                    ).credits
            run_budgets.close_run_budget(run_id, now=NOW)
            db.session.commit()
            return spent + sum(ledger.settle(pool, each, call(4), now=NOW).credits for each in in_flight)

    with ThreadPoolExecutor(8) as threads:
        spent = sum(threads.map(work, range(len(ids))))
    other.close()
    session.rollback()
    row = session.execute(
        text("SELECT spent, reserved FROM run_budget WHERE run_id = :id"), {"id": root.id}
    ).one()
    assert tuple(row) == (spent, 0)
    assert 100 < spent <= 150
    assert_proved(session)
