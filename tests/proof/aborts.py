"""Clients that disconnect from streams at a random byte."""

import asyncio
import random

from tests.proof.cast import PERIODS, WAYS, Person
from tests.proof.load import Outcome, call, run_in_thread
from tests.proof.stage import Result, Stage
from tests.proof.upstream import Script

MODEL = "proof/streamed"
STREAM_BYTES = 6_000
"""Approximate size of such a stream, including the response head."""


def aborts(stage: Stage, *, streams: int = 60, concurrency: int = 60) -> Result:
    """Every stream is settled from the reported usage, or counted and marked as such, whenever its client disconnects."""
    people = stage.people(6, 1_000_000, WAYS, dict.fromkeys(PERIODS, 900_000))
    outcomes = run_in_thread(_streams(stage, people, streams, concurrency))
    stage.wait_for_holds(120)
    seen = stage.upstream.seen()
    rows = stage.calls(people)
    by_message: dict[str, list[object]] = {}
    sources: dict[str, int] = {}
    not_sent = []
    for row in rows:
        by_message.setdefault(row.message_id or row.request_id, []).append(row)
    for outcome in outcomes:
        script = outcome.script
        found = by_message.get(script.id, [])
        if script.id not in seen:
            assert not found, f"{script.id} was charged without a provider request"
            not_sent.append(script.id)
            continue
        assert len(found) == 1, f"{script.id} has {len(found)} rows"
        (row,) = found
        assert row.state == "settled", f"{script.id} is {row.state}: {row.error}"  # type: ignore[attr-defined]
        sources[row.usage_source] = sources.get(row.usage_source, 0) + 1  # type: ignore[attr-defined]
        assert row.micro_credits > 0, f"{script.id} used tokens but cost nothing"  # type: ignore[attr-defined]
        if script.reports:
            billed = (row.usage_source, row.uncached_input_tokens, row.output_tokens)  # type: ignore[attr-defined]
            assert billed == ("provider", script.prompt, script.completion), f"{script.id}: {billed}"
        else:
            assert row.usage_source in ("counted", "estimated"), row.usage_source  # type: ignore[attr-defined]
            assert row.output_tokens > 0, f"{script.id} was counted as zero tokens"  # type: ignore[attr-defined]
    budgets = stage.check_payers(people)
    stage.prove()
    disconnected = [outcome for outcome in outcomes if outcome.disconnected]
    early = sum(outcome.status is None for outcome in disconnected)
    # 503: the server cannot admit the call within five seconds, and charges nothing
    odd = [
        outcome
        for outcome in outcomes
        if not (outcome.disconnected or outcome.complete or outcome.status == 503)
    ]
    assert not odd, (
        f"{len(odd)} streams ended unexpectedly: {odd[0].status} {odd[0].error} {odd[0].body[-200:]!r}"
    )
    rejected = sum(outcome.status == 503 for outcome in outcomes)
    counts = ", ".join(f"{count} {source}" for source, count in sorted(sources.items()))
    return Result(
        "aborts",
        f"{streams} streams, {concurrency} concurrent, {len(disconnected)} clients disconnected ({early} before the response head); paid from people's and "
        "organisations' accounts in every way",
        f"settled: {counts}; {budgets} budgets hold exactly their calls; {len(not_sent)} that never reached the provider not charged, {rejected} of them rejected with 503",
    )


async def _streams(stage: Stage, people: list[Person], streams: int, concurrency: int) -> list[Outcome]:
    semaphore = asyncio.Semaphore(concurrency)

    async def one(index: int) -> Outcome:
        words = random.randint(5, 30)
        script = Script(
            f"abort-{index}-{random.getrandbits(40):x}",
            words=words,
            pace=random.choice([0.0, 0.005, 0.02]),
            first=random.choice([0.0, 0.0, 0.1]),
            completion=random.randint(1, 3000),
            reports=index % 4 != 0,
        )
        # a tenth stays until the end, a tenth disconnects at once
        leave_after = random.choice([None, 0, *[random.randint(1, STREAM_BYTES)] * 8])
        person = random.choice(people)
        async with semaphore:
            return await call(
                stage.address,
                person.key,
                script,
                model=MODEL,
                headers=person.headers,
                stream=True,
                leave_after=leave_after,
            )

    return await asyncio.gather(*(one(index) for index in range(streams)))
