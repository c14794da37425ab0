"""Budgets, pauses, the loop guard and stops: the same for each engine of conversations, and paid once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from models.conversations import ConversationQuestion, TimelineItem, start_conversation
from models.conversations.conversation_questions import answer_question, reject_question
from models.conversations.turn_control import resume_conversation, stop_conversation
from models.core.db import db
from models.gateway import GatewayCall
from models.gateway.demo_model import DemoModel
from models.ledger import CreditHold
from models.runs import AgentRun
from models.threads import Thread, ThreadMessage
from models.turns import Turn
from tests import factories
from tests.conversations.acp_commands import AGENT, answered_by, with_commands
from tests.conversations.talks import FILES, Talk

EDIT = "In README.md replace 'Twelve' with 'Twenty'."
READ = "Read README.md. "
WORDS = "columns " * 400


@dataclass(frozen=True)
class Prompts:
    """What to say for what is to happen: a change and a model call, a loop after a change, and a long answer after a change."""

    work: str
    loop: str
    long: str


WORDY = Prompts(f"{EDIT} {WORDS}", f"{EDIT} {READ * 3}", f"{EDIT} Then write 5 pages.")
TOLD = Prompts(
    f"edit README.md Twenty\nmodel {WORDS}",
    "edit README.md Twenty\nrun make\nrun make\nrun make\nwait",
    "edit README.md Twenty\nwait",
)


@pytest.fixture(params=["builtin", "store", "acp"])
def answered(request: pytest.FixtureRequest, app: Flask, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A conversation that the engine answers, and what to say to it."""
    name = request.param
    if name == "builtin":
        return talk, WORDY
    if name == "acp":
        with_commands(app, monkeypatch)
        return answered_by("plain", Talk(talk.person, talk.engine, {**FILES, "agent.py": AGENT})), TOLD
    harbor = factories.publisher(talk.person.user, "harbor")
    tools = ["read_files", "str_replace", "write_file"]
    factories.agent_version(
        harbor, "mason", "1.0.0", {"displayName": "M", "model": "stoa/demo", "toolNames": tools}
    )
    made = start_conversation(talk.caller(), talk.workspace_id, engine="store", agent="harbor/mason")
    db.session.commit()
    talk.id = made.conversation.id
    return talk, WORDY


def resumed(talk: Talk, turn: Turn, budget: int) -> Turn:
    db.session.get_one(Thread, talk.found().thread.id).budget = budget
    resume_conversation(talk.found(), talk.engine.owner)
    db.session.commit()
    talk.engine.run(turn.id)
    return talk.ended(turn)


def question(turn: Turn) -> ConversationQuestion:
    query = select(ConversationQuestion).where(ConversationQuestion.turn_id == turn.id)
    return db.session.scalars(query.order_by(ConversationQuestion.created_at.desc()).limit(1)).one()


def states() -> list[str]:
    return list(db.session.scalars(select(TimelineItem.state)))


def paid_once(talk: Talk, turn: Turn) -> None:
    """The turn, its run and the budget of its conversation say what the ledger has; nothing is held."""
    calls = db.session.scalars(select(GatewayCall).where(GatewayCall.state == "settled")).all()
    cost = sum(each.credits or 0 for each in calls)
    thread = db.session.get_one(Thread, talk.found().thread.id)
    [run] = db.session.scalars(select(AgentRun)).all()
    assert {each.run_id for each in calls} <= {turn.run_id}
    assert (turn.credits, thread.spent, thread.reserved, run.id) == (cost, cost, 0, turn.run_id)
    assert db.session.scalars(select(CreditHold)).all() == []


def once(turn: Turn, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        db.session.rollback()
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come so far")


@pytest.mark.usefixtures("proved")
def test_a_budget_that_is_used_up_pauses_and_a_raised_one_ends_the_work(answered: Any) -> None:
    talk, say = answered
    db.session.get_one(Thread, talk.found().thread.id).budget = 0
    db.session.commit()
    turn = talk.said(say.work)
    assert (turn.state, turn.error_code) == ("paused", "budget_exceeded"), turn.error_message
    assert states() == []
    turn = resumed(talk, turn, 5_000)
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert "Twenty" in talk.files()["README.md"]
    assert states() == ["completed"]
    paid_once(talk, turn)


@pytest.mark.usefixtures("proved")
def test_a_budget_too_small_for_a_call_pauses_with_what_was_done(answered: Any) -> None:
    talk, say = answered
    db.session.get_one(Thread, talk.found().thread.id).budget = 1
    db.session.commit()
    turn = talk.said(say.work)
    assert (turn.state, turn.error_code) == ("paused", "budget_exceeded"), turn.error_message
    assert db.session.get_one(Thread, talk.found().thread.id).reserved == (turn.credits or 0)
    turn = resumed(talk, turn, 5_000)
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert "Twenty" in talk.files()["README.md"]
    assert states() == ["completed"]
    paid_once(talk, turn)


@pytest.mark.usefixtures("proved")
def test_the_same_call_three_times_pauses_and_an_answer_lets_it_go_on(answered: Any) -> None:
    talk, say = answered
    turn = talk.said(say.loop)
    asked = question(turn)
    assert (turn.state, turn.error_code, asked.kind) == ("paused", "loop_guard", "loop_guard")
    assert "3 times in a row" in asked.questions[0]["question"]
    reply = answer_question(talk.found(), asked.id, [["Be done."]], owner=talk.engine.owner)
    db.session.commit()
    assert reply.resumed
    talk.engine.run(turn.id)
    turn = talk.ended(turn)
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    rows = select(ThreadMessage.role, ThreadMessage.text).where(ThreadMessage.turn_id == turn.id)
    said = [tuple(row) for row in db.session.execute(rows.order_by(ThreadMessage.seq))]
    assert ("user", "Be done.") in said
    if say is TOLD:
        assert said[-1] == ("assistant", "Be done.\n")
    assert states() == ["completed"]
    paid_once(talk, turn)


def test_the_words_of_a_change_name_the_commands_that_ran(answered: Any) -> None:
    talk, say = answered
    if say is WORDY:
        pytest.skip("the level virtual runs none: test_process_conversations.py")
    turn = talk.said("edit a.md A\nedit b.md B\nrun ls\nrun make all\nfail make test\nrun  git   diff")
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    [item] = db.session.scalars(select(TimelineItem))
    assert item.summary == (
        "2 files changed: a.md added, b.md added."
        " Ran one more command, then make all (done), make test (failed), git diff (done)."
    )


def test_no_answer_to_the_loop_guard_ends_the_turn_with_its_work(answered: Any) -> None:
    talk, say = answered
    turn = talk.said(say.loop)
    assert reject_question(talk.found(), question(turn).id, owner=talk.engine.owner).resumed
    db.session.commit()
    talk.engine.run(turn.id)
    assert talk.ended(turn).state == "cancelled"
    assert states() == ["cancelled"]
    assert "Twenty" in talk.files()["README.md"]


@pytest.mark.usefixtures("proved")
def test_a_stop_ends_it_soon_and_keeps_what_was_done(
    app: Flask, answered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk, say = answered
    monkeypatch.setattr(app.extensions["gateway"].routes.demo, "upstream", DemoModel(0.05))
    turn = talk.begin(say.long)
    changed = select(ThreadMessage.id).where(ThreadMessage.turn_id == turn.id, ThreadMessage.role == "tool")
    once(turn, lambda: db.session.scalar(changed) is not None)
    assert stop_conversation(talk.found(), talk.engine.owner) is not None
    db.session.commit()
    turn = talk.ended(turn)
    assert turn.state == "cancelled", (turn.error_code, turn.error_message)
    assert states() == ["cancelled"]
    assert "Twenty" in talk.files()["README.md"]
    assert stop_conversation(talk.found(), talk.engine.owner) is None
    paid_once(talk, turn)
