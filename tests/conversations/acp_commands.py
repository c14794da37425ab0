"""Commands that speak the Agent Client Protocol, for tests of conversations: the program of one is in the tree."""

from pathlib import Path

import pytest
from flask import Flask

from models.conversations import start_conversation
from models.core.db import db
from models.core.settings import AcpCommand
from models.runners import levels
from tests.conversations.talks import Talk

AGENT = (Path(__file__).parents[1] / "fakes" / "plain_acp_agent.py").read_text()
COMMANDS = (
    AcpCommand(
        name="plain", command="python3", args=("agent.py", "resume"), env=("PATH_OF_TIDES", "NOT_SET")
    ),
    AcpCommand(name="forgetful", command="python3", args=("agent.py",)),
    AcpCommand(name="absent", command="no-such-agent"),
)


def with_commands(app: Flask, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """The application has the commands; skips where the sandbox does not work."""
    with app.app_context():
        state = levels()["process"]
    if not state.available:
        pytest.skip(f"process: {state.sentence}")
    changed = app.extensions["settings"].model_copy(update={"stoa_acp_agents": COMMANDS, **settings})
    monkeypatch.setitem(app.extensions, "settings", changed)


def answered_by(command: str, talk: Talk) -> Talk:
    """A conversation about the same workspace, that the command answers."""
    made = start_conversation(
        talk.caller(), talk.workspace_id, engine="acp", level="process", agent=command, model="stoa/demo"
    )
    db.session.commit()
    talk.id = made.conversation.id
    return talk
