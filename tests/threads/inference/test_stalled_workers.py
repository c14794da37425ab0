"""A worker that loses its lease while its call is open: the worker that takes the turn over makes no call beside it, and it is charged once."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from models import assistants
from models.core.db import db, extension, now
from models.ledger import Account, CreditHold
from models.ledger.call_records import LedgerUnavailable
from models.runs import AgentRun
from models.threads import thread_turn
from models.turns import Turn, TurnEngine, call_recovery
from models.turns.turn_verbs import request_stop
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Exchange, FakeUpstream
from tests.threads.inference.conftest import MODEL, USAGE, Turns, says

DEAD = f"{socket.gethostname()}:{2**22 + 1}"
"""A worker of this machine that cannot live."""
UNKNOWN = "another-machine:7"


class Gate:
    """An answer that waits: before its first byte, or after some words."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def silent(self, exchange: Exchange) -> Any:
        """Answer once the gate is open."""
        self.reached.set()
        self.open.wait(30)
        return says("It is a portico.")(exchange)

    def hang_up(self, exchange: Exchange) -> Any:
        """Never answer."""
        self.reached.set()
        self.open.wait(30)
        return fakes.hang_up(exchange)

    def halfway(self, exchange: Exchange) -> Any:
        """Answer in two parts."""
        events = fakes.chunks("It is a portico.", use=USAGE)

        def walk() -> Iterator[Any]:
            for number, event in enumerate(events):
                if number == 3:
                    self.reached.set()
                    self.open.wait(30)
                yield event

        return fakes.stream(walk())(exchange)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


@pytest.fixture
def other(gateway_app: Flask) -> Iterator[TurnEngine]:
    """Another worker, which shares the gateway."""
    engine = TurnEngine(gateway_app.app_context, gateway_app.extensions["gateway"])
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a stalled worker."""
    monkeypatch.setattr(call_recovery, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(call_recovery, "STALLED_SECONDS", 0.1)


def stall(turns: Turns, monkeypatch: pytest.MonkeyPatch, turn: Turn) -> None:
    """The worker of the turn renews nothing any more, and its lease ends."""
    monkeypatch.setattr(turns.engine, "_renew", lambda ids: None)
    monkeypatch.setattr(turns.engine, "tick", lambda: None)
    for handle in turns.engine._handles.values():
        handle.leased_until = 0.0
    db.session.rollback()
    db.session.execute(update(Turn).where(Turn.id == turn.id).values(lease_until=now()))
    db.session.commit()


def take_over(other: TurnEngine, turn: Turn) -> None:
    """The other worker leases the turn, and works on it."""
    until(lambda: (other.tick(), turn.id in other._threads)[1])


def until(found: Callable[[], Any]) -> Any:
    for _ in range(1_000):
        if result := found():
            return result
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def worker_is(name: str) -> None:
    """Say that this worker made the open call."""
    db.session.rollback()
    db.session.execute(update(CreditHold).values(worker=name))
    db.session.commit()


def wait_for(gate: Gate, turns: Turns, turn: Turn, words: str) -> None:
    """Until the call is open, and these words are in the table."""
    assert gate.reached.wait(10)
    if words:
        handle = turns.engine._handles[turn.id]
        until(lambda: words in "".join(each.data.get("text", "") for each in handle.events()))
        turns.engine.log.flush()


def ended(turns: Turns, other: TurnEngine, turn: Turn) -> Turn:
    """The turn when both workers are done with it."""
    assert other.idle(20)
    assert turns.engine.idle(20)
    db.session.rollback()
    return db.session.get_one(Turn, turn.id, populate_existing=True)


def test_a_stalled_call_is_waited_for_and_adopted(
    turns: Turns, fake: FakeUpstream, other: TurnEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.will(gate.silent)
    turn = turns.begin()
    wait_for(gate, turns, turn, "")
    stall(turns, monkeypatch, turn)
    take_over(other, turn)
    gate.open.set()
    found = ended(turns, other, turn)
    assert (found.state, found.error_code) == ("interrupted", "worker_died")
    assert len(fake.requests) == 1
    (call,) = turns.calls()
    answer = turns.messages()[-1]
    assert (answer.text, answer.message_id) == ("It is a portico.", call.message_id)
    assert found.credits == call.credits == answer.credits
    assert found.credits


def test_a_stalled_worker_with_text_is_charged_once(
    turns: Turns, fake: FakeUpstream, other: TurnEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.will(gate.halfway)
    turn = turns.begin()
    wait_for(gate, turns, turn, "It")
    stall(turns, monkeypatch, turn)
    take_over(other, turn)
    assert other.idle(20)
    db.session.rollback()
    (call,) = turns.calls()
    assert (call.error, call.flags) == ("worker_died", ["output_counted_after_crash"])
    gate.open.set()
    found = ended(turns, other, turn)
    assert (found.state, len(fake.requests)) == ("interrupted", 1)
    (again,) = turns.calls()
    assert (again.credits, again.error) == (call.credits, "worker_died")
    assert found.credits == call.credits == turns.messages()[-1].credits
    assert turns.messages()[-1].text.startswith("It")


def test_a_ledger_that_does_not_answer_delays_the_recovery(
    turns: Turns, fake: FakeUpstream, other: TurnEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.will(gate.halfway)
    turn = turns.begin()
    wait_for(gate, turns, turn, "It")
    stall(turns, monkeypatch, turn)
    asked = threading.Event()

    def unavailable(*_: Any) -> Any:
        asked.set()
        raise LedgerUnavailable("The ledger does not answer.")

    with monkeypatch.context() as outage:
        outage.setattr(call_recovery, "state_of_call", unavailable)
        take_over(other, turn)
        assert asked.wait(10)
        assert other.idle(20)
    db.session.rollback()
    assert db.session.get_one(Turn, turn.id, populate_existing=True).state == "running"
    db.session.execute(update(Turn).where(Turn.id == turn.id).values(lease_until=now()))
    db.session.commit()
    take_over(other, turn)
    assert other.idle(20)
    gate.open.set()
    assert ended(turns, other, turn).state == "interrupted"
    assert [call.error for call in turns.calls()] == ["worker_died"]


@pytest.mark.parametrize(
    ("worker", "state"), [(DEAD, "live"), (UNKNOWN, "lost")], ids=["killed", "of another machine, swept"]
)
def test_a_dead_call_without_text_is_released_and_made_again(
    turns: Turns,
    fake: FakeUpstream,
    other: TurnEngine,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    worker: str,
    state: str,
) -> None:
    fake.will(gate.hang_up, says("It is a portico."))
    turn = turns.begin()
    wait_for(gate, turns, turn, "")
    stall(turns, monkeypatch, turn)
    worker_is(worker)
    if state == "lost":
        db.session.execute(update(CreditHold).values(state="lost", lost_at=now()))
        db.session.commit()
    take_over(other, turn)
    assert other.idle(20)
    found = db.session.get_one(Turn, turn.id, populate_existing=True)
    assert found.state == "completed"
    first, second = turns.calls()
    assert (first.state, first.error, first.credits) == ("failed", "worker_died", 0)
    assert (second.state, found.credits) == ("settled", second.credits)
    assert db.session.scalar(select(func.count()).select_from(CreditHold)) == 0


def test_a_worker_that_was_stalled_before_its_call_makes_none(
    turns: Turns, fake: FakeUpstream, other: TurnEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = thread_turn.open_call

    def stalled(handle: Any, *args: Any, **more: Any) -> Any:
        if handle._engine is turns.engine:
            gate.reached.set()
            gate.open.wait(30)
        return opening(handle, *args, **more)

    monkeypatch.setattr(thread_turn, "open_call", stalled)
    turn = turns.begin()
    wait_for(gate, turns, turn, "")
    stall(turns, monkeypatch, turn)
    take_over(other, turn)
    assert other.idle(20)
    gate.open.set()
    found = ended(turns, other, turn)
    assert (found.state, len(fake.requests)) == ("completed", 1)
    settled = [call for call in turns.calls() if call.state == "settled"]
    assert [call.credits for call in settled] == [found.credits]


def test_stopping_a_turn_that_waits_for_a_stalled_worker_ends_it(
    turns: Turns, fake: FakeUpstream, other: TurnEngine, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.will(gate.silent)
    turn = turns.begin()
    wait_for(gate, turns, turn, "")
    stall(turns, monkeypatch, turn)
    take_over(other, turn)
    request_stop(db.session.get_one(Turn, turn.id, populate_existing=True))
    db.session.commit()
    assert other.idle(10)
    assert not gate.open.is_set()
    db.session.rollback()
    assert db.session.get_one(Turn, turn.id, populate_existing=True).state == "cancelled"
    assert len(fake.requests) == 1


@pytest.mark.parametrize("words", ["", "It"])
def test_a_killed_call_without_a_thread_is_found_and_charged(
    turns: Turns,
    web: FlaskClient,
    fake: FakeUpstream,
    other: TurnEngine,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
) -> None:
    fake.will(gate.halfway if words else gate.hang_up)
    sent = {"name": "Helper", "instructions": "Be brief.", "model": MODEL}
    account = Account(user_id=turns.alice.id)
    made = assistants.create_assistant(turns.alice.id, account, sent, extension("settings"), budget=50_000)
    db.session.commit()
    id = made.assistant.id
    body = {"agent_id": id, "messages": [{"role": "user", "content": "Hi"}]}
    asking = threading.Thread(
        target=web.post, args=("/v1/chat/completions",), kwargs={"json": body, "headers": turns.alice.headers}
    )
    asking.start()
    assert gate.reached.wait(10)
    turn = until(lambda: db.session.rollback() or db.session.scalars(select(Turn)).one_or_none())
    wait_for(gate, turns, turn, words)
    run_id = until(lambda: db.session.rollback() or db.session.scalar(select(Turn.run_id)))
    stall(turns, monkeypatch, turn)
    worker_is(DEAD)
    take_over(other, turn)
    assert other.idle(20)
    (call,) = turns.calls()
    assert (call.state, call.error) == ("settled" if words else "failed", "worker_died")
    assert bool(call.micro_credits) == bool(words)
    assistant = db.session.get_one(assistants.Assistant, id, populate_existing=True)
    assert (assistant.reserved, assistant.spent) == (0, call.credits)
    assert db.session.get_one(AgentRun, run_id).status == "failed"
    assert db.session.scalar(select(func.count()).select_from(Turn)) == 0
    gate.open.set()
    asking.join(20)
    assert turns.engine.idle(20)


def test_the_call_of_a_deleted_turn_is_ended(turns: Turns, fake: FakeUpstream, gate: Gate) -> None:
    fake.will(gate.halfway)
    turn = turns.begin()
    wait_for(gate, turns, turn, "It")
    db.session.execute(Turn.__table__.delete().where(Turn.id == turn.id))  # type: ignore[attr-defined]
    db.session.commit()
    turns.engine.tick()
    assert turns.engine.idle(10)
    assert not gate.open.is_set()
    (call,) = turns.calls()
    assert (call.state, call.error) == ("settled", "client_stopped")
