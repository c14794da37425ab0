"""Turns of threads: many watch one, and workers are killed during the answers of others."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models import threads
from models.accounts.key_format import present
from models.core.db import db
from models.ledger import Account
from models.threads import TurnRequest
from models.turns.turn_verbs import LEASE_SECONDS
from tests import factories
from tests.proof.cast import Person
from tests.proof.load import Outcome, get, run_in_thread
from tests.proof.stage import Result, Serve, Stage
from tests.proof.upstream import Script

MODEL = "openai/proof"
NOBODY = "gone:1:proof"
"""The owner of turns that any worker may take over: as if the one that began them had died at once."""
TAKEN_OVER_SECONDS = 5.0
"""How long after the kill a turn may wait for another worker: the rest of the lease, and the next look for late ones."""


def watched(stage: Stage, *, watchers: int = 1000, words: int = 40) -> Result:
    """One turn has `watchers` readers, who come at any time, some after its end. All get the whole answer, in order; the model is called once."""
    (person,) = stage.people(1, 10_000_000)
    script = Script(factories.new_id("watched-"), words=words, pace=0.25)
    (turn_id,) = _ask(stage, [person], [script])

    async def run() -> list[Outcome]:
        async def one(index: int) -> Outcome:
            await asyncio.sleep(random.uniform(0, words * 0.25 + 2) if index % 2 else 0)
            return await get(stage.address, f"/api/v1/turns/{turn_id}/events", _header(person), timeout=120)

        return await asyncio.gather(*(one(index) for index in range(watchers)))

    began = time.monotonic()
    outcomes = run_in_thread(run())
    failed = [outcome for outcome in outcomes if outcome.status != 200 or not outcome.whole]
    assert not failed, f"{len(failed)} watchers failed, first {failed[0].status} {failed[0].error}"
    for outcome in outcomes:
        seqs, text = _read(outcome.body)
        assert seqs == sorted(set(seqs)), "events came twice or out of order"
        assert text == script.text, f"a watcher read {text[:80]!r}"
    seen = stage.upstream.seen()[script.id]
    assert seen["requests"] == 1, f"the model was called {seen['requests']} times"
    stage.prove()
    return Result(
        "watched",
        f"{watchers} watch one turn of {words * 0.25:.0f} s",
        f"one model call, the last watcher had all after {time.monotonic() - began:.1f} s",
    )


def killed_turns(server: Serve, stage: Stage, *, kills: int = 20, people: int = 8) -> Result:
    """A worker is killed `kills` times while turns run. Each turn ends in time, completed or interrupted; its answer is the beginning of the
    model's, and is charged once with what its row says."""
    scripts, slowest = _strike(
        stage, kills, people, lambda: server.kill_worker(random.choice), time_to_strike=1.5
    )
    server.wait_until_ready()
    interrupted = _check_answers(stage, scripts)
    assert slowest <= TAKEN_OVER_SECONDS, f"a turn waited {slowest:.1f} s for another worker"
    stage.prove()
    return Result(
        "killed-turns",
        f"{kills} workers are killed while {people} turns run each time",
        f"{len(scripts)} turns: {interrupted} interrupted with their text, the others completed; taken over after at most {slowest:.1f} s",
    )


def stalled_turns(server: Serve, stage: Stage, *, stalls: int = 10, people: int = 8) -> Result:
    """A worker stands still for longer than its leases, `stalls` times while turns run, then goes on. Its turns are taken over; each call is made
    once and charged once, whichever worker settles it."""

    def stall() -> None:
        victim = random.choice(server.web_workers())
        victim.suspend()
        time.sleep(LEASE_SECONDS + 2)
        victim.resume()

    scripts, _ = _strike(stage, stalls, people, stall, time_to_strike=0.3)
    interrupted = _check_answers(stage, scripts)
    seen = stage.upstream.seen()
    again = [script.id for script in scripts.values() if seen[script.id]["requests"] != 1]
    assert not again, f"{len(again)} calls were made again"
    stage.prove()
    return Result(
        "stalled-turns",
        f"workers stand still for {LEASE_SECONDS + 2} s, {stalls} times while {people} turns run",
        f"{len(scripts)} turns: {interrupted} interrupted with their text, the others completed; one call and one charge each",
    )


def _strike(
    stage: Stage, times: int, people: int, strike: Callable[[], object], *, time_to_strike: float
) -> tuple[dict[str, Script], float]:
    """Begin a turn of each person and strike, `times` times. Returns the script of each turn, and the longest time that one was without a worker."""
    cast = stage.people(people, 10_000_000)
    scripts: dict[str, Script] = {}
    slowest = 0.0
    for number in range(times):
        started = [
            Script(factories.new_id(f"struck-{number}-"), words=random.randint(20, 60), pace=0.05)
            for _ in cast
        ]
        turns = _ask(stage, cast, started)
        scripts |= dict(zip(turns, started, strict=True))
        _until_running(stage, turns)
        time.sleep(random.uniform(0.2, 1) * time_to_strike)
        strike()
        slowest = max(slowest, _until_ended(stage, turns))
    return scripts, slowest


def _check_answers(stage: Stage, scripts: Mapping[str, Script]) -> int:
    """Each turn has one answer, the beginning of the model's, charged once with what its row says. Returns how many were interrupted."""
    rows = stage.rows(
        "SELECT t.id, t.state, t.error_code, t.credits, count(m.id) AS answers, min(m.text) AS text, sum(m.credits) AS charged,"
        " min(m.state) AS message_state, min(c.credits) AS call_credits, min(c.state) AS call_state,"
        " (SELECT sum(r.credits) FROM gateway_call r WHERE r.run_id = t.run_id) AS run_credits"
        " FROM turn t LEFT JOIN thread_message m ON m.turn_id = t.id AND m.role = 'assistant'"
        " LEFT JOIN gateway_call c ON c.message_id = m.message_id WHERE t.id = ANY(:ids) GROUP BY t.id",
        ids=list(scripts),
    )
    assert len(rows) == len(scripts)
    for row in rows:
        script = scripts[row.id]
        assert row.state in ("completed", "interrupted"), f"{row.state}: {row.error_code}"
        assert row.answers == 1, f"{row.answers} answers"
        assert script.text.startswith(row.text), f"the answer is {row.text[-80:]!r}"
        assert (row.text == script.text) or row.message_state == "incomplete"
        assert row.call_state == "settled", "an answer without a charge"
        assert row.credits == row.charged == row.call_credits == row.run_credits, (
            f"{row.credits}, {row.charged}, {row.call_credits}, {row.run_credits}"
        )
    return sum(row.state == "interrupted" for row in rows)


def _ask(stage: Stage, people: Sequence[Person], scripts: Sequence[Script]) -> list[str]:
    """Begin a turn of a new thread for each person, for any worker."""
    turns = []
    with stage.session():
        for person, script in zip(people, scripts, strict=True):
            thread = threads.create_thread(person.id, Account(user_id=person.id), name="Proof")
            (said,) = script.message()
            turn = threads.ask(
                thread, TurnRequest(model=MODEL), messages=[said], key=present(person.key), owner=NOBODY
            )
            turns.append(turn.id)
        db.session.commit()
    return turns


def _until_running(stage: Stage, turns: Sequence[str]) -> None:
    _wait(
        stage,
        "SELECT count(*) = 0 FROM turn WHERE id = ANY(:ids) AND (lease_owner = :nobody OR state = 'running' AND last_seq < 2)",
        ids=list(turns),
        nobody=NOBODY,
    )


def _until_ended(stage: Stage, turns: Sequence[str]) -> float:
    """Wait for the end of the turns. Returns the longest time that one of them was without a worker, from the last renewal of its lease."""
    late = 0.0
    deadline = time.monotonic() + 90
    while True:
        (row,) = stage.rows(
            "SELECT count(*) AS running, max(extract(epoch FROM clock_timestamp() - lease_until)) AS late"
            " FROM turn WHERE id = ANY(:ids) AND state IN ('queued', 'running')",
            ids=list(turns),
        )
        if not row.running:
            return LEASE_SECONDS + late if late > 0 else 0.0
        late = max(late, float(row.late or 0))
        assert time.monotonic() < deadline, f"{row.running} turns did not end"
        time.sleep(0.05)


def _wait(stage: Stage, condition: str, seconds: float = 90.0, **parameters: Any) -> None:
    deadline = time.monotonic() + seconds
    while not stage.rows(condition, **parameters)[0][0]:
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {condition}"
        time.sleep(0.05)


def _read(body: bytes) -> tuple[list[int], str]:
    """The numbers of the events, and the text: of the whole message, to which the pieces that came before it must lead."""
    seqs, pieces, whole = [], "", None
    for block in body.decode().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.split("\n") if ": " in line)
        if "id" not in fields:
            continue
        seqs.append(int(fields["id"]))
        data = json.loads(fields["data"])
        if fields.get("event") == "text.delta":
            pieces += data["text"]
        elif fields.get("event") == "message.completed":
            whole = "".join(part["text"] for part in data["message"]["content"])
    assert whole is not None, "the message never completed"
    assert not pieces or whole == pieces, "the pieces are not the message"
    return seqs, whole


def _header(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.key}"}
