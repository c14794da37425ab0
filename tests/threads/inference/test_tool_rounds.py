"""Rounds of tools in turns: the server's run, the client's are waited for, and a mixture loses nothing (crafely contract 6; check 15)."""

import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import update

from models.core.db import db, now
from models.core.errors import Invalid
from models.runs import AgentRun, AgentStep
from models.threads.turn_resuming import submit_outputs
from models.turns import Turn, TurnNotActive, own_turn
from models.turns.turn_verbs import request_stop
from tests.fakes.upstream import FakeUpstream
from tests.threads.inference.conftest import CLIENT_TOOL, Turns, calls, says

Give = Callable[..., None]


def test_five_rounds_are_five_billed_calls_whose_sum_is_the_turns_charge(
    turns: Turns, fake: FakeUpstream, server_tools: Give
) -> None:
    server_tools(look=lambda arguments: f"seen {arguments['a']}")
    fake.will(*(calls((f"call_{number}", "look")) for number in range(4)), says("Done."))
    turn = turns.ask()
    assert (turn.state, turn.rounds) == ("completed", 5)
    billed = turns.calls()
    assert len(billed) == 5
    assert {call.run_id for call in billed} == {turn.run_id}
    assert turn.credits == sum(call.credits or 0 for call in billed) > 0
    found = turns.messages()
    assert [message.role for message in found] == ["user", *["assistant", "tool"] * 4, "assistant"]
    assert [message.message_id for message in found if message.role == "assistant"] == [
        call.message_id for call in billed
    ]
    assert {message.text for message in found if message.role == "tool"} == {"seen 1"}
    for above, message in pairwise(found):
        assert message.parent_id == above.id
    run = db.session.get_one(AgentRun, turn.run_id)
    steps = db.session.query(AgentStep).filter_by(agent_run_id=run.id).order_by(AgentStep.step_number).all()
    assert [step.message_id for step in steps] == [call.message_id for call in billed]
    assert fake.requests[1].body["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "call_0",
        "content": "seen 1",
    }
    assert [request.body.get("tool_choice") for request in fake.requests] == [None] * 4 + ["none"]
    assert turns.thread.spent == turn.credits


def test_a_model_that_does_not_stop_calling_tools_is_stopped(
    turns: Turns, fake: FakeUpstream, server_tools: Give
) -> None:
    server_tools(look=lambda _: "seen")
    fake.will(calls(("again", "look")))
    turn = turns.ask(max_rounds=2)
    assert (turn.state, turn.rounds, turn.error_code) == ("failed", 2, "max_rounds_reached")
    assert len(turns.calls()) == 2
    fake.will(says("Well."))
    assert turns.ask("And now?").state == "completed"
    sent = fake.requests[-1].body["messages"]
    assert [each["role"] for each in sent] == [
        *("user", "assistant", "tool", "assistant", "tool", "user"),
    ]


@pytest.mark.parametrize(
    ("called", "server", "client"),
    [
        ([("s1", "look")], ["s1"], []),
        ([("c1", "ask_user")], [], ["c1"]),
        ([("s1", "look"), ("c1", "ask_user")], ["s1"], ["c1"]),
        ([("c1", "ask_user"), ("s1", "look"), ("c2", "ask_user")], ["s1"], ["c1", "c2"]),
        ([("u1", "unknown"), ("c1", "ask_user")], ["u1"], ["c1"]),
        ([("s1", "broken"), ("s2", "look")], ["s1", "s2"], []),
    ],
)
def test_a_mixture_of_tools_loses_nothing(
    turns: Turns,
    fake: FakeUpstream,
    server_tools: Give,
    called: list[tuple[str, str]],
    server: list[str],
    client: list[str],
) -> None:
    server_tools(look=lambda _: "seen", broken=lambda _: str(1 // 0))
    fake.will(calls(*called), says("Done."))
    turn = turns.ask(tools=[CLIENT_TOOL])
    done = [message.tool_call_id for message in turns.messages() if message.role == "tool"]
    assert done == server
    if client:
        assert turn.state == "requires_action"
        assert [call["id"] for call in turn.required_action["tool_calls"]] == client  # type: ignore[index]
        assert turns.events(turn)[-1][0] == "turn.requires_action"
        turn = answer(turns, turn, client)
    assert turn.state == "completed"
    sent = fake.requests[-1].body["messages"]
    assert sorted(each["tool_call_id"] for each in sent if each["role"] == "tool") == sorted(server + client)
    assert [message.text for message in turns.messages()][-1] == "Done."
    types = [type for type, _ in turns.events(turn)] if not client else []
    assert types.count("tool.started") == types.count("tool.completed") == (0 if client else len(server))


def answer(turns: Turns, turn: Turn, ids: list[str]) -> Turn:
    found = own_turn(turn.user_id, turn.account_id, turn.id, lock=True)
    outputs = [{"tool_call_id": id, "output": f"result of {id}"} for id in ids]
    submit_outputs(found, outputs, turns.engine.owner)
    db.session.commit()
    turns.engine.run(turn.id)
    return turns.after(turn)


def test_outputs_are_those_that_are_owed(turns: Turns, fake: FakeUpstream) -> None:
    fake.will(calls(("c1", "ask_user"), ("c2", "ask_user")), says("Done."))
    turn = turns.ask(tools=[CLIENT_TOOL])
    one, two = ({"tool_call_id": id, "output": "x"} for id in ("c1", "c2"))
    for wrong in (
        [],
        [one],
        [one, two, {"tool_call_id": "c3", "output": "x"}],
        [one, one, two],
        [one, {"tool_call_id": "c2", "output": 5}],
        [one, {"tool_call_id": "c2", "output": "nul \x00"}],
    ):
        with pytest.raises(Invalid):
            submit_outputs(turn, wrong, turns.engine.owner)
        db.session.rollback()
    assert turns.after(turn).state == "requires_action"
    assert answer(turns, turn, ["c2", "c1"]).state == "completed"
    with pytest.raises(TurnNotActive):
        submit_outputs(turns.after(turn), [one, two], turns.engine.owner)


def test_outputs_that_do_not_come_let_the_turn_expire(turns: Turns, fake: FakeUpstream) -> None:
    fake.will(calls(("c1", "ask_user")), says("Well."))
    turn = turns.ask(tools=[CLIENT_TOOL])
    queued = turns.begin("Next", on_busy="queue")
    db.session.execute(update(Turn).where(Turn.id == turn.id).values(expires_at=now() - timedelta(seconds=1)))
    db.session.commit()
    with pytest.raises(TurnNotActive):
        submit_outputs(turns.after(turn), [{"tool_call_id": "c1", "output": "x"}], turns.engine.owner)
    db.session.rollback()
    turns.engine.tick()
    assert turns.after(turn).state == "expired"
    assert db.session.get_one(AgentRun, turn.run_id).status == "failed"
    assert turns.after(queued).state == "completed"


def test_a_turn_that_waits_is_interrupted_by_a_newer_message(turns: Turns, fake: FakeUpstream) -> None:
    fake.will(calls(("c1", "ask_user")), says("Well."))
    waiting = turns.ask(tools=[CLIENT_TOOL])
    newer = turns.begin("Never mind.", on_busy="interrupt")
    turns.engine.tick()
    assert turns.after(waiting).state == "cancelled"
    assert turns.after(newer).state == "completed"


def test_stopping_works_while_tools_run(turns: Turns, fake: FakeUpstream, server_tools: Give) -> None:
    began, gate = threading.Event(), threading.Event()

    def slow(_: Any) -> str:
        began.set()
        gate.wait(30)
        return "late"

    server_tools(slow=slow, quick=lambda _: "quick")
    fake.will(calls(("s1", "slow"), ("s2", "quick")), says("Done."))
    turn = turns.begin()
    assert began.wait(30)
    request_stop(db.session.get_one(Turn, turn.id))
    db.session.commit()
    stopped = turns.after(turn)
    gate.set()
    assert stopped.state == "cancelled"
    assert len(turns.calls()) == 1
    texts = {message.tool_call_id: message.text for message in turns.messages() if message.role == "tool"}
    assert "stopped" in texts["s1"]


def test_a_tool_has_limited_time(
    turns: Turns, fake: FakeUpstream, server_tools: Give, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    server_tools(slow=lambda _: str(gate.wait(30)), quick=lambda _: "quick")
    monkeypatch.setattr("models.threads.thread_turn.ThreadTurn.tool_seconds", 0.5)
    fake.will(calls(("s1", "slow"), ("s2", "quick")), says("Done."))
    assert turns.ask().state == "completed"
    gate.set()
    texts = [message.text for message in turns.messages() if message.role == "tool"]
    assert texts == ["The tool did not answer within 0.5 seconds.", "quick"]
