"""Concurrent calls on balances that are sufficient for only a few of them."""

import asyncio
import itertools
import random
import threading
from collections import Counter
from datetime import timedelta

from models import ledger
from models.core.db import now
from tests.proof.cast import WAYS, Person
from tests.proof.load import Outcome, call, run_in_thread
from tests.proof.stage import Result, Stage
from tests.proof.upstream import Script

MODEL = "openai/proof"
CREDITS = 11
"""Hold and maximum cost of a call: 100 tokens at $1000 per million, plus margin."""
WORDS = 1000
"""Of a long answer. A word is three tokens."""
LONG_ANSWER = WORDS * 3 * CREDITS // 100
"""What it costs."""


def race(
    stage: Stage, *, calls: int = 200, affordable: int = 20, accounts: int = 20, calls_each: int = 40
) -> Result:
    """A person's account and organisations' whose members pay in every way; then several accounts; then again with concurrent
    grants and expiries; then answers that outgrow learned holds."""
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
        f"{calls} calls on a balance for {affordable}, twice, each of a person, and of organisations with and without budgets, whose "
        f"members pay by key, name and repository; {accounts} accounts x {calls_each} calls, twice, paid in all ways, once with "
        f"grants and expiries; {calls // 3} long answers, streamed and whole, of a key whose usual answer is short, on a balance "
        "and on a member's budget",
        "; ".join(lines),
    )


def _exact(stage: Stage, calls: int, affordable: int) -> str:
    """Every call costs its whole hold: exactly `affordable` calls are served and the balance is 0; one less where a budget says
    so. Of the organisation without budgets, a member pays for two calls of its repository, when its balance is 0."""
    (person,) = stage.people(1, affordable * CREDITS)
    limited = stage.members(affordable * CREDITS, budgets=_budgets(affordable - 1))
    unlimited = stage.members(affordable * CREDITS)
    in_repository = unlimited[-1]
    with stage.session():
        stage.grant(in_repository, 2 * CREDITS, own=True)
    payers = [[person], limited, unlimited]
    requests = [
        [(each, _script(100)) for each in itertools.islice(itertools.cycle(people), calls)]
        for people in payers
    ]
    # while calls hold the organisation's credits, those of the repository are only told to wait
    requests.append([(in_repository, _script(100)) for _ in range(3)])
    outcomes: list[Outcome] = []
    for some in requests:
        outcomes += _call_all(stage, some)
        stage.wait_for_holds()
    everybody = [each for people in payers for each in people]
    _check(stage, everybody, outcomes)
    account_of = {script.id: each.account.id for some in requests for each, script in some}
    served = Counter(account_of[outcome.script.id] for outcome in outcomes if outcome.complete)
    ends = [(served[people[0].account.id], stage.balance(people[0])) for people in payers]
    assert ends == [(affordable, 0), (affordable - 1, CREDITS), (affordable + 2, 0)], ends
    assert stage.balance(in_repository, own=True) == 0
    return f"exact holds: {[count for count, _ in ends]} of {calls} each served, {_rejected(outcomes)}exact balances left"


def _budgets(calls: int) -> dict[str, int]:
    """Budgets of an organisation for so many calls; members and the key get less, all three members together enough."""
    half = (calls + 1) // 2
    return {"account": calls * CREDITS, "member": half * CREDITS, "key": max(half - 1, 1) * CREDITS}


def _mixed_prices(stage: Stage, calls: int, affordable: int) -> str:
    """Calls cost less than their hold, and clients retry: the balance stays above minus the cost of one call."""
    (person,) = stage.people(1, affordable * CREDITS)
    members = stage.members(affordable * CREDITS, budgets={"member": affordable * CREDITS // 2})
    outcomes: list[Outcome] = []
    for _ in range(4):
        payers = [people for people in ([person], members) if stage.balance(people[0]) > 0]
        outcomes += _call_all(
            stage,
            [
                (each, _script(random.randint(5, 100)))
                for people in payers
                for each in itertools.islice(itertools.cycle(people), calls)
            ],
        )
        if not payers:
            break
    served = _check(stage, [person, *members], outcomes)
    balances = [stage.balance(person), stage.balance(members[0])]
    assert min(balances) > -CREDITS, f"the balances ended at {balances}"
    return f"mixed prices: {served} served, ended at {balances}"


def _accounts(stage: Stage, accounts: int, calls_each: int, *, with_grants: bool) -> str:
    budgets = {"account": 6 * CREDITS, "member": 4 * CREDITS, "key": 5 * CREDITS}
    people = stage.people(accounts, 5 * CREDITS, WAYS, budgets)
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
    """Parallel answers far longer than their key's usual one, a third streamed, the others whole: their small holds grow, and
    they end when the credits, or a member's budget, run out. What is left stays above minus the cost of one."""
    # enough usual answers for each worker to learn their size
    usual = 150
    (person,) = stage.people(1, usual * CREDITS)
    (member,) = stage.people(1, 2 * usual * CREDITS, ("key",), {"member": usual * CREDITS})
    people = [person, member]
    short = [
        (each, Script(f"usual-{number}-{random.getrandbits(40):x}", completion=5))
        for number in range(usual)
        for each in people
    ]
    _check(stage, people, _call_all(stage, short, stream=True))
    before = [usual * CREDITS - sum(row.credits for row in stage.calls([each])) for each in people]
    long = [
        (
            each,
            Script(
                f"long-{number}-{random.getrandbits(40):x}", words=WORDS, pace=0.002, completion=WORDS * 3
            ),
        )
        for number in range(streams)
        for each in people
    ]
    outcomes = _call_all(stage, long, max_tokens=100_000)
    stage.wait_for_holds()
    stage.check_payers(people, overspent=LONG_ANSWER)
    lines = [
        _check_outgrown(
            stage,
            each,
            [outcome for (one, _), outcome in zip(long, outcomes, strict=True) if one is each],
            left,
        )
        for each, left in zip(people, before, strict=True)
    ]
    return f"outgrown holds: of {streams} answers each, {', and '.join(lines)}"


def _check_outgrown(stage: Stage, person: Person, outcomes: list[Outcome], before: int) -> str:
    # a whole answer that the credits ended is a 402 with what was written
    admitted = [outcome for outcome in outcomes if outcome.status == 200 or b'"answer":' in outcome.body]
    ended = b"budget_exceeded" if person.org_id else b"insufficient_credits"
    assert {outcome.status for outcome in outcomes} <= {200, 402, 429, 503}
    for outcome in admitted:
        assert outcome.complete or ended in outcome.body, outcome.body[-300:]
    assert len({outcome.status for outcome in admitted}) > 1, "no whole answer was ended"
    # more than if each had held the 8,192 tokens of a first hold that was not learned
    assert len(admitted) > before // (8_192 * CREDITS // 100) + 1, f"{len(admitted)} streams admitted"
    ids = {outcome.script.id for outcome in outcomes}
    rows = [row for row in stage.calls([person]) if row.state == "settled" and row.message_id in ids]
    assert len(rows) == len(admitted), f"{len(rows)} calls charged, {len(admitted)} admitted"
    left = before - sum(row.credits for row in rows)
    if not person.org_id:
        assert stage.balance(person) == left
    assert left > -LONG_ANSWER, f"{left} left"
    return f"{len(admitted)} admitted, {left} of {before} left"


def _expired(stage: Stage, person: Person) -> int:
    return stage.number(
        "SELECT -sum(amount) FROM credit_entry WHERE kind = 'expiry' AND account_id = :id",
        id=person.account.id,
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
                    headers=person.headers,
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
        ids=sorted(set().union(*(person.payers for person in people))),
    )
    stage.check_payers(people)
    assert debits == sum(row.credits for row in rows), "debits differ from the calls' credits"
    return len(served)
