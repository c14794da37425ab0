"""A turn that is stopped while its provider is silent ends at once, and costs nothing."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select

from models import assistants
from models.core.db import db, extension
from models.gateway.upstream import _open_socket
from models.ledger import Account, CreditHold
from models.turns import Turn
from models.turns.turn_verbs import request_stop
from tests.fakes.upstream import FakeUpstream, hang_up
from tests.threads.inference.conftest import MODEL, Turns


@pytest.fixture
def silence(fake: FakeUpstream) -> Iterator[threading.Event]:
    """The provider says nothing until this is set."""
    over = threading.Event()

    def behave(exchange: Any) -> Any:
        over.wait(30)
        return hang_up(exchange)

    fake.will(behave)
    yield over
    over.set()


def until(found: Callable[[], Any]) -> Any:
    for _ in range(1_000):
        db.session.rollback()
        if result := found():
            return result
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def turn_now() -> Turn | None:
    return db.session.scalars(select(Turn)).one_or_none()


def begin_call(turns: Turns, web: FlaskClient) -> threading.Thread:
    """A call with an assistant, whose client waits."""
    sent = {"name": "Helper", "instructions": "Be brief.", "model": MODEL}
    made = assistants.create_assistant(
        turns.alice.id, Account(user_id=turns.alice.id), sent, extension("settings")
    )
    db.session.commit()
    body = {"agent_id": made.assistant.id, "messages": [{"role": "user", "content": "Hi"}]}
    asking = threading.Thread(
        target=web.post, args=("/v1/chat/completions",), kwargs={"json": body, "headers": turns.alice.headers}
    )
    asking.start()
    return asking


@pytest.mark.parametrize("kind", ["thread", "assistant_call", "response"])
def test_a_stop_does_not_wait_for_the_first_byte(
    turns: Turns, web: FlaskClient, fake: FakeUpstream, silence: threading.Event, kind: str
) -> None:
    asking: threading.Thread | None = None
    if kind == "thread":
        turns.begin()
    elif kind == "assistant_call":
        asking = begin_call(turns, web)
    else:
        body = {"model": MODEL, "input": "Hi", "background": True}
        assert web.post("/v1/responses", json=body, headers=turns.alice.headers).status_code == 200
    until(lambda: fake.requests)
    turn = until(turn_now)
    assert turn.kind == kind
    request_stop(turn)
    db.session.commit()
    assert turns.engine.idle(10)
    assert not silence.is_set()
    if asking is not None:
        asking.join(10)
    found = until(lambda: turn_now() or kind == "assistant_call")
    assert found is True or found.state == "cancelled"
    (call,) = turns.calls()
    assert (call.state, call.error, call.credits) == ("failed", "client_stopped", 0)
    assert db.session.scalar(select(func.count()).select_from(CreditHold)) == 0
    assert len(fake.requests) == 1


def test_opening_a_connection_is_aborted() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        waiting = []
        for _ in range(3):
            # fills the queue of connections that nobody accepts
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(address)
            waiting.append(each)
        aborts: list[Callable[[], None]] = []
        told = threading.Event()

        def opened(abort: Callable[[], None]) -> None:
            aborts.append(abort)
            told.set()

        failed: list[BaseException] = []

        def connect() -> None:
            try:
                _open_socket(address, 60, opened=opened).close()
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        assert told.wait(5)
        time.sleep(0.1)
        aborts[-1]()
        thread.join(10)
        assert failed
        for each in waiting:
            each.close()


def test_a_connection_that_was_aborted_before_is_not_opened() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(OSError, match="aborted"):
            _open_socket(server.getsockname(), 5, opened=lambda abort: abort())
