"""Mixed traffic for minutes: memory and connections stay flat, and next to nothing goes wrong."""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field

import psutil

from tests.proof.load import Outcome, call, get, play
from tests.proof.stage import Person, Result, Stage
from tests.proof.upstream import Script

MODEL = "proof/soaked"
PAGES = ("/profile?tab=usage", "/runs", "/profile?tab=api-keys", "/", "/profile/statement")


@dataclass
class Samples:
    """What was seen each second."""

    at: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """MB of all workers together."""
    connections: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def soak(stage: Stage, workers: list[psutil.Process], *, seconds: float = 10.0, clients: int = 12) -> Result:
    """Streams, whole answers, clients that leave, and pages."""
    people = stage.people(clients, 10_000_000)
    samples = Samples()
    created = {process.pid: process.create_time() for process in workers}
    done, calls, errors, slowest = play(_run(stage, people, workers, samples, seconds))
    stage.prove()
    assert all(psutil.Process(pid).create_time() == moment for pid, moment in created.items()), (
        "a worker was replaced"
    )
    share = len(errors) / max(done, 1)
    assert share < 0.001, f"{len(errors)} of {done} went wrong: {errors[:3]}"
    settled = stage.number(
        "SELECT count(*) FROM gateway_call WHERE state = 'settled' AND user_id = ANY(:ids)",
        ids=[person.id for person in people],
    )
    assert settled == calls, f"{calls} calls made, {settled} settled"
    # the first third warms caches and pools
    late = len(samples.at) // 3
    slope = statistics.linear_regression(samples.at[late:], samples.memory[late:]).slope * 60
    start, end = statistics.mean(samples.memory[late : late + 10]), statistics.mean(samples.memory[-10:])
    growth = (end - start) / start
    if seconds >= 120:
        assert growth < 0.05, f"memory grew by {growth:.1%}, {slope:.2f} MB a minute"
        steady = samples.connections[late:]
        assert max(steady[-len(steady) // 3 :]) <= max(steady[: len(steady) // 3]) + 2, "connections grow"
    return Result(
        "soak",
        f"{seconds:.0f} s: {done} requests, {calls} of them calls, {(errors and len(errors)) or 'no'} errors",
        f"workers {start:.0f} -> {end:.0f} MB ({slope:+.2f} MB/min), PostgreSQL connections {min(samples.connections)}"
        f" to {max(samples.connections)}, files open {samples.files[late]} -> {samples.files[-1]}, slowest whole call "
        f"{slowest:.2f} s",
    )


async def _run(
    stage: Stage, people: list[Person], workers: list[psutil.Process], samples: Samples, seconds: float
) -> tuple[int, int, list[str], float]:
    over = time.monotonic() + seconds
    errors: list[str] = []
    counts = {"requests": 0, "calls": 0}
    slowest = 0.0

    async def client(person: Person, index: int) -> None:
        nonlocal slowest
        while time.monotonic() < over:
            counts["requests"] += 1
            kind = random.choices(("page", "stream", "whole", "leave"), (2, 4, 4, 1))[0]
            if kind == "page":
                path = random.choice(PAGES)
                cookie = {"Cookie": f"next-auth.session-token={person.cookie}"}
                outcome = await get(stage.address, path, cookie)
                if outcome.status != 200 or not outcome.whole:
                    errors.append(f"{path}: {outcome.status} {outcome.problem}")
            else:
                counts["calls"] += 1
                outcome = await _call(stage, person, kind, counts["calls"])
                if not (outcome.left or outcome.complete):
                    errors.append(f"{kind}: {outcome.status} {outcome.problem} {outcome.body[-200:]!r}")
                if kind == "whole":
                    slowest = max(slowest, outcome.seconds)
            await asyncio.sleep(random.uniform(0.05, 0.3))

    async def sample() -> None:
        began = time.monotonic()
        while time.monotonic() < over:
            samples.at.append(time.monotonic() - began)
            samples.memory.append(sum(process.memory_info().rss for process in workers) / (1 << 20))
            samples.files.append(sum(process.num_fds() for process in workers))
            found = await asyncio.to_thread(
                stage.number, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            )
            samples.connections.append(found)
            await asyncio.sleep(min(1.0, seconds / 20))

    await asyncio.gather(sample(), *(client(person, index) for index, person in enumerate(people)))
    return counts["requests"], counts["calls"], errors, slowest


async def _call(stage: Stage, person: Person, kind: str, index: int) -> Outcome:
    script = Script(
        f"soak-{index}-{random.getrandbits(40):x}",
        words=random.randint(3, 60),
        pace=random.choice([0.0, 0.005, 0.02]),
        completion=random.randint(1, 200),
    )
    return await call(
        stage.address,
        person.key,
        script,
        model=MODEL,
        stream=kind != "whole",
        leave_after=random.randint(200, 3000) if kind == "leave" else None,
    )
