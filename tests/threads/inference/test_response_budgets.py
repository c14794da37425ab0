"""Responses of a conversation with a budget: reserved before the call, kept within it by the ledger, and never spent twice."""

import json
import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from models.core.db import db
from models.ledger import CreditHold
from models.ledger.budget_tables import RunBudget
from models.runs import AgentRun
from models.threads import Thread, tree
from models.turns import Turn
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Exchange, FakeUpstream
from tests.threads.inference.conftest import MODEL, USAGE, Turns, says

LONG = " ".join(f"word{number}" for number in range(6_000))


class Conversation:
    """A conversation of alice, and its responses."""

    def __init__(self, turns: Turns, web: FlaskClient, alice: Person) -> None:
        self.turns, self.web, self.headers = turns, web, alice.headers
        self.id = web.post("/v1/conversations", json={}, headers=alice.headers).json["id"]

    @property
    def thread(self) -> Thread:
        db.session.rollback()
        id = "thrd_" + self.id.removeprefix("conv_")
        return db.session.get_one(Thread, id, populate_existing=True)

    def set(self, **values: Any) -> None:
        db.session.execute(update(Thread).where(Thread.id == self.thread.id).values(**values))
        db.session.commit()

    def ask(self, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, Any]:
        sent = {"model": MODEL, "input": "Hi", "conversation": self.id, "max_output_tokens": 100, **body}
        found = self.web.post("/v1/responses", json=sent, headers={**self.headers, **(headers or {})})
        assert self.turns.engine.idle(20)
        return found.status_code, found.json

    def texts(self) -> list[str]:
        """What the items say, oldest first."""
        path = f"/v1/conversations/{self.id}/items?order=asc"
        items = self.web.get(path, headers=self.headers).json["data"]
        return [part["text"] for item in items for part in item.get("content", ())]

    def turn(self) -> Turn:
        """The newest turn."""
        db.session.rollback()
        return db.session.scalars(select(Turn).order_by(Turn.created_at.desc()).limit(1)).one()


@pytest.fixture
def conversation(turns: Turns, web: FlaskClient, alice: Person) -> Conversation:
    return Conversation(turns, web, alice)


def test_a_response_reserves_and_gives_back(conversation: Conversation, fake: FakeUpstream) -> None:
    seen: list[int] = []

    def look(exchange: Exchange) -> Any:
        with conversation.turns.engine.context():
            seen.append(db.session.scalar(select(func.max(Thread.reserved))) or 0)
        return says("It is a portico.")(exchange)

    conversation.set(budget=5_000)
    fake.will(look)
    status, response = conversation.ask()
    assert (status, response["status"]) == (200, "completed")
    assert seen == [5_000]
    turn, thread = conversation.turn(), conversation.thread
    assert (thread.reserved, thread.spent, turn.reserved) == (0, turn.credits, 0)
    (call,) = conversation.turns.calls()
    assert (call.run_id, call.credits) == (turn.run_id, turn.credits)
    run = db.session.get_one(AgentRun, turn.run_id)
    assert (run.status, run.total_steps, run.agent_id) == ("completed", 1, "response")
    open = select(func.count()).where(RunBudget.closed_at.is_(None))
    assert db.session.scalar(open) == 0


def test_without_a_budget_there_is_no_run(conversation: Conversation) -> None:
    assert conversation.ask()[0] == 200
    turn = conversation.turn()
    assert turn.run_id is None
    assert conversation.thread.spent == turn.credits
    assert db.session.scalar(select(func.count()).select_from(RunBudget)) == 0


@pytest.mark.parametrize("left", [0, 1])
def test_a_budget_that_leaves_too_little_refuses_the_call(
    conversation: Conversation, fake: FakeUpstream, left: int
) -> None:
    conversation.set(budget=100, spent=100 - left)
    status, refused = conversation.ask()
    assert (status, refused["error"]["code"]) == (402, "budget_exceeded")
    assert "conversation" in refused["error"]["message"]
    assert fake.requests == []
    assert conversation.thread.reserved == 0
    assert conversation.texts() == []


def test_what_another_turn_has_reserved_is_not_spent(conversation: Conversation, fake: FakeUpstream) -> None:
    conversation.set(budget=10_000, reserved=9_999)
    assert conversation.ask()[0] == 402
    assert fake.requests == []
    assert (conversation.thread.reserved, conversation.thread.spent) == (9_999, 0)


def test_responses_at_once_spend_no_more_than_the_budget(
    conversation: Conversation, fake: FakeUpstream
) -> None:
    conversation.ask()
    cost = conversation.turn().credits or 0
    assert cost
    conversation.set(budget=conversation.thread.spent + 2 * cost)
    before = conversation.thread.spent
    gate = threading.Event()

    def wait(exchange: Exchange) -> Any:
        gate.wait(2)
        return says("It is a portico.")(exchange)

    fake.will(wait)
    # two responses of one conversation exclude each other: the other turn is one of its thread
    first = threading.Thread(target=conversation.ask)
    first.start()
    parent = conversation.thread.head_id
    turn = conversation.turns.begin(
        "More", thread=conversation.thread, parent_id=None, params={"max_tokens": 100}, on_busy="queue"
    )
    gate.set()
    first.join(20)
    assert parent
    conversation.turns.after(turn)
    thread = conversation.thread
    spent = sum(call.credits or 0 for call in conversation.turns.calls())
    assert thread.budget is not None
    assert before <= spent <= thread.budget
    assert thread.spent + thread.reserved <= thread.budget


def test_an_answer_that_outgrows_the_budget_is_cut_and_kept(
    conversation: Conversation, fake: FakeUpstream
) -> None:
    conversation.set(budget=100)
    fake.will(fakes.stream(fakes.chunks(LONG, use=None)))
    sent = {"model": MODEL, "input": "Hi", "conversation": conversation.id, "stream": True}
    stream = conversation.web.post("/v1/responses", json=sent, headers=conversation.headers)
    told = stream.get_data(as_text=True)
    last = json.loads(told.rpartition("data: ")[2])
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "insufficient_quota")
    assert last["response"]["error"]["message"].startswith("The budget of this conversation, 100 credits")
    assert conversation.turns.engine.idle(20)
    thread, turn = conversation.thread, conversation.turn()
    assert 0 < (turn.credits or 0) <= 100
    assert (thread.spent, thread.reserved) == (turn.credits, 0)
    assert conversation.texts()[0] == "Hi"
    assert conversation.texts()[1].startswith("word0")
    assert db.session.scalar(select(func.count()).select_from(CreditHold)) == 0


@pytest.mark.parametrize("name", ["x-stoa-run-id", "x-stoa-run-budget"])
def test_a_budget_is_kept_by_a_run_of_its_own(
    conversation: Conversation, fake: FakeUpstream, name: str
) -> None:
    conversation.set(budget=1_000)
    status, refused = conversation.ask({name: "5"})
    assert (status, name in refused["error"]["message"]) == (400, True)
    assert fake.requests == []


def test_an_answer_that_is_too_large_for_the_conversation_is_kept_cut(
    conversation: Conversation, fake: FakeUpstream
) -> None:
    huge = fakes.chunk({"role": "assistant", "content": "Look: " + "word " * 250_000})
    fake.will(fakes.stream([huge, fakes.chunk({}, "stop"), fakes.chunk(None, usage=USAGE), "[DONE]"]))
    status, response = conversation.ask()
    assert (status, response["status"]) == (200, "completed")
    asked, kept = conversation.texts()
    assert asked == "Hi"
    assert kept.startswith("Look: word")
    assert kept.endswith("[cut]")


def test_the_response_of_a_full_conversation_is_kept_and_the_next_one_refused(
    conversation: Conversation, fake: FakeUpstream
) -> None:
    conversation.set(last_seq=tree.MAX_MESSAGES - 1)
    assert conversation.ask()[0] == 200
    assert conversation.texts() == ["Hi", "It is a portico."]
    status, refused = conversation.ask()
    assert (status, refused["error"]["code"]) == (409, "thread_full")
    assert len(fake.requests) == 1
