"""Event streams of turns: a key, and a person, have a limited number open, and others wait for none of them."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from models import threads
from models.accounts.key_format import present
from models.core.db import db
from models.threads import Thread, TurnRequest
from models.turns import Turn, TurnEngine
from tests.factories import Person
from views.web.open_streams import PERSONS, OpenStreams, TooManyStreams

LIMIT = 2


@pytest.fixture(autouse=True)
def limited(app: Flask, monkeypatch: pytest.MonkeyPatch) -> OpenStreams:
    """A key may have two streams."""
    found = OpenStreams(LIMIT)
    monkeypatch.setitem(app.extensions, "open_streams", found)
    return found


@pytest.fixture
def turn(rich: Person, thread: Thread, turns: TurnEngine) -> str:
    """The id of a turn of alice that waits."""
    asked = threads.ask(
        thread,
        TurnRequest(model="stoa/demo"),
        messages=[{"role": "user", "content": "Hi"}],
        key=present(rich.token),
        owner=turns.owner,
    )
    asked.state, asked.lease_owner, asked.lease_until = "paused", None, None
    db.session.commit()
    return asked.id


Open = Callable[[], Any]


def doors(client: FlaskClient, alice: Person, thread: Thread, turn: str) -> dict[str, Open]:
    """What opens a stream, by door."""
    headers = alice.headers
    return {
        "events": lambda: client.get(f"/api/v1/turns/{turn}/events", headers=headers),
        "begin": lambda: client.post(
            f"/api/v1/threads/{thread.id}/turns",
            json={"content": "Hi", "stream": True, "model": "stoa/demo", "on_busy": "queue"},
            headers=headers,
        ),
        "page": lambda: alice.browser.get(f"/threads/{thread.id}/turns/{turn}/events"),
    }


@pytest.mark.parametrize("door", ["events", "begin", "page"])
def test_more_streams_than_allowed_are_refused_until_one_is_closed(
    client: FlaskClient, alice: Person, thread: Thread, turn: str, limited: OpenStreams, door: str
) -> None:
    key = present(alice.token).id
    held = [limited.room(alice.id, None if door == "page" else key) for _ in range(LIMIT)]
    if door == "page":
        held += [limited.room(alice.id, None) for _ in range((PERSONS - 1) * LIMIT)]
    opened = doors(client, alice, thread, turn)
    before = db.session.scalar(select(func.count()).select_from(Turn))
    refused = opened[door]()
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    if door != "page":
        told = refused.get_data(as_text=True)
        assert door == "events" or "too_many_streams" in told
        assert "streams of this key are open" in told
    db.session.rollback()
    assert db.session.scalar(select(func.count()).select_from(Turn)) == before
    held.pop().close()
    stream = opened[door]()
    assert stream.status_code == 200
    assert opened[door]().status_code == 429
    stream.close()
    assert opened[door]().status_code == 200


def test_what_reads_no_stream_is_not_counted(
    client: FlaskClient, alice: Person, thread: Thread, turn: str
) -> None:
    path = f"/api/v1/turns/{turn}/events"
    for _ in range(3 * LIMIT):
        assert client.head(path, headers=alice.headers).status_code == 200
        assert client.get("/api/v1/turns/turn_unknown/events", headers=alice.headers).status_code == 404
    assert client.get(f"/api/v1/turns/{turn}", headers=alice.headers).status_code == 200
    gc.collect()
    assert client.get(path, headers=alice.headers).status_code == 200


def test_strangers_are_told_nothing_of_it(
    client: FlaskClient, alice: Person, mallory: Person, turn: str, limited: OpenStreams
) -> None:
    held = [limited.room(alice.id, present(alice.token).id) for _ in range(LIMIT)]
    path = f"/api/v1/turns/{turn}/events"
    assert client.get(path, headers=mallory.headers).status_code == 404
    assert client.get(path).status_code == 401
    assert len(held) == LIMIT


def test_one_key_leaves_room_for_the_persons_others(limited: OpenStreams) -> None:
    held = [limited.room("alice", "one") for _ in range(LIMIT)]
    with pytest.raises(TooManyStreams, match="this key"):
        limited.room("alice", "one")
    held += [limited.room("alice", "two") for _ in range(LIMIT)]
    with pytest.raises(TooManyStreams, match="this account"):
        limited.room("alice", "three")
    assert limited.room("mallory", "four")
    held.clear()
    gc.collect()
    assert limited.room("alice", "one")


def test_a_stream_that_fails_leaves_its_room(limited: OpenStreams) -> None:
    def failing() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("broken")

    for _ in range(3 * LIMIT):
        stream = limited.room("alice", "one").stream(failing())
        assert next(stream) == b"a"
        with pytest.raises(RuntimeError):
            next(stream)
        stream.close()
        stream.close()
    limited.room("alice", "one").close()
