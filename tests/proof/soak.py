"""Minutes of mixed traffic: stable memory and connections, and an error rate below 0.1 %."""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field

import psutil

from tests.proof.cast import Person
from tests.proof.load import Outcome, call, get, run_in_thread
from tests.proof.stage import Result, Stage
from tests.proof.upstream import Script

MODEL = "proof/soaked"
PAGES = ("/profile?tab=usage", "/runs", "/profile?tab=api-keys", "/", "/profile?tab=statement")


@dataclass
class Samples:
    """Samples taken each second."""

    at: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """Total of all workers, in MB."""
    connections: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def soak(stage: Stage, workers: list[psutil.Process], *, seconds: float = 10.0, clients: int = 12) -> Result:
    """Streams, non-streaming calls, clients that disconnect, and pages."""
    people = stage.people(clients, 10_000_000)
    samples = Samples()
    created = {process.pid: process.create_time() for process in workers}
    done, calls, errors, slowest = run_in_thread(_run(stage, people, workers, samples, seconds))
    stage.prove()
    assert all(psutil.Process(pid).create_time() == moment for pid, moment in created.items()), (
        "a worker restarted"
    )
    share = len(errors) / max(done, 1)
    assert share < 0.001, f"{len(errors)} of {done} requests failed: {errors[:3]}"
    settled = stage.number(
        "SELECT count(*) FROM gateway_call WHERE state = 'settled' AND user_id = ANY(:ids)",
        ids=[person.id for person in people],
    )
    assert settled == calls, f"{calls} calls made, {settled} settled"
    # the first third is warm-up
    warm_up = len(samples.at) // 3
    slope = statistics.linear_regression(samples.at[warm_up:], samples.memory[warm_up:]).slope * 60
    start, end = (
        statistics.mean(samples.memory[warm_up : warm_up + 10]),
        statistics.mean(samples.memory[-10:]),
    )
    growth = (end - start) / start
    if seconds >= 120:
        assert growth < 0.05, f"memory grew by {growth:.1%}, {slope:.2f} MB a minute"
        steady = samples.connections[warm_up:]
        assert max(steady[-len(steady) // 3 :]) <= max(steady[: len(steady) // 3]) + 2, "connections grow"
    return Result(
        "soak",
        f"{seconds:.0f} s: {done} requests, {calls} of them calls, {(errors and len(errors)) or 'no'} errors",
        f"workers {start:.0f} -> {end:.0f} MB ({slope:+.2f} MB/min), PostgreSQL connections {min(samples.connections)}"
        f" to {max(samples.connections)}, files open {samples.files[warm_up]} -> {samples.files[-1]}, slowest non-streaming call "
        f"{slowest:.2f} s",
    )


async def _run(
    stage: Stage, people: list[Person], workers: list[psutil.Process], samples: Samples, seconds: float
) -> tuple[int, int, list[str], float]:
    deadline = time.monotonic() + seconds
    errors: list[str] = []
    counts = {"requests": 0, "calls": 0}
    slowest = 0.0

    async def client(person: Person, index: int) -> None:
        nonlocal slowest
        while time.monotonic() < deadline:
            counts["requests"] += 1
            kind = random.choices(("page", "stream", "whole", "leave"), (2, 4, 4, 1))[0]
            if kind == "page":
                path = random.choice(PAGES)
                cookie = {"Cookie": f"next-auth.session-token={person.cookie}"}
                outcome = await get(stage.address, path, cookie)
                if outcome.status != 200 or not outcome.whole:
                    errors.append(f"{path}: {outcome.status} {outcome.error}")
            else:
                counts["calls"] += 1
                outcome = await _call(stage, person, kind, counts["calls"])
                if not (outcome.disconnected or outcome.complete):
                    errors.append(f"{kind}: {outcome.status} {outcome.error} {outcome.body[-200:]!r}")
                if kind == "whole":
                    slowest = max(slowest, outcome.seconds)
            await asyncio.sleep(random.uniform(0.05, 0.3))

    async def sample() -> None:
        began = time.monotonic()
        while time.monotonic() < deadline:
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
