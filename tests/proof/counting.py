"""The store publishes, withdraws and counts, while calls of its agents' runs are settled in groups: nobody waits in a circle."""

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
from tests.proof.stage import Person, Result, Stage

AGENTS = ("herald", "judge", "scribe", "teller")
GROUP = 8
WAIT_SECONDS = 2.0
"""No settlement takes as long: it waits for accounts alone."""


def counted(stage: Stage, *, seconds: float, settlers: int = 4) -> Result:
    """Settle, finish, delete, publish, yank, deprecate, take down, slide and apply at once, for so long."""
    people = stage.people(6, 1_000_000)
    publishers = [factories.new_id("proof-")[:20].strip("-") for _ in range(2)]
    with stage.session():
        owner = factories.user(factories.new_id("owner-"))
        for id in publishers:
            factories.publisher(owner, id)
        for id in publishers:
            _publish(id, 0)
    before = stage.number(_DEADLOCKS)
    over = threading.Event()
    settled: list[float] = []
    made = [0]
    work: list[Callable[[], None]] = [
        lambda: _settle(stage.engine, people, publishers, settled, over)
    ] * settlers
    work += [lambda id=id: _edit(stage, id, made, over) for id in publishers]
    work += [lambda: _count(stage, over)] * 3
    work += [lambda: _slide(stage, over)]
    with ThreadPoolExecutor(len(work)) as threads:
        jobs = [threads.submit(job) for job in work]
        over.wait(seconds)
        over.set()
        for job in jobs:
            job.result()
    with stage.session():
        _apply_all()
        found = store_proof.prove()
    assert found.differences == [], found.differences[:3]
    assert found.waiting == 0
    assert stage.number(_DEADLOCKS) == before, "somebody waited in a circle"
    assert max(settled) < WAIT_SECONDS, f"a settlement took {max(settled):.1f} s"
    return Result(
        "counting",
        f"{len(settled) * GROUP} calls settled in groups of {GROUP} beside {made[0]} publications and withdrawals, three"
        " appliers, a week that slides",
        f"no deadlock, slowest settlement {max(settled):.2f} s",
    )


_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def _settle(
    engine: Engine, people: list[Person], publishers: list[str], settled: list[float], over: threading.Event
) -> None:
    """Groups of calls of runs of several agents, each run below another one; then the runs end, or are deleted."""
    pool = Pool(engine.url.render_as_string(hide_password=False), 1)
    try:
        with Session(engine) as session:
            while not over.is_set():
                group = [random.choice(people) for _ in range(GROUP)]
                runs = [_tree(session, person, publishers) for person in group]
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
                _end(session, ends[::2])
                began = time.monotonic()
                ledger.settle_many(pool, [(each, call(2)) for each in admitted], patience_seconds=0)
                settled.append(time.monotonic() - began)
                _end(session, ends[1::2])
                session.execute(text("DELETE FROM agent_run WHERE id = ANY (:ids)"), {"ids": ends[::7]})
                session.commit()
    finally:
        pool.close()


def _tree(session: Session, person: Person, publishers: list[str]) -> list[str]:
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


def _end(session: Session, runs: list[str]) -> None:
    for run in runs:
        session.execute(
            text("UPDATE agent_run SET status = 'completed', completed_at = now() WHERE id = :id"),
            {"id": run},
        )
        session.commit()


def _publish(publisher: str, patch: int) -> None:
    """A new version of all agents, in an order of chance."""
    chosen = random.sample(AGENTS, len(AGENTS))
    definitions = [
        Definition.model_validate(factories.definition(agent, publisher, f"1.0.{patch}")) for agent in chosen
    ]
    publish.publish(definitions, by=None, credential="import", arrived=now())
    db.session.commit()


def _edit(stage: Stage, publisher: str, made: list[int], over: threading.Event) -> None:
    patch = 0
    with stage.session():
        while not over.is_set():
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
            made[0] += 5


def _count(stage: Stage, over: threading.Event) -> None:
    with stage.session():
        while not over.wait(0.02):
            after: int | None = 0
            while after is not None:
                after = counting.apply_queue(after, random.randint(1, 50))
                db.session.commit()


def _slide(stage: Stage, over: threading.Event) -> None:
    with stage.session():
        while not over.wait(0.1):
            try:
                counting.advance_window(now())
                db.session.commit()
            except OperationalError:  # somebody counts; the job tries again in a minute
                db.session.rollback()


def _apply_all() -> None:
    deadline = time.monotonic() + 30
    while db.session.scalar(text("SELECT count(*) FROM store_queue")):
        assert time.monotonic() < deadline, "the queue does not get empty"
        after: int | None = 0
        while after is not None:
            after = counting.apply_queue(after)
            db.session.commit()
