"""Turns at their edges: stopped while they wait, resumed while their thread still ends, failing on our side, with text that nothing stores."""

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.core.db import db
from models.threads.thread_turn import ThreadTurn
from models.threads.turn_resuming import resume_turn
from models.turns import TurnEngine, own_turn
from tests.factories import Person
from tests.threads.inference.conftest import Turns


def test_a_queued_turn_is_stopped_while_its_branch_is_busy(
    turns: Turns, web: FlaskClient, alice: Person
) -> None:
    busy = turns.ask(budget=1)
    assert busy.state == "paused"
    waiting = turns.begin("And then?", on_busy="queue")
    answer = web.post(f"/api/v1/turns/{waiting.id}/stop", headers={"Authorization": f"Bearer {alice.token}"})
    assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
    assert [type for type, _ in turns.events(waiting)] == ["turn.cancelled"]
    assert turns.after(busy).state == "paused"


def test_a_turn_that_goes_on_at_once_is_still_its_workers(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread in which it waited has not ended when it is resumed."""
    ending, resumed = threading.Event(), threading.Event()
    run_next = TurnEngine._run_next

    def slow(engine: TurnEngine, branch_id: str) -> None:
        ending.set()
        resumed.wait(10)
        run_next(engine, branch_id)

    monkeypatch.setattr(TurnEngine, "_run_next", slow)
    turn = turns.begin(budget=1)
    assert ending.wait(10)
    held: list[bool] = []
    stream = ThreadTurn._stream

    def watched(running: ThreadTurn, *args: Any) -> None:
        before.join()
        held.append(turn.id in turns.engine._threads and turn.id in turns.engine._handles)
        stream(running, *args)

    monkeypatch.setattr(ThreadTurn, "_stream", watched)
    before = turns.engine._threads[turn.id]
    resume_turn(
        own_turn(turns.alice.id, turns.alice.id, turn.id, lock=True), turns.engine.owner, budget=10_000
    )
    db.session.commit()
    turns.engine.run(turn.id)
    resumed.set()
    assert turns.after(turn).state == "completed"
    assert held == [True]
    assert len(turns.calls()) == 1
