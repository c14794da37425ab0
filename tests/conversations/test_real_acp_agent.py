"""A real agent's command in a conversation: Qwen Code, which is installed by `npm install -g @qwen-code/qwen-code`; its calls go to the demo model."""

import shutil
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from models.core.db import db
from models.core.settings import AcpCommand
from models.gateway import GatewayCall
from models.threads import ThreadMessage
from models.turns import Turn
from tests.conversations.acp_commands import answered_by, with_commands
from tests.conversations.talks import FILES, Talk

QWEN = shutil.which("qwen")
pytestmark = pytest.mark.skipif(QWEN is None, reason="Qwen Code (qwen) is not installed")


@pytest.fixture
def qwen(app: Flask, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """A conversation that Qwen Code answers."""
    command = Path(QWEN or "")
    folder = next((each for each in command.resolve().parents if each.name == "node_modules"), command)
    arguments = ("--acp", "--auth-type", "openai", "--approval-mode", "yolo")
    with_commands(
        app,
        monkeypatch,
        stoa_acp_agents=(AcpCommand(name="qwen", command=str(command), args=arguments),),
        stoa_sandbox_paths=(folder.parent,),
    )
    return answered_by("qwen", talk)


def said_by(turn: Turn) -> str:
    query = select(ThreadMessage.text).where(
        ThreadMessage.turn_id == turn.id, ThreadMessage.role == "assistant"
    )
    return "\n".join(db.session.scalars(query.order_by(ThreadMessage.seq)))


def test_it_answers_through_the_turn_and_goes_on_with_its_session(qwen: Talk) -> None:
    turn = qwen.said("What is a pier?")
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert said_by(turn).strip()
    calls = db.session.scalars(select(GatewayCall)).all()
    assert calls
    assert {(each.model, each.run_id) for each in calls} == {("stoa/demo", turn.run_id)}
    assert sum(each.credits or 0 for each in calls) == turn.credits
    session = qwen.found().conversation.agent_session
    turn = qwen.said("And what is a jetty?")
    assert turn.state == "completed", (turn.error_code, turn.error_message)
    assert qwen.found().conversation.agent_session == session
    assert qwen.files() == FILES
