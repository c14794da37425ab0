"""Turns at their edges: stopped while they wait, resumed while their thread still ends, failing on our side, with text that nothing stores."""

import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select

from models import assistants, threads
from models.core.db import db, extension
from models.ledger import Account
from models.runs import AgentRun
from models.threads import Thread, thread_turn
from models.threads.assistant_call import AssistantCall
from models.threads.thread_turn import ThreadTurn
from models.threads.turn_resuming import resume_turn
from models.turns import Turn, TurnEngine, own_turn
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream
from tests.threads.inference.conftest import MODEL, Turns, calls, says


def reserved() -> int:
    """What turns have reserved of all budgets."""
    db.session.rollback()
    tables = (Thread, Turn, assistants.Assistant)
    return sum(db.session.scalar(select(func.coalesce(func.sum(each.reserved), 0))) or 0 for each in tables)


def assistant(alice: Person, **fields: Any) -> str:
    """An assistant of alice."""
    sent = {"name": "Helper", "instructions": "Be brief.", "model": MODEL}
    made = assistants.create_assistant(
        alice.id, Account(user_id=alice.id), sent, extension("settings"), **fields
    )
    db.session.commit()
    return made.assistant.id


def broken(*_: Any) -> None:
    raise RuntimeError("broken")


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
    tell_pieces = thread_turn.tell_pieces

    def watched(*args: Any) -> None:
        before.join()
        held.append(turn.id in turns.engine._threads and turn.id in turns.engine._handles)
        tell_pieces(*args)

    monkeypatch.setattr(thread_turn, "tell_pieces", watched)
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


def test_a_turn_that_fails_on_our_side_leaves_nothing_reserved(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadTurn, "_open", broken)
    turn = turns.ask(budget=5_000, assistant_id=assistant(turns.alice, budget=5_000))
    assert (turn.state, turn.error_code, reserved()) == ("failed", "internal_error", 0)
    assert db.session.get_one(AgentRun, turn.run_id).status == "failed"


def test_a_call_that_fails_on_our_side_leaves_nothing_reserved(
    turns: Turns, web: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AssistantCall, "_open", broken)
    sent = {
        "agent_id": assistant(turns.alice, budget=5_000),
        "messages": [{"role": "user", "content": "Hi"}],
    }
    answer = web.post(
        "/v1/chat/completions", json=sent, headers={"Authorization": f"Bearer {turns.alice.token}"}
    )
    assert turns.engine.idle(20)
    assert (answer.status_code, reserved()) == (500, 0)


@pytest.mark.parametrize(("budget", "status"), [(1, 402), (10**6, 200)])
def test_a_call_without_a_thread_has_a_budget(
    turns: Turns, web: FlaskClient, budget: int, status: int
) -> None:
    """One call may need more than is reserved at a time."""
    sent = {
        "agent_id": assistant(turns.alice, budget=10**6),
        "budget": budget,
        "max_tokens": 30_000,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    answer = web.post(
        "/v1/chat/completions", json=sent, headers={"Authorization": f"Bearer {turns.alice.token}"}
    )
    assert answer.status_code == status, answer.json
    assert turns.engine.idle(20)
    assert reserved() == 0


def test_nul_of_a_model_is_left_out(turns: Turns, fake: FakeUpstream) -> None:
    fake.will(says("port\x00ico"))
    turn = turns.ask()
    assert (turn.state, turns.messages()[-1].text) == ("completed", "portico")


def test_a_deleted_thread_spends_no_more(turns: Turns, fake: FakeUpstream, server_tools: Any) -> None:
    def look(_: Any) -> str:
        threads.delete_thread(db.session.get_one(Thread, turns.thread_id))
        db.session.commit()
        return "seen"

    server_tools(look=look)
    fake.will(calls(("s1", "look")), says("Done."))
    assert (turns.ask().state, len(turns.calls())) == ("cancelled", 1)


def test_all_routes_of_turns_refuse_in_one_way(turns: Turns, web: FlaskClient, mallory: Person) -> None:
    turn = turns.ask(budget=1)
    routes = {"": "GET", "/events": "GET", "/stop": "POST", "/tool_outputs": "POST", "/resume": "POST"}
    for path, method in routes.items():
        answer = web.open(f"/api/v1/turns/{turn.id}{path}", method=method)
        assert (answer.status_code, answer.json["error"]["code"]) == (401, "invalid_api_key"), path
        for headers, id in ((mallory.headers, turn.id), (turns.alice.headers, "turn_none")):
            answer = web.open(f"/api/v1/turns/{id}{path}", method=method, headers=headers)
            told = (answer.status_code, answer.json["error"]["message"])
            assert told == (404, f"You have no turn '{id}'."), path
    assert turns.after(turn).state == "paused"


@pytest.mark.parametrize("path", ["", "/events", "/stop"])
def test_a_turn_with_nul_in_its_id_is_unknown(turns: Turns, web: FlaskClient, path: str) -> None:
    answer = web.open(
        f"/api/v1/turns/turn_%00{path}",
        method="POST" if path == "/stop" else "GET",
        headers={"Authorization": f"Bearer {turns.alice.token}"},
    )
    assert answer.status_code == 404
