"""`kill -9` of a worker, PostgreSQL, the server, or all processes, at random times under load."""

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
from tests.proof.cast import PERIODS, WAYS, Person
from tests.proof.load import Outcome, call
from tests.proof.stage import Result, Serve, Stage, retry
from tests.proof.upstream import Script

RELEASE_SECONDS = 60.0
"""Seconds after which the holds of dead workers are released."""
SWEPT_EVERY = 20.0


@dataclass
class Load:
    """Clients that make calls continuously, each with another account. The script id is also the model name, so that a
    remaining hold identifies its call."""

    stage: Stage
    people: list[Person]
    outcomes: list[Outcome] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "the clients did not stop"

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(person, index) for index, person in enumerate(self.people)))

    async def _client(self, person: Person, index: int) -> None:
        count = 0
        while not self._stop.is_set():
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
                headers=person.headers,
                stream=random.random() < 0.6,
            )
            self.outcomes.append(outcome)
            await asyncio.sleep(0.05 if outcome.complete else 0.3)


class HoldMonitor:
    """Polls the live holds and records how long those of dead workers remained while the server was up: since the
    death, or since the server was ready again."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.up_since: datetime | None = now()
        self.deaths: dict[str, datetime] = {}
        self.longest = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> "HoldMonitor":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def died(self, pids: list[int]) -> None:
        self.up_since = None
        for pid in pids:
            self.deaths[f"{socket.gethostname()}:{pid}"] = now()

    def back(self) -> None:
        self.up_since = now()

    def _poll(self) -> None:
        while not self._stop.wait(0.5):
            with suppress(OperationalError):
                for worker, created in self.stage.rows(
                    "SELECT worker, min(created_at) FROM credit_hold WHERE state = 'live' GROUP BY worker"
                ):
                    death = self.deaths.get(worker)
                    # a younger hold belongs to a new worker with a reused process id
                    up_since = self.up_since
                    if death is not None and up_since is not None and created < death:
                        self.longest = max(self.longest, (now() - max(death, up_since)).total_seconds())


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
    """Kill each kind `rounds` times, then account for every call. Without `wait`, the sweep runs with its clock ahead
    instead of waiting for the minute."""
    people = stage.people(clients, 10_000_000, WAYS, dict.fromkeys(PERIODS, 9_000_000))
    before = stage.number("SELECT count(*) FROM credit_hold WHERE state = 'lost'")
    kills = [kind for kind in kinds for _ in range(rounds)]
    random.shuffle(kills)
    slowest = 0.0
    with HoldMonitor(stage) as monitor:
        with Load(stage, people) as load:
            for kind in kills:
                time.sleep(random.uniform(0.5, 2.5))
                monitor.died(_kill(server, kind))
                slowest = max(slowest, server.wait_until_ready())
                monitor.back()
            time.sleep(1.0)
        if not wait:
            _sweep_later(stage)
        released_after = stage.wait_for_holds(RELEASE_SECONDS + 30)
    lost = _check_calls(stage, people, load.outcomes) - before
    budgets = stage.check_payers(people)
    stage.prove()
    assert monitor.longest <= RELEASE_SECONDS, (
        f"a hold of a dead worker remained for {monitor.longest:.0f} s with the server up"
    )
    complete = sum(outcome.complete for outcome in load.outcomes)
    return Result(
        "crashes",
        f"{rounds} x kill -9 of each of {', '.join(kinds)}; {clients} clients, who pay in every way, made {len(load.outcomes)} calls, "
        f"{complete} completed",
        f"recovery at most {slowest:.1f} s; {lost} lost calls reported to the operator; {budgets} budgets hold exactly their calls; holds of dead workers released "
        f"within {max(monitor.longest, released_after):.0f} s",
    )


def _sweep_later(stage: Stage) -> None:
    """All clients have stopped, so the live holds belong to dead workers. Sweep with the clock ahead."""

    def sweep() -> None:
        with stage.session() as session:
            ledger.sweep(now=now() + timedelta(seconds=RELEASE_SECONDS - SWEPT_EVERY))
            session.commit()

    retry(sweep)


def _kill(server: Serve, kind: str) -> list[int]:
    if kind == "worker":
        return server.kill_worker(random.choice)
    if kind == "postgres":
        return server.kill_postgres()
    killed = server.kill_all(postgres=kind == "everything")
    server.start()
    return killed


def _check_calls(stage: Stage, people: list[Person], outcomes: list[Outcome]) -> int:
    """Assert that no call is charged twice, every complete response is charged once, and every call that reached the
    provider is charged, failed, or reported as lost. Returns the number of lost holds."""
    odd = [
        outcome
        for outcome in outcomes
        if outcome.status not in (None, 200, 502, 503) and not outcome.complete
    ]
    assert not odd, f"{len(odd)} unexpected responses: {odd[0].status} {odd[0].body[:300]!r}"
    settled: dict[str, int] = {}
    failed = set()
    for row in stage.calls(people):
        marker = row.requested_model.removeprefix("proof/")
        if row.state == "settled":
            settled[marker] = settled.get(marker, 0) + 1
        else:
            failed.add(marker)
    charged_twice = [marker for marker, times in settled.items() if times > 1]
    assert not charged_twice, f"charged twice: {charged_twice}"
    uncharged = [
        outcome.script.id for outcome in outcomes if outcome.complete and outcome.script.id not in settled
    ]
    assert not uncharged, f"{len(uncharged)} complete responses were not charged: {uncharged[:3]}"
    holds = stage.rows("SELECT model FROM credit_hold WHERE state = 'lost'")
    lost = {model.removeprefix("proof/") for (model,) in holds}
    seen = stage.upstream.seen()
    sent = {outcome.script.id for outcome in outcomes if outcome.script.id in seen}
    vanished = sent - set(settled) - failed - lost
    assert not vanished, f"{len(vanished)} calls reached the provider and vanished: {sorted(vanished)[:3]}"
    completed = {marker for marker in sent if seen[marker]["ended"]} - set(settled) - lost
    assert not completed, (
        f"{len(completed)} calls were completed by the provider but marked as failed: {sorted(completed)[:3]}"
    )
    return len(holds)
