"""Turns of threads: answered, charged, watched, stopped, queued and taken over."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models import threads
from models.accounts.key_format import present
from models.core.db import db
from models.gateway import GatewayCall
from models.gateway.demo_model import DemoModel
from models.runs import AgentRun
from models.threads import Thread, ThreadMessage, TurnRequest
from models.turns import Turn, TurnEngine, TurnInProgress
from models.turns.turn_verbs import request_stop
from tests import factories
from tests.factories import Person

DEMO = TurnRequest(model="stoa/demo")
Ask = Callable[..., Turn]


@pytest.fixture
def engine_of_turns(app: Flask) -> TurnEngine:
    found: TurnEngine = app.extensions["turns"]
    return found


@pytest.fixture
def ask(alice: Person, thread: Thread, engine_of_turns: TurnEngine) -> Ask:
    """Ask in alice's thread, with her key."""
    factories.grant(alice.user, 100_000)
    db.session.commit()

    def ask(text: str | None = "What is a stoa?", wanted: TurnRequest = DEMO, **options: Any) -> Turn:
        found = db.session.get_one(Thread, thread.id)
        said = [] if text is None else [{"role": "user", "content": text}]
        turn = threads.ask(
            found,
            wanted,
            messages=said,
            key=present(alice.token),
            owner=engine_of_turns.owner,
            **options,
        )
        db.session.commit()
        if turn.state == "running":
            engine_of_turns.run(turn.id)
        return turn

    return ask


@pytest.fixture
def slow(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo model writes slowly."""
    monkeypatch.setattr(app.extensions["gateway"].routes.demo, "upstream", DemoModel(0.05))


def ended(engine: TurnEngine, turn: Turn) -> Turn:
    assert engine.idle(20)
    db.session.rollback()
    db.session.expire_all()
    return db.session.get_one(Turn, turn.id)


def messages(thread: Thread) -> list[ThreadMessage]:
    query = select(ThreadMessage).where(ThreadMessage.thread_id == thread.id).order_by(ThreadMessage.seq)
    return list(db.session.scalars(query))


def test_a_message_is_answered_and_charged_once(
    session: OrmSession, ask: Ask, thread: Thread, engine_of_turns: TurnEngine
) -> None:
    turn = ended(engine_of_turns, ask())
    assert (turn.state, turn.rounds, turn.error_code) == ("completed", 1, None)
    question, answer = messages(thread)
    assert (question.role, question.text, answer.role) == ("user", "What is a stoa?", "assistant")
    assert (answer.seq, answer.parent_id, answer.branch_id) == (2, question.id, question.branch_id)
    assert answer.state == "completed"
    assert answer.text
    assert answer.turn_id == turn.id
    call = session.scalars(select(GatewayCall)).one()
    assert call.door == "turns"
    assert (call.run_id, call.message_id) == (turn.run_id, answer.message_id)
    assert turn.credits == call.credits == answer.credits
    run = session.get_one(AgentRun, turn.run_id)
    assert (run.status, run.agent_id, run.total_steps) == ("completed", "thread", 1)
    assert db.session.get_one(Thread, thread.id).head_id == answer.id


def test_events_are_told_in_order_live_and_afterwards(ask: Ask, engine_of_turns: TurnEngine) -> None:
    turn = ask()
    live = [event for event in engine_of_turns.log.watch(turn.id) if event]
    assert [event.type for event in live][:2] == ["turn.started", "message.started"]
    assert [event.type for event in live][-2:] == ["message.completed", "turn.completed"]
    text = "".join(event.data["text"] for event in live if event.type == "text.delta")
    assert text == live[-2].data["message"]["content"][0]["text"]
    ended(engine_of_turns, turn)
    later = [event for event in engine_of_turns.log.watch(turn.id) if event]
    assert [event.type for event in later] == [
        "turn.started",
        "message.started",
        "message.completed",
        "turn.completed",
    ]
    seqs = [event.seq for event in later]
    assert seqs == sorted(seqs)
    assert [event.seq for event in engine_of_turns.log.watch(turn.id, seqs[1]) if event] == seqs[2:]


@pytest.mark.usefixtures("slow")
def test_stopping_keeps_and_charges_what_was_written(
    ask: Ask, thread: Thread, engine_of_turns: TurnEngine
) -> None:
    turn = ask("Tell me a long story.")
    for event in engine_of_turns.log.watch(turn.id):
        if event and event.type == "text.delta":
            break
    request_stop(db.session.get_one(Turn, turn.id))
    db.session.commit()
    stopped = ended(engine_of_turns, turn)
    assert stopped.state == "cancelled"
    answer = messages(thread)[-1]
    assert (answer.state, answer.finish_reason) == ("incomplete", "interrupted")
    assert answer.text
    call = db.session.scalars(select(GatewayCall)).one()
    assert (call.state, call.error) == ("settled", "client_stopped")
    assert call.credits == answer.credits


@pytest.mark.usefixtures("slow")
def test_a_second_message_is_rejected_queued_or_interrupts(
    ask: Ask, thread: Thread, engine_of_turns: TurnEngine
) -> None:
    first = ask("One")
    with pytest.raises(TurnInProgress):
        ask("Two")
    db.session.rollback()
    queued = ask("Two", on_busy="queue")
    assert queued.state == "queued"
    assert ended(engine_of_turns, first).state == "completed"
    assert ended(engine_of_turns, queued).state == "completed"
    third = ask("Three")
    interrupting = ask("Four", on_busy="interrupt")
    assert ended(engine_of_turns, third).state == "cancelled"
    assert ended(engine_of_turns, interrupting).state == "completed"
    found = messages(thread)
    assert [message.seq for message in found] == list(range(1, len(found) + 1))
    assert [message.text for message in found if message.role == "user"] == ["One", "Two", "Three", "Four"]
    assert len({message.branch_id for message in found}) == 1
    for before, message in pairwise(found):
        assert message.parent_id == before.id


def test_another_answer_is_a_sibling(ask: Ask, thread: Thread, engine_of_turns: TurnEngine) -> None:
    ended(engine_of_turns, ask())
    question, first = messages(thread)
    ended(engine_of_turns, ask(None, parent_id=question.id))
    second = messages(thread)[2]
    assert (second.parent_id, second.branch_id) == (question.id, second.id)
    assert messages(thread)[1].text == first.text
    assert db.session.get_one(Thread, thread.id).head_id == second.id


def test_a_failed_call_ends_the_turn_with_its_reason(
    ask: Ask, thread: Thread, engine_of_turns: TurnEngine
) -> None:
    turn = ended(engine_of_turns, ask(wanted=TurnRequest(model="no/such-model")))
    assert (turn.state, turn.error_code, turn.credits) == ("failed", "model_not_found", 0)
    assert len(messages(thread)) == 1
    run = db.session.get_one(AgentRun, turn.run_id)
    assert run.status == "failed"


@pytest.fixture
def other_worker(app: Flask) -> Iterator[TurnEngine]:
    engine = TurnEngine(app.app_context, app.extensions["gateway"])
    yield engine
    engine.close()


def test_a_watcher_of_another_worker_sees_the_same(
    ask: Ask, engine_of_turns: TurnEngine, other_worker: TurnEngine
) -> None:
    turn = ask()
    seen = [event.type for event in other_worker.log.watch(turn.id) if event]
    assert seen[0] == "turn.started"
    assert seen[-2:] == ["message.completed", "turn.completed"]
    ended(engine_of_turns, turn)
