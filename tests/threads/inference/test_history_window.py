"""What of the history is sent: the newest that fit, tool calls with their results, always the new message."""

from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession

from models import threads
from models.core.db import db
from models.gateway import tokens
from models.threads import Thread
from models.threads.history_window import UNANSWERED, HistoryWindow, history_window, room_for_history
from tests.fakes.upstream import FakeUpstream
from tests.threads.inference.conftest import Turns

MODEL = "openai/gpt-5-mini"


def add(thread: Thread, role: str, text: str = "", **more: Any) -> str:
    """The id of a new message at the end."""
    return threads.append(thread, role=role, content=text, **more).id


def call(*ids: str) -> list[dict[str, Any]]:
    function = {"name": "look", "arguments": "{}"}
    return [{"id": id, "type": "function", "function": function} for id in ids]


def window(thread: Thread, room: int) -> HistoryWindow:
    db.session.commit()
    found = db.session.get_one(Thread, thread.id)
    assert found.head_id is not None
    return history_window(found, found.head_id, room, model=MODEL)


def roles(found: HistoryWindow) -> str:
    return "".join(each["role"][0] for each in found.messages)


def test_everything_is_sent_if_it_fits(session: OrmSession, thread: Thread) -> None:
    for number in range(50):
        add(thread, "user", f"question {number}")
        add(thread, "assistant", f"answer {number}")
    add(thread, "user", "last")
    found = window(thread, 100_000)
    assert (len(found.messages), found.dropped) == (101, 0)
    assert found.messages[0]["content"] == "question 0"


@pytest.mark.parametrize("room", [*range(0, 400, 23), 3_000])
def test_pairs_are_whole_and_the_question_is_there(session: OrmSession, thread: Thread, room: int) -> None:
    for number in range(6):
        add(thread, "user", f"question {number} " + "word " * (number * 3))
        add(thread, "assistant", tool_calls=call(f"a{number}", f"b{number}"))
        add(thread, "tool", "seen", tool_call_id=f"a{number}")
        add(thread, "tool", "seen " * 20, tool_call_id=f"b{number}")
        add(thread, "assistant", f"answer {number}")
    add(thread, "user", "the last question")
    total = db.session.get_one(Thread, thread.id).last_seq
    found = window(thread, room)
    assert found.messages[-1]["content"] == "the last question"
    assert found.messages[0]["role"] == "user"
    assert len(found.messages) + found.dropped == total
    owed: list[str] = []
    for each in found.messages:
        if each["role"] == "tool":
            assert owed.pop(0) == each["tool_call_id"]
        else:
            assert not owed
            owed = [one["id"] for one in each.get("tool_calls", ())]
    if len(found.messages) > 1:
        assert tokens.count_messages(found.messages) <= room + 40


def test_calls_without_results_get_one_that_says_so(session: OrmSession, thread: Thread) -> None:
    add(thread, "user", "question")
    add(thread, "assistant", tool_calls=call("a", "b"))
    add(thread, "tool", "seen", tool_call_id="b")
    add(thread, "user", "another")
    found = window(thread, 10_000)
    assert roles(found) == "uattu"
    assert [each["content"] for each in found.messages if each["role"] == "tool"] == [UNANSWERED, "seen"]


def test_what_says_nothing_is_left_out(session: OrmSession, thread: Thread) -> None:
    add(thread, "user", "question")
    add(thread, "assistant", state="incomplete")
    add(thread, "tool", "lost", tool_call_id="nowhere")
    add(thread, "user", "another")
    assert roles(window(thread, 10_000)) == "uu"


def test_a_branch_has_its_own_history(session: OrmSession, thread: Thread) -> None:
    first = add(thread, "user", "question")
    add(thread, "assistant", "one")
    add(thread, "user", "of the first branch")
    threads.append(thread, role="assistant", content="two", parent_id=first)
    add(thread, "user", "of the second branch")
    assert [each["content"] for each in window(thread, 10_000).messages] == [
        *("question", "two", "of the second branch"),
    ]


def test_pictures_have_a_fixed_size(session: OrmSession, thread: Thread) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 500_000}}
    for _ in range(3):
        threads.append(thread, role="user", content=[picture])
    assert len(window(thread, 3_500).messages) == 3
    assert len(window(thread, 2_500).messages) == 2


def test_long_threads_are_not_read_whole(session: OrmSession, thread: Thread) -> None:
    for number in range(600):
        add(thread, "user" if number % 2 == 0 else "assistant", "word " * 50)
    add(thread, "user", "last")
    read: list[int] = []

    def watch(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "thread_message" in statement and "count(" not in statement:
            read.append(cursor.rowcount)

    db.session.commit()
    event.listen(Engine, "after_cursor_execute", watch)
    try:
        found = window(thread, 1_000)
    finally:
        event.remove(Engine, "after_cursor_execute", watch)
    assert 10 < len(found.messages) < 30
    assert len(found.messages) + found.dropped == 601
    assert sum(read) < 60


@pytest.mark.parametrize(
    ("context", "most", "asked", "room"),
    [
        (100_000, None, 1_000, 99_000),
        (100_000, 50_000, None, 95_904),
        (8_000, 8_000, None, 6_000),
        (100_000, 2_000, None, 98_000),
        (None, None, None, 123_904),
        (1_000, None, 5_000, 0),
    ],
)
def test_the_room_is_the_context_less_the_answer(
    context: int | None, most: int | None, asked: int | None, room: int
) -> None:
    assert room - 20 <= room_for_history(context, most, asked, []) <= room
    assert room_for_history(context, most, asked, ["word " * 100]) < room - 100


def test_a_turn_says_what_it_dropped(
    turns: Turns, fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.threads.history_window.DEFAULT_CONTEXT", 500)
    monkeypatch.setattr("models.gateway.route.Route.context_window", None)
    for number in range(20):
        add(turns.thread, "user" if number % 2 == 0 else "assistant", "word " * 50)
        db.session.commit()
    turn = turns.ask("last")
    sent = fake.requests[-1].body["messages"]
    type, data = turns.events(turn)[0]
    assert type == "turn.started"
    assert data == {"dropped_messages": 21 - len(sent)}
    assert data["dropped_messages"] > 10
    assert all(a["role"] != b["role"] for a, b in pairwise(sent))
