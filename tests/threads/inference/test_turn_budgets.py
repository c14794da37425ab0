"""Budgets of turns, threads and assistants: used up means paused, raising one resumes, and turns at once spend no more than there is."""

import threading
from contextlib import suppress
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select

from models import assistants, threads
from models.core.db import db, extension
from models.ledger import Account
from models.ledger.budget_tables import RunBudget
from models.runs import AgentRun
from models.threads import Thread
from models.threads.turn_resuming import resume_paused, resume_turn
from models.turns import Turn, own_turn
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.threads.inference.conftest import MODEL, Turns, calls, says

SMALL = {"max_tokens": 100}
"""So that a call holds little: 10 credits of output in $ 100 a million, and some of input."""


@pytest.fixture
def cost(turns: Turns) -> int:
    """What one answer costs, in credits."""
    turns.ask(params=SMALL)
    found = turns.calls()[0].credits
    assert found
    return found


def assistant(alice: Person, budget: int | None = None, **fields: Any) -> str:
    """An assistant of alice."""
    sent = {"name": "Helper", "instructions": "Be brief.", "model": MODEL, **fields}
    made = assistants.create_assistant(
        alice.id, Account(user_id=alice.id), sent, extension("settings"), budget=budget
    )
    db.session.commit()
    return made.assistant.id


def limit(turns: Turns, level: str, credits: int | None, alice: Person) -> dict[str, Any]:
    """Set a budget of this level; returns what the turn is asked with."""
    if level == "turn":
        return {"budget": credits}
    if level == "thread":
        threads.change_thread(turns.thread, budget=credits)
        db.session.commit()
        return {}
    return {"assistant_id": assistant(alice, credits)}


def reserved() -> int:
    """What turns have reserved, of all threads, assistants and their own."""
    db.session.rollback()
    return sum(
        db.session.scalar(select(func.coalesce(func.sum(table.reserved), 0))) or 0
        for table in (Thread, Turn, assistants.Assistant)
    )


@pytest.mark.parametrize("level", ["turn", "thread", "assistant"])
def test_a_used_up_budget_pauses_before_the_next_round(
    turns: Turns, fake: FakeUpstream, server_tools: Any, alice: Person, cost: int, level: str
) -> None:
    server_tools(look=lambda _: "seen")
    spent = turns.thread.spent if level == "thread" else 0
    fake.will(calls(("s1", "look")), says("Done."))
    more = limit(turns, level, spent + cost, alice)
    turn = turns.ask(params=SMALL, **more)
    assert (turn.state, turn.error_code, turn.rounds) == ("paused", "budget_exceeded", 1)
    assert level in (turn.error_message or "")
    type, data = turns.events(turn)[-1]
    assert (type, data["code"], data["level"]) == ("turn.paused", "budget_exceeded", level)
    assert turn.credits == cost
    # what it has not spent is free for others
    assert turn.reserved == cost
    raised = resume(turns, turn, level, spent + 10 * cost, alice)
    assert (raised.state, raised.credits) == ("completed", 2 * cost)
    assert reserved() == 0
    run = db.session.get_one(AgentRun, turn.run_id)
    assert run.status == "completed"


def resume(turns: Turns, turn: Turn, level: str, credits: int, alice: Person) -> Turn:
    owner = turns.engine.owner
    if level == "turn":
        resume_turn(own_turn(turn.user_id, turn.account_id, turn.id, lock=True), owner, budget=credits)
        ids = [turn.id]
    elif level == "thread":
        threads.change_thread(turns.thread, budget=credits)
        db.session.commit()
        ids = resume_paused(owner, thread_id=turns.thread_id)
    else:
        id = turn.request["assistant_id"]
        account, settings = Account(user_id=alice.id), extension("settings")
        assistants.update_assistant(alice.id, account, id, {}, settings, budget=credits)
        db.session.commit()
        ids = resume_paused(owner, assistant_id=id)
    db.session.commit()
    assert ids == [turn.id]
    turns.engine.run(turn.id)
    return turns.after(turn)


@pytest.mark.parametrize("level", ["thread", "assistant"])
def test_nothing_left_pauses_before_any_call(
    turns: Turns, fake: FakeUpstream, alice: Person, level: str
) -> None:
    turn = turns.ask(**limit(turns, level, 0, alice))
    assert (turn.state, turn.error_code, turn.credits) == ("paused", "budget_exceeded", None)
    assert fake.requests == []
    assert [message.role for message in turns.messages()] == ["user"]


def test_a_resumed_turn_without_a_raise_pauses_again(turns: Turns, alice: Person) -> None:
    turn = turns.ask(**limit(turns, "thread", 0, alice))
    resume_turn(own_turn(turn.user_id, turn.account_id, turn.id, lock=True), turns.engine.owner)
    db.session.commit()
    turns.engine.run(turn.id)
    assert turns.after(turn).state == "paused"


def test_an_answer_that_outgrows_the_budget_is_cut_kept_and_continued(
    turns: Turns, fake: FakeUpstream, alice: Person
) -> None:
    words = " ".join(f"word{number}" for number in range(6_000))
    fake.will(fakes.stream(fakes.chunks(words, use=None)), says("the end."))
    turn = turns.ask(budget=100)
    assert (turn.state, turn.error_code) == ("paused", "budget_exceeded")
    assert 0 < turn.credits <= 100
    cut = turns.messages()[1]
    assert (cut.state, cut.finish_reason) == ("incomplete", "interrupted")
    resume_turn(own_turn(turn.user_id, turn.account_id, turn.id, lock=True), turns.engine.owner, budget=1_000)
    db.session.commit()
    turns.engine.run(turn.id)
    ended = turns.after(turn)
    assert (ended.state, ended.rounds) == ("completed", 2)
    sent = fake.requests[-1].body["messages"]
    assert [each["role"] for each in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == cut.text


@pytest.mark.parametrize("level", ["thread", "assistant"])
def test_turns_at_once_spend_no_more_than_the_budget(
    turns: Turns, fake: FakeUpstream, alice: Person, cost: int, level: str
) -> None:
    spent = turns.thread.spent if level == "thread" else 0
    more = limit(turns, level, spent + 3 * cost, alice)
    gate = threading.Barrier(4, timeout=10)

    def meet(exchange: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            gate.wait(2)
        return says("It is a portico.")(exchange)

    fake.will(meet)
    begun = []
    for number in range(8):
        # branches of their own
        parent = turns.messages()[0].id
        begun.append(turns.begin(None, parent_id=parent, params=SMALL, **more).id)
        assert number < 8
    found = [turns.after(id) for id in begun]
    states = {turn.state for turn in found}
    assert states <= {"completed", "paused"}
    assert "paused" in states
    total = sum(turn.credits or 0 for turn in found)
    assert total <= 3 * cost
    assert turns.thread.spent + sum(turn.reserved for turn in found) >= total
    if level == "thread":
        assert turns.thread.spent <= turns.thread.budget


def test_a_call_that_needs_more_than_is_reserved_at_once_gets_it(turns: Turns, alice: Person) -> None:
    more = limit(turns, "thread", 100_000, alice)
    # 60,000 tokens of output would cost 600 credits, of input in bytes 1,000 and more
    turn = turns.ask("x" * 150_000, params={"max_tokens": 60_000}, **more)
    assert turn.state == "completed"
    assert reserved() == 0


def test_without_budgets_no_envelope_is_made(turns: Turns) -> None:
    turns.ask()
    assert db.session.scalar(select(func.count()).select_from(RunBudget)) == 0


def test_raising_a_budget_by_the_api_resumes(turns: Turns, web: FlaskClient, alice: Person) -> None:
    first = turns.ask(**limit(turns, "thread", 0, alice))
    answer = web.patch(f"/api/v1/threads/{turns.thread_id}", json={"budget": None}, headers=alice.headers)
    assert answer.status_code == 200
    assert turns.after(first).state == "completed"
    second = turns.ask("More", **(more := limit(turns, "assistant", 0, alice)))
    assert second.state == "paused"
    answer = web.patch(
        f"/api/v1/assistants/{more['assistant_id']}", json={"budget": 1_000}, headers=alice.headers
    )
    assert answer.status_code == 200, answer.json
    assert turns.after(second).state == "completed"
