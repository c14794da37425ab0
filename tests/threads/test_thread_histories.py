"""Property tests: random histories of one thread against a small model of it, one after the other and from several connections at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from models import threads
from models.core.db import db
from models.core.errors import Conflict, NotFound
from models.ledger import Account
from models.threads import Thread, ThreadMessage
from tests.factories import Person

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "reply", "edit", "root", "select", "delete", "restore"]),
        st.integers(0, 10**6),
    ),
    max_size=15,
)


@dataclass
class Model:
    """The tree as it should be: parents and branches by number, 0 for none."""

    parents: list[int] = field(default_factory=lambda: [0])
    branches: list[int] = field(default_factory=lambda: [0])
    head: int = 0
    deleted: bool = False

    def add(self, parent: int) -> None:
        first = parent != 0 and parent not in self.parents[1:]
        number = len(self.parents)
        self.parents.append(parent)
        self.branches.append(self.branches[parent] if first else number)
        if not first or parent == self.head:
            self.head = number

    def path(self, number: int) -> list[int]:
        found = []
        while number:
            found.append(number)
            number = self.parents[number]
        return found

    def newest_below(self, number: int) -> int:
        return max(each for each in range(1, len(self.parents)) if number in self.path(each))


def check(thread: Thread, model: Model) -> None:
    """Everything that is read of the thread is as in the model."""
    rows = list(
        db.session.scalars(
            select(ThreadMessage).where(ThreadMessage.thread_id == thread.id).order_by(ThreadMessage.seq)
        )
    )
    assert [row.seq for row in rows] == list(range(1, len(model.parents)))
    assert thread.last_seq == len(rows)
    number = {row.id: row.seq for row in rows}
    assert [number.get(row.parent_id or "", 0) for row in rows] == model.parents[1:]
    assert [number[row.branch_id] for row in rows] == model.branches[1:]
    assert number.get(thread.head_id or "", 0) == model.head
    places = threads.siblings(thread, rows)
    for row in rows:
        path = model.path(row.seq)
        assert [each.seq for each in threads.path(thread, row.id)] == path
        assert [each.seq for each in threads.path(thread, row.id, limit=2)] == path[:2]
        assert [each.seq for each in threads.path(thread, before=row.id, limit=3)] == path[1:4]
        assert number[threads.newest_below(thread, row.id)] == model.newest_below(row.seq)
        same = [
            each for each, parent in enumerate(model.parents) if each and parent == model.parents[row.seq]
        ]
        assert places[row.id][:2] == (same.index(row.seq) + 1, len(same))
    if rows:
        shown = model.path(model.head)
        assert [each.seq for each in threads.walk(thread, size=2)] == shown[::-1]
        assert [each.seq for each in threads.path(thread, after=rows[0].id, limit=4)] == sorted(
            each for each in shown if each > 1
        )[:4]


@pytest.fixture
def new_thread(alice: Person) -> Any:
    """A function that makes a thread of alice."""

    def make() -> Thread:
        made = threads.create_thread(alice.id, Account(user_id=alice.id), name="x")
        db.session.commit()
        return made

    return make


def play(thread: Thread, model: Model, step: Step) -> None:
    verb, choice = step
    ids: dict[int, str] = dict(
        tuple(row)
        for row in db.session.execute(
            select(ThreadMessage.seq, ThreadMessage.id).where(ThreadMessage.thread_id == thread.id)
        )
    )
    chosen = choice % len(ids) + 1 if ids else 0
    match verb:
        case "append":
            threads.append(thread, role="user", content="x")
            model.add(model.head)
        case "reply" if ids:
            threads.append(thread, role="assistant", content="x", parent_id=ids[chosen])
            model.add(chosen)
        case "edit" if ids:
            parent = model.parents[chosen]
            threads.append(thread, role="user", content="x", parent_id=ids.get(parent))
            model.add(parent)
        case "root":
            threads.append(thread, role="user", content="x", parent_id=None)
            model.add(0)
        case "select" if ids:
            threads.select_branch(thread, ids[chosen])
            model.head = model.newest_below(chosen)
        case "delete":
            threads.delete_thread(thread)
            model.deleted = True
            with pytest.raises(NotFound):
                threads.own_thread(thread.user_id, thread.account_id, thread.id)
        case "restore":
            if model.deleted:
                threads.restore_thread(thread)
            else:
                with pytest.raises(Conflict):
                    threads.restore_thread(thread)
            model.deleted = False
    db.session.commit()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_any_history_leaves_the_tree_of_the_model(new_thread: Any, steps: list[Step]) -> None:
    thread, model = new_thread(), Model()
    for step in steps:
        play(thread, model, step)
    check(thread, model)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(histories=st.lists(STEPS, min_size=3, max_size=3))
def test_histories_at_once_leave_one_tree(app: Flask, new_thread: Any, histories: list[list[Step]]) -> None:
    """Several connections write to one thread: what is stored is the history that the order of `seq` tells."""
    thread_id = new_thread().id
    start = threading.Barrier(len(histories))

    def run(steps: list[Step]) -> None:
        with app.app_context():
            thread = db.session.get_one(Thread, thread_id)
            start.wait()
            for verb, choice in steps:
                ids = list(
                    db.session.scalars(
                        select(ThreadMessage.id)
                        .where(ThreadMessage.thread_id == thread_id)
                        .order_by(ThreadMessage.seq)
                    )
                )
                chosen = ids[choice % len(ids)] if ids else None
                match verb:
                    case "append":
                        threads.append(thread, role="user", content="x")
                    case "reply" | "edit" | "root":
                        threads.append(thread, role="user", content="x", parent_id=chosen)
                    case "select" if chosen:
                        threads.select_branch(thread, chosen)
                    case "delete":
                        threads.delete_thread(thread)
                db.session.commit()

    with ThreadPoolExecutor(len(histories)) as pool:
        list(pool.map(run, histories))
    db.session.expire_all()
    thread = db.session.get_one(Thread, thread_id)
    rows = list(
        db.session.scalars(
            select(ThreadMessage).where(ThreadMessage.thread_id == thread_id).order_by(ThreadMessage.seq)
        )
    )
    number = {row.id: row.seq for row in rows}
    model = Model()
    for row in rows:
        model.add(number.get(row.parent_id or "", 0))
    assert len(rows) == sum(
        verb in ("append", "reply", "edit", "root") for steps in histories for verb, _ in steps
    )
    if rows:
        head = number[thread.head_id or ""]
        if not any(verb == "select" for steps in histories for verb, _ in steps):
            assert head == model.head
        model.head = head
    check(thread, model)
