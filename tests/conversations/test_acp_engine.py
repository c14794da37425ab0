"""Conversations that a command answers by the Agent Client Protocol, in the sandbox."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import select

from models.conversations import ConversationQuestion, kept_homes, start_conversation
from models.conversations.conversation_questions import answer_question, reject_question
from models.conversations.driven_turn import GO_ON
from models.conversations.engines.acp_engine import fresh_prompt, tree_path
from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.gateway import GatewayCall
from models.ledger.ledger import CreditLedger
from models.runners import LevelUnavailable
from models.runs import AgentRun
from models.threads import ThreadMessage
from models.turns import Turn, TurnEvent
from tests.conversations.acp_commands import AGENT, answered_by, with_commands
from tests.conversations.talks import FILES, Talk


@pytest.fixture
def sandbox(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands; skips where the sandbox does not work."""
    with_commands(app, monkeypatch)


@pytest.fixture
def plain(talk: Talk, sandbox: None) -> Talk:
    """A conversation about a tree with the agent's program in it."""
    return answered_by("plain", Talk(talk.person, talk.engine, {**FILES, "agent.py": AGENT}))


def texts(turn: Turn) -> list[str]:
    rows = db.session.scalars(
        select(ThreadMessage)
        .where(ThreadMessage.turn_id == turn.id, ThreadMessage.role == "assistant")
        .order_by(ThreadMessage.seq)
    )
    return "".join(each.text for each in rows).splitlines()


def test_a_command_changes_files_and_pays_by_its_turn(plain: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH_OF_TIDES", "moon")
    turn = plain.said(
        "write docs/a.md One\nedit b.md Two\nmodel What is a pier?\nenv PATH_OF_TIDES\nenv NOT_SET"
    )
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    files = plain.files()
    assert (files["docs/a.md"], files["b.md"]) == ("One\n", "Two\n")
    said = texts(turn)
    assert "PATH_OF_TIDES=moon" in said
    assert "NOT_SET=None" in said
    run = db.session.scalars(select(AgentRun)).one()
    call = db.session.scalars(select(GatewayCall)).one()
    assert (run.agent_id, run.id, call.run_id) == ("acp:plain", turn.run_id, turn.run_id)
    assert turn.credits == call.credits


def test_the_next_turn_goes_on_with_the_session(plain: Talk) -> None:
    plain.said("hello")
    first = plain.found().conversation.agent_session
    assert first is not None
    turn = plain.said("again")
    assert texts(turn) == ["again"]
    assert plain.found().conversation.agent_session == first


def test_the_home_of_a_command_is_kept_for_its_conversation_only(plain: Talk) -> None:
    plain.said("keep login moon")
    assert texts(plain.said("show login")) == ["login: moon"]
    other = answered_by("plain", plain)
    assert texts(other.said("show login")) == ["login: nothing"]


def test_a_prompt_on_another_branch_begins_a_session_that_hears_that_branch(plain: Talk) -> None:
    first = plain.said("one")
    session = plain.found().conversation.agent_session
    turn = plain.said("two", parent_id=first.request["parent_id"])
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert plain.found().conversation.agent_session != session
    again = plain.said("three")
    assert texts(again) == ["three"]


def test_a_home_beyond_its_quota_ends_the_turn_and_is_not_kept(
    app: Flask, plain: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_commands(app, monkeypatch, stoa_agent_home_mb=1)
    turn = plain.said("fill large 3\nwait")
    assert (turn.state, turn.error_code) == ("failed", "agent_failed")
    assert "wrote more to the disk" in (turn.error_message or "")
    assert texts(plain.said("show large")) == ["large: nothing"]


def test_a_sweep_removes_homes_whose_conversation_is_gone(app: Flask, plain: Talk) -> None:
    settings = app.extensions["settings"]
    kept_homes.sweep(settings)  # what other tests left
    plain.said("keep login moon")
    assert kept_homes.sweep(settings) == 0
    db.session.delete(plain.found().conversation)
    db.session.commit()
    assert kept_homes.sweep(settings) == 1
    assert kept_homes.sweep(settings) == 0


@pytest.mark.parametrize(("command", "state"), [("plain", "completed"), ("forgetful", "failed")])
def test_a_turn_whose_worker_died_goes_on_with_its_session_or_is_given_back(
    plain: Talk, command: str, state: str
) -> None:
    talk = answered_by(command, plain)
    turn = talk.begin("edit kept.md Kept\nmodel What is a pier?\nwait")
    once_said(turn, "pier")
    handle = talk.engine._handles[turn.id]
    handle.lose()
    assert talk.engine.idle(60)
    db.session.rollback()
    turn = db.session.get_one(Turn, turn.id, populate_existing=True)
    turn.lease_owner, turn.lease_until = "gone:1:x", now() - timedelta(seconds=1)
    db.session.commit()
    talk.engine.tick()
    turn = talk.ended(turn)
    assert turn.state == state, (turn.error_code, turn.error_message)
    assert talk.files()["kept.md"] == "Kept\n"
    cost = sum(db.session.scalars(select(GatewayCall.credits).where(GatewayCall.run_id == turn.run_id)))
    assert turn.credits == cost
    returned = select(CreditLedger.principal).where(CreditLedger.operation_id == f"returned-{turn.id}")
    assert db.session.scalar(returned) == (cost or None if state == "failed" else None)
    if state == "completed":
        assert GO_ON in texts(turn)
    else:
        assert turn.error_code == "worker_died"


def once_said(turn: Turn, words: str) -> None:
    """Wait until the answer has these words."""
    pieces = select(TurnEvent.data["text"].astext).where(
        TurnEvent.turn_id == turn.id, TurnEvent.type == "text.delta"
    )
    end = time.monotonic() + 60
    while words not in "".join(db.session.scalars(pieces)):
        assert time.monotonic() < end
        db.session.rollback()
        time.sleep(0.1)


def while_it_runs(plain: Talk, prompt: str, act: Callable[[Turn], bool]) -> Turn:
    """Begin a turn, and try `act` until it did something."""
    turn = plain.begin(prompt)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        db.session.rollback()
        if act(turn):
            break
        time.sleep(0.2)
    return plain.ended(turn)


@pytest.mark.parametrize(
    ("given", "said"), [("Allow", "answer: y"), ("Reject", "answer: n"), (None, "answer: cancelled")]
)
def test_a_permission_is_asked_of_the_person(plain: Talk, given: str | None, said: str) -> None:
    def act(turn: Turn) -> bool:
        question = db.session.scalar(select(ConversationQuestion).where(ConversationQuestion.state == "open"))
        if question is None:
            return False
        assert question.kind == "permission"
        assert [each["label"] for each in question.questions[0]["options"]] == ["Allow", "Reject"]
        if given is None:
            reject_question(plain.found(), question.id, owner=plain.engine.owner)
        else:
            answer_question(plain.found(), question.id, [[given]], owner=plain.engine.owner)
        db.session.commit()
        return True

    turn = while_it_runs(plain, "ask Run the tests?", act)
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert texts(turn) == [said]


def test_a_stopped_turn_keeps_what_the_agent_changed(plain: Talk) -> None:
    from models.turns.turn_verbs import request_stop

    def act(turn: Turn) -> bool:
        found = db.session.scalar(
            select(ThreadMessage.id).where(ThreadMessage.turn_id == turn.id, ThreadMessage.role == "tool")
        )
        if found is None:
            return False
        request_stop(db.session.get_one(Turn, turn.id))
        db.session.commit()
        return True

    turn = while_it_runs(plain, "edit kept.md Kept\nwait", act)
    assert turn.state == "cancelled", (turn.error_code, turn.error_message)
    assert plain.files()["kept.md"] == "Kept\n"


def test_an_agent_that_ends_early_fails_the_turn_and_keeps_its_work(plain: Talk) -> None:
    turn = plain.said("edit kept.md Kept\ncrash")
    assert (turn.state, turn.error_code) == ("failed", "agent_failed")
    assert turn.error_message == "The agent ended before it had answered."
    assert plain.files()["kept.md"] == "Kept\n"


def test_a_command_that_is_not_in_the_sandbox_says_so(talk: Talk, sandbox: None) -> None:
    absent = answered_by("absent", talk)
    turn = absent.said("hello")
    assert (turn.state, turn.error_code) == ("failed", "agent_failed")
    assert "'no-such-agent' is not in the sandbox" in (turn.error_message or "")


def test_another_level_or_command_is_refused(talk: Talk, sandbox: None) -> None:
    for more, error in (
        ({"level": "virtual", "agent": "plain"}, LevelUnavailable),
        ({"level": "process", "agent": "other"}, Invalid),
        ({"level": "process", "agent": None}, Invalid),
    ):
        with pytest.raises(error):
            start_conversation(talk.caller(), talk.workspace_id, engine="acp", **more)  # type: ignore[arg-type]
        db.session.rollback()


@pytest.mark.parametrize("path", ["/etc/passwd", "/workshop/a", "/", "/work"])
def test_paths_outside_of_the_tree_are_refused(path: str) -> None:
    with pytest.raises(NotFound):
        tree_path(path)


def test_a_new_session_hears_what_was_said_before() -> None:
    history = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "tool", "content": "no"},
        {"role": "assistant", "content": None},
    ]
    assert fresh_prompt("Rules", history, "Three") == (
        "Rules\n\n---\n\nWhat was said before:\n\nPerson: One\n\nYou: Two\n\n---\n\nThree"
    )
    assert fresh_prompt("", [], "Three") == "Three"
