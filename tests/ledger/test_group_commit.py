"""Statements shared by callers of one moment."""

import threading
import time

import pytest

from models.ledger.group_commit import GroupCommit


class Ledger:
    """Answers with the item's double, slowly; what is in `bad` cannot be answered."""

    def __init__(self) -> None:
        self.alone: list[int] = []
        self.together: list[list[int]] = []
        self.bad: set[int] = set()
        self.open = threading.Event()

    def one(self, item: int) -> int:
        self.alone.append(item)
        assert self.open.wait(60)
        if item in self.bad:
            raise ValueError(item)
        return item * 2

    def many(self, items: list[int]) -> list[int]:
        self.together.append(items)
        if self.bad.intersection(items):
            raise ValueError(items)
        return [item * 2 for item in items]


def _ask_all(ask: GroupCommit[int, int], ledger: Ledger, count: int) -> dict[int, int | Exception]:
    found: dict[int, int | Exception] = {}

    def run(item: int) -> None:
        try:
            found[item] = ask(item)
        except ValueError as error:
            found[item] = error

    threads = [threading.Thread(target=run, args=(item,)) for item in range(count)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(ledger.alone) + len(ask._waiting) <= number:
            time.sleep(0.001)
    ledger.open.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_a_single_caller_goes_alone() -> None:
    ledger = Ledger()
    ledger.open.set()
    ask = GroupCommit(ledger.one, ledger.many)
    assert [ask(1), ask(2), ask(3)] == [2, 4, 6]
    assert ledger.together == []


def test_callers_of_one_moment_share_a_statement_and_get_each_their_own_answer() -> None:
    ledger = Ledger()
    ask = GroupCommit(ledger.one, ledger.many, under_way=2, most=8, patience=10)
    assert _ask_all(ask, ledger, 20) == {item: item * 2 for item in range(20)}
    assert ledger.alone[:2] == [0, 1]
    assert sum(map(len, ledger.together)) + len(ledger.alone) == 20
    assert max(map(len, ledger.together)) == 8


def test_a_bad_call_fails_alone() -> None:
    ledger = Ledger()
    ledger.bad = {5}
    ask = GroupCommit(ledger.one, ledger.many, patience=10)
    found = _ask_all(ask, ledger, 12)
    assert isinstance(found.pop(5), ValueError)
    assert found == {item: item * 2 for item in range(12) if item != 5}


def test_the_turn_is_passed_on_when_a_caller_fails() -> None:
    ledger = Ledger()
    ledger.bad = {0}
    ledger.open.set()
    ask = GroupCommit(ledger.one, ledger.many, patience=10)
    for _ in range(3):
        with pytest.raises(ValueError):
            ask(0)
    assert ask(1) == 2


def test_one_that_is_killed_while_it_waits_leaves_the_others_their_turn() -> None:
    ledger = Ledger()
    ask = GroupCommit(ledger.one, ledger.many, patience=10)

    class Killed(BaseException):
        pass

    class Cut(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise Killed

    first = threading.Thread(target=ask, args=(1,))
    first.start()
    while not ledger.alone:
        time.sleep(0.001)
    real = threading.Event
    try:
        threading.Event = Cut  # type: ignore[misc]
        with pytest.raises(Killed):
            ask(2)
    finally:
        threading.Event = real  # type: ignore[misc]
    ledger.open.set()
    first.join(60)
    assert ask(3) == 6
    assert ledger.alone == [1, 3]


def test_nobody_waits_long_behind_a_statement_that_hangs() -> None:
    begun, hanging = threading.Event(), threading.Event()

    def one(item: int) -> int:
        if item == 0:
            begun.set()
            assert hanging.wait(60)
        return item * 2

    ask = GroupCommit(one, lambda items: [item * 2 for item in items], patience=0.05)
    stuck = threading.Thread(target=ask, args=(0,))
    stuck.start()
    assert begun.wait(60)
    found: list[int] = []
    others = [threading.Thread(target=lambda item=item: found.append(ask(item))) for item in (1, 2, 3)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(50)
    assert sorted(found) == [2, 4, 6]
    assert stuck.is_alive()
    hanging.set()
    stuck.join(60)
    assert ask(4) == 8
