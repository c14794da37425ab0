"""Many calls at once on balances that cover few of them."""

import asyncio
import random
import threading
from datetime import timedelta

from models import ledger
from models.core.db import now
from tests.proof.load import Outcome, call, play
from tests.proof.stage import Person, Result, Stage
from tests.proof.upstream import Script

MODEL = "openai/proof"
CREDITS = 11
"""What a call holds, and the most it costs: 100 tokens at $1000 per million, with the margin."""


def race(stage: Stage, *, calls: int = 200, covered: int = 20, accounts: int = 20, each: int = 40) -> Result:
    """One balance; then `accounts` at once; then with grants and expiries in between."""
    lines = [
        _exact(stage, calls, covered),
        _any_price(stage, calls, covered),
        _accounts(stage, accounts, each, moving=False),
        _accounts(stage, accounts, each, moving=True),
    ]
    stage.prove()
    return Result(
        "race",
        f"{calls} calls on a balance for {covered}, twice; {accounts} accounts x {each} calls, twice, once amid grants "
        "and expiries",
        "; ".join(lines),
    )


def _exact(stage: Stage, calls: int, covered: int) -> str:
    """Every call costs all it holds: exactly `covered` get through and nothing is left."""
    (person,) = stage.people(1, covered * CREDITS)
    outcomes = _together(stage, [(person, _script(100)) for _ in range(calls)])
    served = _check(stage, [person], outcomes)
    left = stage.balance(person)
    assert (served, left) == (covered, 0), f"{served} calls served and {left} credits left"
    return f"exact holds: {served} of {calls} served, {_busy(outcomes)}{left} left"


def _any_price(stage: Stage, calls: int, covered: int) -> str:
    """Calls cost less than they hold, and clients ask again: it ends below one call, never below minus one call."""
    (person,) = stage.people(1, covered * CREDITS)
    outcomes: list[Outcome] = []
    for _ in range(4):
        outcomes += _together(stage, [(person, _script(random.randint(5, 100))) for _ in range(calls)])
        if stage.balance(person) <= 0:
            break
    served = _check(stage, [person], outcomes)
    left = stage.balance(person)
    assert left > -CREDITS, f"the balance ended at {left}"
    return f"mixed prices: {served} served, ended at {left}"


def _accounts(stage: Stage, accounts: int, each: int, *, moving: bool) -> str:
    people = stage.people(accounts, 5 * CREDITS)
    asks = [(person, _script(random.randint(20, 100))) for person in people for _ in range(each)]
    random.shuffle(asks)
    over = threading.Event()
    mover = threading.Thread(target=_move, args=(stage, people, over), daemon=True)
    if moving:
        mover.start()
    try:
        outcomes = _together(stage, asks)
    finally:
        over.set()
        if moving:
            mover.join(30)
    served = _check(stage, people, outcomes)
    lowest = 0
    for person in people:
        left = stage.balance(person)
        lowest = min(lowest, left)
        # what expires under a call that was admitted on it is gone when the call is settled (contract 3.2)
        floor = -CREDITS - (_expired(stage, person) if moving else 0)
        assert left > floor, f"a balance ended at {left}, below {floor}"
    return f"{accounts} accounts{' with grants and expiries' if moving else ''}: {served} served, {_busy(outcomes)}lowest {lowest}"


def _expired(stage: Stage, person: Person) -> int:
    return stage.number(
        "SELECT -sum(amount) FROM credit_entry WHERE kind = 'expiry' AND account_id = :id", id=person.id
    )


def _busy(outcomes: list[Outcome]) -> str:
    busy = sum(outcome.status == 503 for outcome in outcomes)
    return f"{busy} turned away as too many, " if busy else ""


def _move(stage: Stage, people: list[Person], over: threading.Event) -> None:
    """Small grants that soon end, and sweeps that end them."""
    with stage.session() as session:
        while not over.wait(0.02):
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


def _together(stage: Stage, asks: list[tuple[Person, Script]]) -> list[Outcome]:
    async def run() -> list[Outcome]:
        return await asyncio.gather(
            *(
                call(
                    stage.address,
                    person.key,
                    script,
                    model=MODEL,
                    stream=index % 3 == 0,
                    max_tokens=100,
                )
                for index, (person, script) in enumerate(asks)
            )
        )

    return play(run())


def _check(stage: Stage, people: list[Person], outcomes: list[Outcome]) -> int:
    """Each call was served and charged once, or refused and charged nothing. Returns how many were served."""
    stage.quiet()
    # 503: a server with more to do than it can admit in five seconds says so, and charges nothing
    odd = [outcome for outcome in outcomes if not (outcome.complete or outcome.status in (402, 503))]
    assert not odd, f"{len(odd)} calls ended oddly: {odd[0].status} {odd[0].problem} {odd[0].body[:300]!r}"
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
