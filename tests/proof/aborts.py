"""Streams whose clients leave at any byte."""

import asyncio
import random

from tests.proof.load import Outcome, call, play
from tests.proof.stage import Result, Stage
from tests.proof.upstream import Script

MODEL = "proof/streamed"
STREAM_BYTES = 6_000
"""About what a stream of these has with its head."""


def aborts(stage: Stage, *, streams: int = 60, at_once: int = 60) -> Result:
    """Every stream is settled on what the provider reported, or counted and marked so, whenever its client left."""
    people = stage.people(5, 1_000_000)
    outcomes = play(_streams(stage, [person.key for person in people], streams, at_once))
    stage.quiet(120)
    seen = stage.upstream.seen()
    rows = stage.calls(people)
    by_message: dict[str, list[object]] = {}
    sources: dict[str, int] = {}
    lost = []
    for row in rows:
        by_message.setdefault(row.message_id or row.request_id, []).append(row)
    for outcome in outcomes:
        script = outcome.script
        found = by_message.get(script.id, [])
        if script.id not in seen:
            assert not found, f"{script.id} was charged without its provider having been asked"
            lost.append(script.id)
            continue
        assert len(found) == 1, f"{script.id} has {len(found)} rows"
        (row,) = found
        assert row.state == "settled", f"{script.id} is {row.state}: {row.error}"  # type: ignore[attr-defined]
        sources[row.usage_source] = sources.get(row.usage_source, 0) + 1  # type: ignore[attr-defined]
        assert row.micro_credits > 0, f"{script.id} used tokens and cost nothing"  # type: ignore[attr-defined]
        if script.reports:
            billed = (row.usage_source, row.uncached_input_tokens, row.output_tokens)  # type: ignore[attr-defined]
            assert billed == ("provider", script.prompt, script.completion), f"{script.id}: {billed}"
        else:
            assert row.usage_source in ("counted", "estimated"), row.usage_source  # type: ignore[attr-defined]
            assert row.output_tokens > 0, f"{script.id} was counted at nothing"  # type: ignore[attr-defined]
    stage.prove()
    left = [outcome for outcome in outcomes if outcome.left]
    early = sum(outcome.status is None for outcome in left)
    # 503: a server with more to do than it can admit in five seconds says so, and charges nothing
    odd = [outcome for outcome in outcomes if not (outcome.left or outcome.complete or outcome.status == 503)]
    assert not odd, f"{len(odd)} streams ended oddly: {odd[0].status} {odd[0].problem} {odd[0].body[-200:]!r}"
    busy = sum(outcome.status == 503 for outcome in outcomes)
    figures = ", ".join(f"{count} {source}" for source, count in sorted(sources.items()))
    return Result(
        "aborts",
        f"{streams} streams, {at_once} at once, {len(left)} clients left ({early} before the head)",
        f"settled: {figures}; {len(lost)} that never reached the provider not charged, {busy} of them turned away as too "
        "many",
    )


async def _streams(stage: Stage, keys: list[str], streams: int, at_once: int) -> list[Outcome]:
    turn = asyncio.Semaphore(at_once)

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
        # a tenth stays to the end, a tenth leaves at once
        leave = random.choice([None, 0, *[random.randint(1, STREAM_BYTES)] * 8])
        async with turn:
            return await call(
                stage.address, random.choice(keys), script, model=MODEL, stream=True, leave_after=leave
            )

    return await asyncio.gather(*(one(index) for index in range(streams)))
