"""Concurrent calls on balances that are sufficient for only a few of them."""

import asyncio
import random
import threading
from datetime import timedelta

from models import ledger
from models.core.db import now
from tests.proof.load import Outcome, call, run_in_thread
from tests.proof.stage import Person, Result, Stage
from tests.proof.upstream import Script

MODEL = "openai/proof"
CREDITS = 11
"""Hold and maximum cost of a call: 100 tokens at $1000 per million, plus margin."""


def race(
    stage: Stage, *, calls: int = 200, affordable: int = 20, accounts: int = 20, calls_each: int = 40
) -> Result:
    """One account; then several accounts; then again with concurrent grants and expiries; then answers that
    outgrow learned holds."""
    lines = [
        _exact(stage, calls, affordable),
        _mixed_prices(stage, calls, affordable),
        _accounts(stage, accounts, calls_each, with_grants=False),
        _accounts(stage, accounts, calls_each, with_grants=True),
        _outgrown_holds(stage, streams=calls // 3),
    ]
    stage.prove()
    return Result(
        "race",
        f"{calls} calls on a balance for {affordable}, twice; {accounts} accounts x {calls_each} calls, twice, once with grants "
        f"and expiries; {calls // 3} long answers, streamed and whole, of a key whose usual answer is short",
        "; ".join(lines),
    )


def _exact(stage: Stage, calls: int, affordable: int) -> str:
    """Every call costs its whole hold: exactly `affordable` calls are served and the balance is 0."""
    (person,) = stage.people(1, affordable * CREDITS)
    outcomes = _call_all(stage, [(person, _script(100)) for _ in range(calls)])
    served = _check(stage, [person], outcomes)
    balance = stage.balance(person)
    assert (served, balance) == (affordable, 0), f"{served} calls served and {balance} credits left"
    return f"exact holds: {served} of {calls} served, {_rejected(outcomes)}{balance} left"


def _mixed_prices(stage: Stage, calls: int, affordable: int) -> str:
    """Calls cost less than their hold, and clients retry: the balance stays above minus the cost of one call."""
    (person,) = stage.people(1, affordable * CREDITS)
    outcomes: list[Outcome] = []
    for _ in range(4):
        outcomes += _call_all(stage, [(person, _script(random.randint(5, 100))) for _ in range(calls)])
        if stage.balance(person) <= 0:
            break
    served = _check(stage, [person], outcomes)
    balance = stage.balance(person)
    assert balance > -CREDITS, f"the balance ended at {balance}"
    return f"mixed prices: {served} served, ended at {balance}"


def _accounts(stage: Stage, accounts: int, calls_each: int, *, with_grants: bool) -> str:
    people = stage.people(accounts, 5 * CREDITS)
    requests = [(person, _script(random.randint(20, 100))) for person in people for _ in range(calls_each)]
    random.shuffle(requests)
    stop = threading.Event()
    granter = threading.Thread(target=_grant_and_expire, args=(stage, people, stop), daemon=True)
    if with_grants:
        granter.start()
    try:
        outcomes = _call_all(stage, requests)
    finally:
        stop.set()
        if with_grants:
            granter.join(30)
    served = _check(stage, people, outcomes)
    lowest = 0
    for person in people:
        balance = stage.balance(person)
        lowest = min(lowest, balance)
        # credits that expire during a call are gone when it is settled (contract 3.2)
        floor = -CREDITS - (_expired(stage, person) if with_grants else 0)
        assert balance > floor, f"a balance ended at {balance}, below {floor}"
    return f"{accounts} accounts{' with grants and expiries' if with_grants else ''}: {served} served, {_rejected(outcomes)}lowest {lowest}"


def _outgrown_holds(stage: Stage, streams: int) -> str:
    """Parallel answers far longer than the key's usual one, a third streamed, the others whole: their small holds grow, and
    they end when the credits run out. The balance stays above minus the cost of one."""
    # enough usual answers for each worker to learn their size
    words, usual = 1000, 150
    # a word is three tokens: 3,000 tokens are 317 credits
    cost = words * 3 * CREDITS // 100
    (person,) = stage.people(1, usual * CREDITS)
    short = [Script(f"usual-{number}-{random.getrandbits(40):x}", completion=5) for number in range(usual)]
    _check(
        stage,
        [person],
        _call_all(stage, [(person, script) for script in short], stream=True),
    )
    before = stage.balance(person)
    long = [
        Script(f"long-{number}-{random.getrandbits(40):x}", words=words, pace=0.002, completion=words * 3)
        for number in range(streams)
    ]
    outcomes = _call_all(stage, [(person, script) for script in long], max_tokens=100_000)
    stage.wait_for_holds()
    # a whole answer that the credits ended is a 402 with what was written
    admitted = [outcome for outcome in outcomes if outcome.status == 200 or b'"answer":' in outcome.body]
    assert {outcome.status for outcome in outcomes} <= {200, 402, 429, 503}
    for outcome in admitted:
        assert outcome.complete or b"insufficient_credits" in outcome.body, outcome.body[-300:]
    assert len({outcome.status for outcome in admitted}) > 1, "no whole answer was ended"
    # more than if each had held the 8,192 tokens of a first hold that was not learned
    assert len(admitted) > before // (8_192 * CREDITS // 100) + 1, f"{len(admitted)} streams admitted"
    ids = {script.id for script in long}
    rows = [row for row in stage.calls([person]) if row.state == "settled" and row.message_id in ids]
    assert len(rows) == len(admitted), f"{len(rows)} calls charged, {len(admitted)} admitted"
    balance = stage.balance(person)
    assert before - balance == sum(row.credits for row in rows)
    assert -cost < balance, f"the balance ended at {balance}"
    return f"outgrown holds: {len(admitted)} of {streams} answers admitted, ended at {balance} of {before}"


def _expired(stage: Stage, person: Person) -> int:
    return stage.number(
        "SELECT -sum(amount) FROM credit_entry WHERE kind = 'expiry' AND account_id = :id", id=person.id
    )


def _rejected(outcomes: list[Outcome]) -> str:
    count = sum(outcome.status == 503 for outcome in outcomes)
    return f"{count} rejected with 503, " if count else ""


def _grant_and_expire(stage: Stage, people: list[Person], stop: threading.Event) -> None:
    """Make small grants that expire soon, and sweep them."""
    with stage.session() as session:
        while not stop.wait(0.02):
            ends = now() + timedelta(milliseconds=random.randint(50, 800))
            options = {"type": "free", "expires_at": ends} if random.random() < 0.7 else {}
            stage.grant(random.choice(people), random.randint(1, 2 * CREDITS), **options)
            ledger.sweep()
            session.commit()


def _script(tokens: int) -> Script:
    _script.count += 1  # type: ignore[attr-defined]
    return Script(
        f"race-{_script.count}-{random.getrandbits(40):x}",  # type: ignore[attr-defined]
        first=random.uniform(0.0, 0.15),
        completion=tokens,
    )


_script.count = 0  # type: ignore[attr-defined]


def _call_all(
    stage: Stage, requests: list[tuple[Person, Script]], *, max_tokens: int = 100, stream: bool = False
) -> list[Outcome]:
    async def run() -> list[Outcome]:
        return await asyncio.gather(
            *(
                call(
                    stage.address,
                    person.key,
                    script,
                    model=MODEL,
                    stream=stream or index % 3 == 0,
                    max_tokens=max_tokens,
                )
                for index, (person, script) in enumerate(requests)
            )
        )

    return run_in_thread(run())


def _check(stage: Stage, people: list[Person], outcomes: list[Outcome]) -> int:
    """Each call was served and charged once, or rejected and not charged. Returns the number of served calls."""
    stage.wait_for_holds()
    # 402 and 429: out of credits, or they are held; 503: the server cannot admit the call within five seconds, and charges nothing
    odd = [outcome for outcome in outcomes if not (outcome.complete or outcome.status in (402, 429, 503))]
    assert not odd, (
        f"{len(odd)} calls ended unexpectedly: {odd[0].status} {odd[0].error} {odd[0].body[:300]!r}"
    )
    served = {outcome.script.id: outcome.script for outcome in outcomes if outcome.complete}
    rows = [row for row in stage.calls(people) if row.state == "settled"]
    charged = [row.message_id for row in rows]
    assert len(charged) == len(set(charged)), "a call was charged twice"
    assert set(charged) == set(served), f"charged {len(charged)}, served {len(served)}"
    for row in rows:
        tokens = served[row.message_id].completion
        assert row.output_tokens == tokens, f"{row.output_tokens} tokens billed for {tokens}"
    debits = stage.number(
        "SELECT -sum(amount) FROM credit_entry WHERE kind = 'debit' AND account_id = ANY(:ids)",
        ids=[person.id for person in people],
    )
    assert debits == sum(row.credits for row in rows), "debits differ from the calls' credits"
    return len(served)
