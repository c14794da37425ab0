"""No deadlocks: the store publishes, withdraws and counts while calls of its agents' runs are settled in groups."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from models import ledger
from models.accounts.credentials import hash_token
from models.core.db import db, now
from models.core.pool import Pool
from models.ledger import AdmissionRequest
from models.store.catalogue import catalogue
from models.store.publishing import publish, withdrawing
from models.store.publishing.definition import Definition
from models.store.statistics import counting, store_proof
from tests import factories
from tests.ledger.stage import call
from tests.proof.cast import Person
from tests.proof.stage import Result, Stage

AGENTS = ("herald", "judge", "scribe", "teller")
GROUP = 8
WAIT_SECONDS = 2.0
"""Limit of a settlement, which waits only for account locks."""


def counting_proof(stage: Stage, *, seconds: float, settlers: int = 4) -> Result:
    """Settle, finish and delete runs, publish, yank, deprecate, and update statistics concurrently for `seconds`."""
    people = stage.people(6, 1_000_000)
    publishers = [factories.new_id("proof-")[:20].strip("-") for _ in range(2)]
    with stage.session():
        owner = factories.user(factories.new_id("owner-"))
        for id in publishers:
            factories.publisher(owner, id)
        for id in publishers:
            _publish(id, 0)
    before = stage.number(_DEADLOCKS)
    stop = threading.Event()
    settled: list[float] = []
    changes = [0]
    work: list[Callable[[], None]] = [
        lambda: _settle(stage.engine, people, publishers, settled, stop)
    ] * settlers
    work += [lambda id=id: _edit(stage, id, changes, stop) for id in publishers]
    work += [lambda: _count(stage, stop)] * 3
    work += [lambda: _slide(stage, stop)]
    with ThreadPoolExecutor(len(work)) as threads:
        jobs = [threads.submit(job) for job in work]
        stop.wait(seconds)
        stop.set()
        for job in jobs:
            job.result()
    with stage.session():
        _apply_all()
        proof = store_proof.prove()
    assert proof.differences == [], proof.differences[:3]
    assert proof.waiting == 0
    assert stage.number(_DEADLOCKS) == before, "PostgreSQL detected a deadlock"
    assert max(settled) < WAIT_SECONDS, f"a settlement took {max(settled):.1f} s"
    return Result(
        "counting",
        f"{len(settled) * GROUP} calls settled in groups of {GROUP} beside {changes[0]} publications and withdrawals, three"
        " appliers and the sliding week",
        f"no deadlock, slowest settlement {max(settled):.2f} s",
    )


_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def _settle(
    engine: Engine, people: list[Person], publishers: list[str], settled: list[float], stop: threading.Event
) -> None:
    """Settle groups of calls of nested runs of several agents, then finish or delete the runs."""
    pool = Pool(engine.url.render_as_string(hide_password=False), 1)
    try:
        with Session(engine) as session:
            while not stop.is_set():
                group = [random.choice(people) for _ in range(GROUP)]
                runs = [_run_chain(session, person, publishers) for person in group]
                claims = [
                    AdmissionRequest(
                        token_hash=hash_token(person.key),
                        request_id=factories.new_id(),
                        hold=1,
                        run_id=run[-1],
                    )
                    for person, run in zip(group, runs, strict=True)
                ]
                admitted = ledger.admit_many(pool, claims)
                ends = [run_id for run in runs for run_id in run]
                random.shuffle(ends)
                _finish(session, ends[::2])
                began = time.monotonic()
                ledger.settle_many(pool, [(each, call(2)) for each in admitted], timeout_seconds=0)
                settled.append(time.monotonic() - began)
                _finish(session, ends[1::2])
                session.execute(text("DELETE FROM agent_run WHERE id = ANY (:ids)"), {"ids": ends[::7]})
                session.commit()
    finally:
        pool.close()


def _run_chain(session: Session, person: Person, publishers: list[str]) -> list[str]:
    chain: list[str] = []
    for _ in range(2):
        agent = f"{random.choice(publishers)}/{random.choice(AGENTS)}@1.0.0"
        run = factories.new_id()
        session.execute(
            text(
                "INSERT INTO agent_run (id, user_id, agent_id, ancestor_run_ids)"
                " VALUES (:id, :user, :agent, CAST(:above AS text[]))"
            ),
            {"id": run, "user": person.id, "agent": agent, "above": list(chain)},
        )
        chain.append(run)
    session.commit()
    return chain


def _finish(session: Session, runs: list[str]) -> None:
    for run in runs:
        session.execute(
            text("UPDATE agent_run SET status = 'completed', completed_at = now() WHERE id = :id"),
            {"id": run},
        )
        session.commit()


def _publish(publisher: str, patch: int) -> None:
    """Publish a new version of all agents in random order."""
    chosen = random.sample(AGENTS, len(AGENTS))
    definitions = [
        Definition.model_validate(factories.definition(agent, publisher, f"1.0.{patch}")) for agent in chosen
    ]
    publish.publish(definitions, by=None, credential="import", arrived=now())
    db.session.commit()


def _edit(stage: Stage, publisher: str, changes: list[int], stop: threading.Event) -> None:
    patch = 0
    with stage.session():
        while not stop.is_set():
            patch += 1
            agent = random.choice(AGENTS)
            _publish(publisher, patch)
            withdrawing.yank(None, publisher, agent, f"1.0.{patch}", "Broken", now())
            db.session.commit()
            withdrawing.deprecate(None, publisher, agent, "Old", None, now())
            db.session.commit()
            withdrawing.undeprecate(None, publisher, random.choice(AGENTS))
            db.session.commit()
            catalogue.refresh(publisher)
            db.session.commit()
            store_proof.repair(publisher, agent)
            db.session.commit()
            changes[0] += 5


def _count(stage: Stage, stop: threading.Event) -> None:
    with stage.session():
        while not stop.wait(0.02):
            after: int | None = 0
            while after is not None:
                after = counting.apply_queue(after, random.randint(1, 50))
                db.session.commit()


def _slide(stage: Stage, stop: threading.Event) -> None:
    with stage.session():
        while not stop.wait(0.1):
            try:
                counting.advance_window(now())
                db.session.commit()
            except OperationalError:  # locked by another job; this one retries in a minute
                db.session.rollback()


def _apply_all() -> None:
    deadline = time.monotonic() + 30
    while db.session.scalar(text("SELECT count(*) FROM store_queue")):
        assert time.monotonic() < deadline, "the queue does not drain"
        after: int | None = 0
        while after is not None:
            after = counting.apply_queue(after)
            db.session.commit()
