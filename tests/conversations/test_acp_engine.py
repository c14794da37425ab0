"""Conversations that a command answers by the Agent Client Protocol, in the sandbox."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from models.conversations import ConversationQuestion, start_conversation
from models.conversations.conversation_questions import answer_question, reject_question
from models.conversations.engines.acp_engine import fresh_prompt, tree_path
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.core.settings import AcpCommand
from models.gateway import GatewayCall
from models.runners import LevelUnavailable, levels
from models.runs import AgentRun
from models.threads import ThreadMessage
from models.turns import Turn
from tests.conversations.talks import FILES, Talk

AGENT = (Path(__file__).parents[1] / "fakes" / "plain_acp_agent.py").read_text()
COMMANDS = (
    AcpCommand(
        name="plain", command="python3", args=("agent.py", "resume"), env=("PATH_OF_TIDES", "NOT_SET")
    ),
    AcpCommand(name="absent", command="no-such-agent"),
)


@pytest.fixture
def sandbox(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands; skips where the sandbox does not work."""
    with app.app_context():
        state = levels()["process"]
    if not state.available:
        pytest.skip(f"process: {state.sentence}")
    settings = app.extensions["settings"].model_copy(update={"stoa_acp_agents": COMMANDS})
    monkeypatch.setitem(app.extensions, "settings", settings)


@pytest.fixture
def plain(talk: Talk, sandbox: None) -> Talk:
    """A conversation about a tree with the agent's program in it."""
    return answered_by("plain", Talk(talk.person, talk.engine, {**FILES, "agent.py": AGENT}))


def answered_by(command: str, talk: Talk) -> Talk:
    """A conversation about the same workspace, that the command answers."""
    made = start_conversation(
        talk.caller(), talk.workspace_id, engine="acp", level="process", agent=command, model="stoa/demo"
    )
    db.session.commit()
    talk.id = made.conversation.id
    return talk


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
