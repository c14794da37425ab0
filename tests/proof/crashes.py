"""`kill -9` of a worker, of PostgreSQL and of everything, under load, at random moments."""

import asyncio
import random
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.exc import OperationalError

from models import ledger
from models.core.db import now
from tests.proof.load import Outcome, call
from tests.proof.stage import Person, Result, Serve, Stage, patiently
from tests.proof.upstream import Script

WITHIN = 60.0
"""Seconds after which the holds of the dead are gone."""
SWEPT_EVERY = 20.0


@dataclass
class Load:
    """Clients that call without end, each on an account of its own. A script's id is also its model's name, so that
    a hold that is left behind tells which call it was."""

    stage: Stage
    people: list[Person]
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._over.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "the clients did not end"

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(person, index) for index, person in enumerate(self.people)))

    async def _client(self, person: Person, index: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            script = Script(
                f"crash-{index}-{count}-{random.getrandbits(40):x}",
                words=random.randint(3, 25),
                pace=random.choice([0.0, 0.01, 0.05]),
                first=random.choice([0.0, 0.05, 0.2]),
                completion=random.randint(1, 500),
            )
            outcome = await call(
                self.stage.address,
                person.key,
                script,
                model=f"proof/{script.id}",
                stream=random.random() < 0.6,
            )
            self.outcomes.append(outcome)
            await asyncio.sleep(0.05 if outcome.complete else 0.3)


class Watch:
    """Looks at the live holds all the time, and knows how long those of dead workers were still seen while the server
    was up: since the death, or since the server came back after it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.up_since: datetime | None = now()
        self.deaths: dict[str, datetime] = {}
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._over.set()
        self._thread.join(30)

    def died(self, pids: list[int]) -> None:
        self.up_since = None
        for pid in pids:
            self.deaths[f"{socket.gethostname()}:{pid}"] = now()

    def back(self) -> None:
        self.up_since = now()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            with suppress(OperationalError):
                for worker, created in self.stage.rows(
                    "SELECT worker, min(created_at) FROM credit_hold WHERE state = 'live' GROUP BY worker"
                ):
                    death = self.deaths.get(worker)
                    # a hold that is younger is of a new worker with an old number
                    up = self.up_since
                    if death is not None and up is not None and created < death:
                        self.longest = max(self.longest, (now() - max(death, up)).total_seconds())


KINDS = ("worker", "postgres", "server", "everything")


def crashes(
    server: Serve,
    stage: Stage,
    *,
    kinds: tuple[str, ...] = KINDS,
    rounds: int = 1,
    clients: int = 16,
    wait: bool = True,
) -> Result:
    """`rounds` kills of each kind; afterwards every call is accounted for. Without `wait` the sweep is told that the
    minute is over."""
    people = stage.people(clients, 10_000_000)
    before = stage.number("SELECT count(*) FROM credit_hold WHERE state = 'lost'")
    kills = [kind for kind in kinds for _ in range(rounds)]
    random.shuffle(kills)
    slowest = 0.0
    with Watch(stage) as watch:
        with Load(stage, people) as load:
            for kind in kills:
                time.sleep(random.uniform(0.5, 2.5))
                watch.died(_kill(server, kind))
                slowest = max(slowest, server.wait_until_ready())
                watch.back()
            time.sleep(1.0)
        if not wait:
            _sweep_later(stage)
        gone = stage.quiet(WITHIN + 30)
    lost = _account(stage, people, load.outcomes) - before
    stage.prove()
    assert watch.longest <= WITHIN, f"a dead worker's hold lived {watch.longest:.0f} s with the server up"
    complete = sum(outcome.complete for outcome in load.outcomes)
    return Result(
        "crashes",
        f"{rounds} x kill -9 of each of {', '.join(kinds)}; {clients} clients made {len(load.outcomes)} calls, "
        f"{complete} answered whole",
        f"back after {slowest:.1f} s at most; {lost} lost calls shown to the operator, holds of the dead gone after "
        f"{max(watch.longest, gone):.0f} s at most",
    )


def _sweep_later(stage: Stage) -> None:
    """No client calls any more: what lives is of the dead, and must end within the minute."""

    def sweep() -> None:
        with stage.session() as session:
            ledger.sweep(now=now() + timedelta(seconds=WITHIN - SWEPT_EVERY))
            session.commit()

    patiently(sweep)


def _kill(server: Serve, kind: str) -> list[int]:
    if kind == "worker":
        return server.kill_worker(random.choice)
    if kind == "postgres":
        return server.kill_postgres()
    killed = server.kill_all(postgres=kind == "everything")
    server.start()
    return killed


def _account(stage: Stage, people: list[Person], outcomes: list[Outcome]) -> int:
    """Nothing charged twice; what reached its client whole is charged once; what the provider did is charged, or
    lies before the operator. Returns the lost holds there are."""
    odd = [
        outcome
        for outcome in outcomes
        if outcome.status not in (None, 200, 502, 503) and not outcome.complete
    ]
    assert not odd, f"{len(odd)} calls were answered oddly: {odd[0].status} {odd[0].body[:300]!r}"
    settled: dict[str, int] = {}
    failed = set()
    for row in stage.calls(people):
        marker = row.requested_model.removeprefix("proof/")
        if row.state == "settled":
            settled[marker] = settled.get(marker, 0) + 1
        else:
            failed.add(marker)
    twice = [marker for marker, times in settled.items() if times > 1]
    assert not twice, f"charged twice: {twice}"
    uncharged = [
        outcome.script.id for outcome in outcomes if outcome.complete and outcome.script.id not in settled
    ]
    assert not uncharged, f"{len(uncharged)} whole answers were not charged: {uncharged[:3]}"
    holds = stage.rows("SELECT model FROM credit_hold WHERE state = 'lost'")
    lost = {model.removeprefix("proof/") for (model,) in holds}
    seen = stage.upstream.seen()
    asked = {outcome.script.id for outcome in outcomes if outcome.script.id in seen}
    vanished = asked - set(settled) - failed - lost
    assert not vanished, f"{len(vanished)} calls reached the provider and vanished: {sorted(vanished)[:3]}"
    ended = {marker for marker in asked if seen[marker]["ended"]} - set(settled) - lost
    assert not ended, f"{len(ended)} calls were answered by the provider and told failed: {sorted(ended)[:3]}"
    return len(holds)
