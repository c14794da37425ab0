"""Statistics under concurrency: runs finish, settle, are corrected and deleted while the window advances."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from models import ledger
from models.core.db import db
from models.core.pool import Pool
from models.store import Agent, AgentVersion, Publisher, StoreQueue
from models.store.catalogue import catalogue
from models.store.statistics import counting, store_proof
from tests import factories
from tests.ledger.stage import Payer, admit, call, give, payer
from tests.store.ledger import (
    NOW,
    assert_proved,
    count_waiting,
    counted,
    finish,
    in_one_go,
    start,
    week_from,
)


@pytest.fixture
def stocked(session: Session) -> Publisher:
    """`acme` with `reviewer` and `tester`."""
    made = factories.publisher(factories.user("owner"), "acme")
    for agent in ("reviewer", "tester"):
        factories.agent(made, agent, "1.0.0")
    week_from(session, NOW - timedelta(days=6))
    return made


def payers(session: Session, count: int) -> list[Payer]:
    people = [payer(session, f"payer{n}") for n in range(count)]
    for who in people:
        give(session, who.account, 100_000)
    return people


def at_once(jobs: Sequence[Callable[[], Any]], workers: int = 12) -> None:
    """Run all jobs concurrently; raises the first error."""
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


@pytest.mark.usefixtures("stocked")
def test_concurrent_changes_of_two_agents(app: Flask, session: Session, engine: Engine, gate: Pool) -> None:
    chance = random.Random(4)
    people = payers(session, 6)
    jobs: list[Callable[[], Any]] = []
    expected = {"reviewer": [0, 0], "tester": [0, 0]}
    late: list[tuple[Any, Any]] = []
    for n in range(90):
        who, agent = chance.choice(people), chance.choice(("reviewer", "tester"))
        age = timedelta(hours=chance.randrange(0, 200))
        run = start(session, who.id, f"acme/{agent}@1.0.0", created_at=NOW - age)
        calls = [admit(gate, who, hold=1, run_id=run) for _ in range(2)]
        late += [(calls[0], call(2))]
        jobs += [lambda a=calls[1]: ledger.settle(gate, a, call(3), now=NOW)]
        if n % 9 == 0:
            jobs += [lambda id=run: in_one_go(engine, "DELETE FROM agent_run WHERE id = :id", id=id)]
            continue
        ending = "failed" if n % 5 == 0 else "completed"
        jobs += [lambda id=run, end=ending: finish_run(engine, id, end)] * 2
        expected[agent][0] += ending == "completed"
        expected[agent][1] += 5 * (ending == "completed")
    chance.shuffle(late)
    for n in range(0, len(late), 5):
        batch = late[n : n + 5]
        jobs += [lambda b=batch: ledger.settle_many(gate, b, now=NOW)] * 2
    jobs += [lambda hours=n: advance(app, hours) for n in range(0, 60, 6)]
    chance.shuffle(jobs)
    at_once(jobs)
    for agent, (runs, credits) in expected.items():
        assert (counted(session, agent=agent).runs, counted(session, agent=agent).credits) == (runs, credits)
    assert_proved(session)


def finish_run(engine: Engine, run: str, status: str) -> None:
    with Session(engine) as own:
        finish(own, run, status)


def advance(app: Flask, hours: int) -> None:
    with app.app_context():
        counting.advance_window(NOW + timedelta(hours=hours))
        db.session.commit()


@pytest.mark.usefixtures("stocked")
def test_a_settlement_concurrent_with_the_finish_is_counted(
    session: Session, engine: Engine, gate: Pool
) -> None:
    (who,) = payers(session, 1)
    for _ in range(30):
        run = start(session, who.id)
        open_call = admit(gate, who, hold=1, run_id=run)
        together = Barrier(2)

        def settle(open_call: Any = open_call, together: Barrier = together) -> None:
            together.wait()
            ledger.settle(gate, open_call, call(1), now=NOW)

        def end(run: str = run, together: Barrier = together) -> None:
            together.wait()
            finish_run(engine, run, "completed")

        at_once([settle, end], 2)
    assert (counted(session).runs, counted(session).credits) == (30, 30)
    assert_proved(session)


def test_runs_that_end_during_publication(
    app: Flask, session: Session, engine: Engine, stocked: Publisher
) -> None:
    (who,) = payers(session, 1)
    for n in range(10):
        runs = [start(session, who.id, f"acme/new{n}@1.0.0") for _ in range(4)]

        def publish(id: str = f"new{n}") -> None:
            with app.app_context():
                counting.lock_agents("acme", [id, "reviewer"])
                db.session.execute(
                    text(
                        "INSERT INTO agent_config (publisher_id, id, version, data) VALUES ('acme', :id, '1.0.0', '{}')"
                    ),
                    {"id": id},
                )
                db.session.add(Agent(publisher_id="acme", id=id, name=id, model=""))
                db.session.flush()
                db.session.add(
                    AgentVersion(publisher_id="acme", agent_id=id, version="1.0.0", credential="cli")
                )
                catalogue.refresh("acme", [id, "reviewer"])
                counting.count_earlier_runs("acme", {id: "1.0.0", "reviewer": "1.0.0"})
                db.session.commit()

        at_once([publish, *(lambda id=run: finish_run(engine, id, "completed") for run in runs)], 5)
        assert (counted(session, agent=f"new{n}").runs, counted(session, "1.0.0", f"new{n}").runs) == (4, 4)
    assert_proved(session)


@pytest.mark.usefixtures("stocked")
def test_a_killed_worker_counts_nothing_and_leaves_the_queue(session: Session, engine: Engine) -> None:
    (who,) = payers(session, 1)
    finish(session, start(session, who.id))
    doomed = engine.connect()
    doomed.execute(text("SELECT store_apply(0, 100)"))
    assert doomed.execute(text("SELECT runs FROM agent WHERE id = 'reviewer'")).scalar_one() == 1
    assert doomed.execute(text("SELECT count(*) FROM store_queue")).scalar_one() == 0
    process = doomed.execute(text("SELECT pg_backend_pid()")).scalar_one()
    in_one_go(engine, "SELECT pg_terminate_backend(:id, 5000)", id=process)
    with pytest.raises(OperationalError):
        doomed.commit()
    doomed.invalidate()
    doomed.close()
    assert session.get_one(Agent, ("acme", "reviewer"), populate_existing=True).runs == 0
    session.rollback()
    assert_proved(session)
    assert counted(session).runs == 1


@pytest.mark.usefixtures("stocked")
def test_agents_locked_by_a_publication_are_skipped(session: Session, engine: Engine, gate: Pool) -> None:
    (who,) = payers(session, 1)
    runs = {agent: start(session, who.id, f"acme/{agent}@1.0.0") for agent in ("reviewer", "tester")}
    above = start(session, who.id, "acme/reviewer@1.0.0", called=False)
    below = start(session, who.id, "acme/tester@1.0.0", ancestor_run_ids=[above])
    late = admit(gate, who, hold=1, run_id=below)
    for run in (*runs.values(), above, below):
        finish(session, run)
    with Session(engine) as publishing:
        publishing.execute(text("SELECT store_enter('acme', ARRAY['reviewer'])"))
        ledger.settle(gate, late, call(4), now=NOW, timeout_seconds=0)
        count_waiting(session)
        found = {each.id: (each.runs, each.credits) for each in session.query(Agent)}
        assert found == {"reviewer": (0, 0), "tester": (2, 4)}
        waiting = {run for (run,) in session.query(StoreQueue.run_id)}
        assert waiting == {runs["reviewer"], above, below}
        session.rollback()
        assert store_proof.prove().differences == []
    assert counted(session).runs == 2
    assert_proved(session)


@pytest.mark.usefixtures("stocked")
def test_concurrent_workers_count_every_run_once(app: Flask, session: Session) -> None:
    people = payers(session, 3)
    for who in people:
        for agent in ("reviewer", "tester") * 10:
            finish(session, start(session, who.id, f"acme/{agent}@1.0.0"))

    def count_queue() -> None:
        with app.app_context():
            for _ in range(10):
                counting.apply_queue(limit=7)
                db.session.commit()

    at_once([count_queue] * 6, 6)
    assert_proved(session)
    assert [counted(session, agent=agent).runs for agent in ("reviewer", "tester")] == [30, 30]


@pytest.mark.usefixtures("stocked")
def test_the_proof_uses_one_snapshot(app: Flask, session: Session, engine: Engine, gate: Pool) -> None:
    people = payers(session, 3)
    runs = [(who, start(session, who.id)) for who in people for _ in range(15)]
    calls = [admit(gate, who, hold=1, run_id=run) for who, run in runs]
    jobs: list[Callable[[], Any]] = [lambda id=run: finish_run(engine, id, "completed") for _, run in runs]
    jobs += [lambda a=each: ledger.settle(gate, a, call(1), now=NOW) for each in calls]
    random.Random(1).shuffle(jobs)

    def proved() -> None:
        with app.app_context():
            assert store_proof.prove().differences == []
            counting.apply_queue(limit=20)
            db.session.commit()
            assert store_proof.prove().differences == []

    at_once([*jobs[:30], proved, *jobs[30:60], proved, *jobs[60:], proved], 8)
    assert_proved(session)
