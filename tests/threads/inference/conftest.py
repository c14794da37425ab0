"""Turns of alice's threads, answered by a scripted provider."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models import threads
from models.accounts.key_format import present
from models.assistants.toolbox import Toolbox, open_toolbox
from models.core.db import db
from models.gateway import GatewayCall
from models.threads import Thread, ThreadMessage, TurnRequest
from models.turns import Turn, TurnEngine
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Behaviour, FakeUpstream
from tests.gateway.conftest import fake, fake_server, gateway_app, gateway_settings, web

__all__ = ["fake", "fake_server", "gateway_app", "gateway_settings", "web"]

MODEL = "openai/tiered-model"
USAGE = fakes.usage(10_000, 500)
"""15 credits without the margin."""
CLIENT_TOOL = {
    "type": "function",
    "function": {"name": "ask_user", "description": "Ask", "parameters": {"type": "object"}},
}


def calls(*named: tuple[str, str], text: str = "") -> Behaviour:
    """An answer that calls these tools: an id and a name each."""
    called = [
        {"index": place, "id": id, "type": "function", "function": {"name": name, "arguments": '{"a": 1}'}}
        for place, (id, name) in enumerate(named)
    ]
    events = [
        fakes.chunk({"role": "assistant", "content": text}),
        fakes.chunk({"tool_calls": called}),
        fakes.chunk({}, "tool_calls"),
        fakes.chunk(None, usage=USAGE),
        "[DONE]",
    ]
    return fakes.stream(events)


def says(text: str) -> Behaviour:
    """An answer of text."""
    return fakes.stream(fakes.chunks(text, use=USAGE))


class Turns:
    """Asks in alice's thread, and waits for what becomes of it."""

    def __init__(self, engine: TurnEngine, alice: Person, thread: Thread) -> None:
        self.engine, self.alice, self.thread_id = engine, alice, thread.id

    @property
    def thread(self) -> Thread:
        """The thread as it is now."""
        db.session.rollback()
        return db.session.get_one(Thread, self.thread_id, populate_existing=True)

    def begin(
        self, text: str | None = "What is a stoa?", *, thread: Thread | None = None, **wanted: Any
    ) -> Turn:
        """Begin a turn."""
        options = {key: wanted.pop(key) for key in ("on_busy", "budget", "parent_id") if key in wanted}
        wanted.setdefault("model", MODEL)
        turn = threads.ask(
            thread or self.thread,
            TurnRequest(**wanted),
            messages=[{"role": "user", "content": text}] if text else [],
            key=present(self.alice.token),
            owner=self.engine.owner,
            **options,
        )
        db.session.commit()
        if turn.state == "running":
            self.engine.run(turn.id)
        return turn

    def ask(self, text: str | None = "What is a stoa?", **wanted: Any) -> Turn:
        """Begin a turn, and wait until it ends or waits."""
        return self.after(self.begin(text, **wanted))

    def after(self, turn: Turn | str) -> Turn:
        """The turn when nothing runs any more."""
        id = turn if isinstance(turn, str) else turn.id
        deadline = time.monotonic() + 30
        while True:
            assert self.engine.idle(30)
            db.session.rollback()
            found = db.session.get_one(Turn, id, populate_existing=True)
            # the engine of another application of this process may have taken it
            if found.state != "running" or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def messages(self) -> list[ThreadMessage]:
        """The messages of the thread, in the order in which they were added."""
        db.session.rollback()
        query = select(ThreadMessage).where(ThreadMessage.thread_id == self.thread_id)
        return list(db.session.scalars(query.order_by(ThreadMessage.seq)))

    def events(self, turn: Turn) -> list[tuple[str, Any]]:
        """The types and data of the turn's events."""
        found = []
        for event in self.engine.log.watch(turn.id):
            if event is None:
                break
            found.append((event.type, event.data))
            if event.type in ("turn.requires_action", "turn.paused"):
                break
        return found

    def calls(self) -> Sequence[GatewayCall]:
        """The billed calls."""
        db.session.rollback()
        return db.session.scalars(select(GatewayCall).order_by(GatewayCall.started_at)).all()


@pytest.fixture
def engine_of_turns(gateway_app: Flask) -> TurnEngine:
    found: TurnEngine = gateway_app.extensions["turns"]
    return found


@pytest.fixture
def turns(
    session: OrmSession,
    alice: Person,
    thread: Thread,
    engine_of_turns: TurnEngine,
    web: Any,
    fake: FakeUpstream,
) -> Turns:
    """Turns in alice's thread, who has credits."""
    factories.grant(alice.user, 1_000_000)
    db.session.commit()
    fake.will(says("It is a portico."))
    return Turns(engine_of_turns, alice, thread)


@pytest.fixture
def server_tools(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives every turn these tools of the server, by name."""

    def give(**tools: Callable[[Any], str]) -> None:
        def open(*args: Any) -> Toolbox:
            box = open_toolbox(*args)
            for name in tools:
                box._offer(name, {"type": "function", "function": {"name": name, "parameters": {}}})
            monkeypatch.setattr(
                box, "call", lambda name, arguments, _: tools[name](json.loads(arguments))
            ) if tools else None
            return box

        monkeypatch.setattr("models.threads.turn_setup.open_toolbox", open)

    return give
