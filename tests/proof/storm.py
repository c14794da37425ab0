"""A storm of sub-agents that share the budget of one run, while workers are killed: it ends at the cap, and each answer is paid once."""

import asyncio
import random
from collections import Counter

from models.core.db import db
from models.core.settings import load_settings
from models.runs import recording
from tests import factories
from tests.proof.cast import Person
from tests.proof.load import Outcome, call, run_in_thread
from tests.proof.stage import Result, Serve, Stage
from tests.proof.upstream import Script

MODEL = "openai/proof"
GRANTED = 10_000_000
WORDS = 12


def storm(
    server: Serve, stage: Stage, *, agents: int = 200, cap: int = 3_000, kills: int = 6, calls: int = 30
) -> Result:
    """`agents` runs below one with a budget of `cap` credits make up to `calls` calls each, all at once, until they are refused; `kills` of web workers meanwhile. What all of
    them cost together stays within the cap, nobody is served once it is used up, and no answer is charged twice."""
    (person,) = stage.people(1, GRANTED)
    root, below = _runs(stage, person, agents, cap)
    outcomes = run_in_thread(_storm(server, stage, person, below, kills, calls))
    server.wait_until_ready()
    stage.wait_for_holds()
    after = run_in_thread(_last(stage, person, below))
    spent = stage.number(
        "SELECT coalesce(sum(credits), 0) FROM gateway_call WHERE state = 'settled' AND run_id = ANY(:ids)",
        ids=[root, *below],
    )
    (row,) = stage.rows("SELECT limit_credits, spent FROM run_budget WHERE run_id = :id", id=root)
    assert spent <= cap, f"{spent} credits of a cap of {cap}"
    assert row.spent == spent, f"the budget says {row.spent}, the calls {spent}"
    served = [each for each in outcomes if each.complete]
    assert spent > cap // 2, f"the storm ended at {spent} of {cap}, after {len(served)} answers"
    assert after.status in (402, 429) or spent + _price(served, spent) <= cap, after.body[:300]
    twice = stage.rows(
        "SELECT message_id FROM gateway_call WHERE state = 'settled' AND message_id LIKE 'storm-%'"
        " GROUP BY message_id HAVING count(*) > 1"
    )
    assert not twice, f"{len(twice)} answers were charged twice"
    seen = stage.upstream.seen()
    paid = {
        row.message_id for row in stage.rows("SELECT message_id FROM gateway_call WHERE state = 'settled'")
    }
    free = [each.script.id for each in served if each.script.id not in paid]
    assert not free, f"{len(free)} whole answers were not paid"
    stage.prove()
    statuses = Counter(str(each.status or "none") for each in outcomes)
    return Result(
        "storm",
        f"{agents} sub-agents at once below a cap of {cap} credits, {kills} kills of web workers",
        f"{spent} credits spent, {len(served)} whole answers of {len(seen)} asked for; statuses {dict(statuses)}",
    )


def _price(served: list[Outcome], spent: int) -> int:
    return -(-spent // max(len(served), 1))


def _runs(stage: Stage, person: Person, agents: int, cap: int) -> tuple[str, list[str]]:
    settings = load_settings().model_copy(
        update={"stoa_runs_per_minute": 100_000, "stoa_runs_per_day": 100_000}
    )
    with stage.session():
        root = recording.start(person.id, "proof/storm", [], settings, budget=cap)
        below = [recording.start(person.id, "proof/storm", [root], settings) for _ in range(agents)]
        db.session.commit()
    return root, below


async def _storm(
    server: Serve, stage: Stage, person: Person, runs: list[str], kills: int, calls: int
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    over = asyncio.Event()

    async def agent(run: str) -> None:
        for _ in range(calls):
            script = Script(
                factories.new_id("storm-"), words=random.randint(3, WORDS), pace=random.choice([0.0, 0.02])
            )
            made = await _call(stage, person, run, script)
            outcomes.append(made)
            if made.status == 402:
                return
            if made.status in (429, 503) or made.status is None:
                await asyncio.sleep(random.uniform(0.1, 1.0))

    async def strike() -> None:
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.3, 2.0))
            if over.is_set():
                return
            server.kill_worker(random.choice)

    striking = asyncio.create_task(strike())
    await asyncio.gather(*(agent(run) for run in runs))
    over.set()
    await striking
    return outcomes


async def _last(stage: Stage, person: Person, runs: list[str]) -> Outcome:
    """One more call, when the storm is over."""
    return await _call(stage, person, runs[0], Script(factories.new_id("late-"), words=WORDS))


async def _call(stage: Stage, person: Person, run: str, script: Script) -> Outcome:
    return await call(
        stage.address,
        person.key,
        script,
        model=MODEL,
        stream=True,
        headers={"x-stoa-run-id": run},
        max_tokens=200,
    )
