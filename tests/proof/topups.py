"""Automatic top-up: concurrent calls that cross the threshold, and attempts that are enqueued many times."""

import asyncio
import random
import time

from models.core import jobs
from models.core.db import db
from tests.proof.cast import Person
from tests.proof.load import Outcome, call, run_in_thread
from tests.proof.payments import Payments, at_once, echo, wait_for
from tests.proof.race import MODEL
from tests.proof.stage import Result
from tests.proof.upstream import Script

THRESHOLD, AMOUNT = 500, 2000
SECONDS = 30.0
"""Maximum seconds until a top-up is paid; the job that finds due accounts runs every 5 seconds."""
QUIET = 65.0
"""Seconds without a second top-up; another one may be enqueued a minute after the first."""


def topups(
    payments: Payments, *, people: int = 3, calls: int = 50, jobs_each: int = 50, quiet: float = QUIET
) -> Result:
    """Each person's parallel calls cross the threshold; then a top-up is enqueued many times at once."""
    with payments.delivering():
        slowest = _crossing(payments, people, calls)
        _enqueued(payments, people, jobs_each)
        echo(f"waiting {quiet:.0f} s for an unexpected second top-up")
        time.sleep(quiet)
        wait_for(lambda: not payments.open_purchases(), 60, lambda: "a top-up is open")
    paid = payments.check_agreement()
    assert paid == 2 * people, f"{paid} top-ups of {2 * people} accounts"
    payments.stage.prove()
    return Result(
        "top-ups",
        f"{people} x {calls} parallel calls across the threshold; {people} x {jobs_each} jobs of one top-up at once",
        f"one top-up each, paid at most {slowest:.1f} s after the calls; none in {quiet:.0f} s after that",
    )


def enable(payments: Payments, person: Person, threshold: int = THRESHOLD, amount: int = AMOUNT) -> None:
    """Switch automatic top-up on."""
    answer = payments.post(
        person, "/api/user/auto-topup", {"enabled": True, "threshold": threshold, "amount": amount}
    )
    assert answer.status_code == 200, answer.text


def attempts(payments: Payments, person: Person) -> list[str]:
    """The states of the person's top-ups."""
    rows = payments.stage.rows(
        "SELECT state FROM purchase WHERE user_id = :id AND kind = 'auto_topup' ORDER BY created_at",
        id=person.id,
    )
    return [row.state for row in rows]


def _crossing(payments: Payments, count: int, calls: int) -> float:
    """The maximum seconds from the last call to the credits."""
    # a call holds 11 credits and costs 9 or more
    people = payments.buyers(count, credits=THRESHOLD + calls * 4)
    for person in people:
        enable(payments, person)
    began = time.monotonic()
    outcomes = _calls(payments, people, calls)
    ended = time.monotonic()
    served = sum(outcome.complete for outcome in outcomes)
    odd = [each for each in outcomes if not each.complete and each.status not in (402, 429, 503)]
    assert not odd, f"{odd[0].status} {odd[0].error} {odd[0].body[:300]!r}"
    echo(f"{served} of {len(outcomes)} calls served in {ended - began:.1f} s")
    for person in people:
        wait_for(
            lambda person=person: attempts(payments, person) == ["paid"],  # type: ignore[misc]
            SECONDS,
            lambda person=person: f"the top-ups of {person.id} are {attempts(payments, person)}",  # type: ignore[misc]
        )
    slowest = time.monotonic() - ended
    payments.stage.wait_for_holds()
    for person in people:
        _once(payments, person)
    return slowest


def _calls(payments: Payments, people: list[Person], calls: int) -> list[Outcome]:
    async def run() -> list[Outcome]:
        scripts = [
            (person, Script(f"topup-{random.getrandbits(48):x}", first=random.random() / 5, completion=95))
            for person in people
            for _ in range(calls)
        ]
        return await asyncio.gather(
            *(
                call(payments.server.address, person.key, script, model=MODEL, max_tokens=100)
                for person, script in scripts
            )
        )

    return run_in_thread(run())


def _enqueued(payments: Payments, count: int, jobs_each: int) -> None:
    """Enqueue many jobs for each account, beside the periodic ones."""
    people = payments.buyers(count, credits=THRESHOLD - 1)
    for person in people:
        enable(payments, person)

    def enqueue(number: int) -> None:
        with payments.stage.session():
            jobs.enqueue(jobs.top_up, account_id=people[number % count].id)
            db.session.commit()

    for start in range(0, count * jobs_each, 10):  # limited by PostgreSQL's connections
        at_once(10, lambda number, start=start: enqueue(start + number))  # type: ignore[misc]
    left = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'billing.top_up' AND status <> 'failed'"
    wait_for(lambda: not payments.stage.number(left), 120, lambda: "jobs of top-ups are left")
    for person in people:
        _once(payments, person)
    echo(f"{count} x {jobs_each} jobs at once: one top-up each")


def _once(payments: Payments, person: Person) -> None:
    assert attempts(payments, person) == ["paid"]
    (charge,) = payments.charges(person)
    assert (charge.amount, charge.credits) == (AMOUNT, AMOUNT)
    topped = [entry for entry in payments.entries(person) if entry == ("grant", AMOUNT)]
    assert len(topped) == 1
