"""Trees of messages: the branch rule, the head, paths, siblings and limits."""

from typing import Any

import pytest

from models import threads
from models.core.db import db
from models.core.errors import Conflict, Invalid, NotFound
from models.ledger import Account
from models.threads import Thread, ThreadMessage, tree
from tests.factories import Person


def say(thread: Thread, text: str, **kw: Any) -> ThreadMessage:
    message = threads.append(thread, role=kw.pop("role", "user"), content=text, **kw)
    db.session.commit()
    return message


def texts(messages: Any) -> list[str]:
    return [message.text for message in messages]


def test_messages_follow_each_other_on_one_branch(thread: Thread) -> None:
    question = say(thread, "question")
    answer = say(thread, "answer", role="assistant")
    assert (question.seq, answer.seq, thread.last_seq) == (1, 2, 2)
    assert answer.parent_id == question.id
    assert question.branch_id == answer.branch_id == question.id
    assert thread.head_id == answer.id
    assert texts(threads.path(thread)) == ["answer", "question"]


def test_an_edit_begins_a_branch_and_loses_nothing(thread: Thread) -> None:
    say(thread, "1")
    two = say(thread, "2", role="assistant")
    old = say(thread, "3")
    below = say(thread, "4", role="assistant")
    edited = say(thread, "3, edited", parent_id=two.id)
    assert edited.branch_id == edited.id
    assert texts(threads.path(thread)) == ["3, edited", "2", "1"]
    assert texts(threads.path(thread, below.id)) == ["4", "3", "2", "1"]
    assert threads.siblings(thread, [old, edited, below]) == {
        old.id: (1, 2, None, edited.id),
        edited.id: (2, 2, old.id, None),
        below.id: (1, 1, None, None),
    }


def test_what_is_shown_stays_while_another_branch_goes_on(thread: Thread) -> None:
    first = say(thread, "first")
    hidden = say(thread, "hidden", role="assistant")
    shown = say(thread, "shown", role="assistant", parent_id=first.id)
    end = say(thread, "goes on", parent_id=hidden.id)
    assert thread.head_id == shown.id
    assert end.branch_id == hidden.branch_id == first.id
    assert threads.select_branch(thread, hidden.id) == thread.head_id == end.id
    assert threads.select_branch(thread, first.id) == end.id, "the newest below"
    assert threads.select_branch(thread, shown.id) == shown.id


def test_the_first_message_can_be_edited(thread: Thread) -> None:
    first = say(thread, "first")
    other = say(thread, "other", parent_id=None)
    assert texts(threads.path(thread)) == ["other"]
    assert threads.siblings(thread, [first])[first.id] == (1, 2, None, other.id)


def test_newest_below_crosses_branches_within_branches(thread: Thread) -> None:
    root = say(thread, "root")
    a = say(thread, "a")
    b = say(thread, "b", parent_id=root.id)
    c = say(thread, "c", parent_id=b.id)
    d = say(thread, "d", parent_id=b.id)
    e = say(thread, "e", parent_id=c.id)
    assert [threads.newest_below(thread, each.id) for each in (root, a, b, c, d, e)] == [
        *(e.id, a.id, e.id, e.id, d.id, e.id)
    ]


def test_pages_of_a_path(thread: Thread) -> None:
    messages = [say(thread, str(number)) for number in range(7)]
    say(thread, "other", parent_id=messages[2].id)
    head = messages[6].id
    assert texts(threads.path(thread, head, limit=3)) == ["6", "5", "4"]
    assert texts(threads.path(thread, before=messages[4].id, limit=3)) == ["3", "2", "1"]
    assert texts(threads.path(thread, before=messages[1].id, limit=3)) == ["0"]
    assert texts(threads.path(thread, before=messages[0].id)) == []
    assert texts(threads.path(thread, head, after=messages[3].id, limit=2)) == ["4", "5"]
    assert texts(threads.path(thread, after=messages[3].id)) == ["other"], "of the branch that is shown"


@pytest.mark.parametrize(
    ("role", "content"),
    [
        ("robot", "x"),
        ("user", "NUL \0"),
        ("user", "lone \ud800"),
        ("user", "x" * (1 << 20)),
        ("user", [{"type": "text", "text": "x"}] * 1_001),
        *(
            ("user", [part])
            for part in (
                1,
                {},
                {"type": "text"},
                {"type": "text", "text": 1},
                {"type": "video", "text": "x"},
                {"type": "image_url", "image_url": "x"},
                {"type": "file", "document_id": None},
            )
        ),
    ],
)
def test_what_cannot_be_stored_is_refused(thread: Thread, role: str, content: Any) -> None:
    with pytest.raises(Invalid):
        threads.append(thread, role=role, content=content)
    assert threads.path(thread) == []


def test_parts_are_kept_and_their_text_is_searched(thread: Thread) -> None:
    parts = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "file", "document_id": "file-1", "name": "a.pdf"},
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "here"},
    ]
    message = threads.append(thread, role="user", content=parts)
    assert message.content == parts
    assert message.text == "Look:\nhere"


def test_a_parent_of_another_thread_is_not_found(thread: Thread, alice: Person) -> None:
    other = threads.create_thread(alice.id, Account(user_id=alice.id), name="Other")
    stranger = say(other, "x")
    for parent in (stranger.id, "msg_none", "\0"):
        with pytest.raises(NotFound):
            threads.append(thread, role="user", content="x", parent_id=parent)


def test_a_full_thread_says_so(thread: Thread) -> None:
    thread.last_seq = tree.MAX_MESSAGES
    db.session.commit()
    with pytest.raises(Conflict, match="100,000"):
        threads.append(thread, role="user", content="x")


def test_own_threads_only(thread: Thread, alice: Person, mallory: Person) -> None:
    assert threads.own_thread(alice.id, alice.id, thread.id) == thread
    for user, account, id in (
        (mallory.id, mallory.id, thread.id),
        (alice.id, mallory.id, thread.id),
        (alice.id, alice.id, "thrd_none"),
        (alice.id, alice.id, "\0"),
    ):
        with pytest.raises(NotFound):
            threads.own_thread(user, account, id)
    threads.delete_thread(thread)
    with pytest.raises(NotFound):
        threads.own_thread(alice.id, alice.id, thread.id)
    assert threads.own_thread(alice.id, alice.id, thread.id, deleted=True).deleted_at


def test_a_message_in_progress_is_filled(thread: Thread) -> None:
    message = threads.append(thread, role="assistant", content="", state="in_progress")
    assert message.completed_at is None
    threads.fill(message, content="done", finish_reason="stop", credits=3)
    db.session.commit()
    shown = threads.message_json(message)
    assert (shown["state"], shown["credits"], shown["content"]) == (
        *("completed", 3),
        [{"type": "text", "text": "done"}],
    )
    assert shown["completed_at"].endswith("Z")
