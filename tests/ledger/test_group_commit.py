"""Group commit of concurrent operations."""

import threading
import time

import pytest

from models.ledger.group_commit import GroupCommit


class Ledger:
    """Doubles items once `open` is set; raises ValueError for items in `bad`."""

    def __init__(self) -> None:
        self.alone: list[int] = []
        self.batches: list[list[int]] = []
        self.bad: set[int] = set()
        self.open = threading.Event()

    def one(self, item: int) -> int:
        self.alone.append(item)
        assert self.open.wait(60)
        if item in self.bad:
            raise ValueError(item)
        return item * 2

    def many(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        if self.bad.intersection(items):
            raise ValueError(items)
        return [item * 2 for item in items]


def _run_all(commit: GroupCommit[int, int], ledger: Ledger, count: int) -> dict[int, int | Exception]:
    found: dict[int, int | Exception] = {}

    def run(item: int) -> None:
        try:
            found[item] = commit(item)
        except ValueError as error:
            found[item] = error

    threads = [threading.Thread(target=run, args=(item,)) for item in range(count)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(ledger.alone) + len(commit._waiting) <= number:
            time.sleep(0.001)
    ledger.open.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_a_single_caller_is_not_batched() -> None:
    ledger = Ledger()
    ledger.open.set()
    commit = GroupCommit(ledger.one, ledger.many)
    assert [commit(1), commit(2), commit(3)] == [2, 4, 6]
    assert ledger.batches == []


def test_concurrent_callers_share_a_statement_and_get_their_own_answers() -> None:
    ledger = Ledger()
    commit = GroupCommit(ledger.one, ledger.many, max_concurrent=2, max_batch=8, max_wait=10)
    assert _run_all(commit, ledger, 20) == {item: item * 2 for item in range(20)}
    assert ledger.alone[:2] == [0, 1]
    assert sum(map(len, ledger.batches)) + len(ledger.alone) == 20
    assert max(map(len, ledger.batches)) == 8


def test_a_bad_call_fails_alone() -> None:
    ledger = Ledger()
    ledger.bad = {5}
    commit = GroupCommit(ledger.one, ledger.many, max_wait=10)
    found = _run_all(commit, ledger, 12)
    assert isinstance(found.pop(5), ValueError)
    assert found == {item: item * 2 for item in range(12) if item != 5}


def test_the_slot_is_released_when_a_caller_fails() -> None:
    ledger = Ledger()
    ledger.bad = {0}
    ledger.open.set()
    commit = GroupCommit(ledger.one, ledger.many, max_wait=10)
    for _ in range(3):
        with pytest.raises(ValueError):
            commit(0)
    assert commit(1) == 2


def test_a_caller_killed_while_waiting_leaves_the_queue() -> None:
    ledger = Ledger()
    commit = GroupCommit(ledger.one, ledger.many, max_wait=10)

    class Killed(BaseException):
        pass

    class Cut(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise Killed

    first = threading.Thread(target=commit, args=(1,))
    first.start()
    while not ledger.alone:
        time.sleep(0.001)
    real = threading.Event
    try:
        threading.Event = Cut  # type: ignore[misc]
        with pytest.raises(Killed):
            commit(2)
    finally:
        threading.Event = real  # type: ignore[misc]
    ledger.open.set()
    first.join(60)
    assert commit(3) == 6
    assert ledger.alone == [1, 3]


def test_callers_do_not_wait_long_behind_a_hanging_statement() -> None:
    begun, hanging = threading.Event(), threading.Event()

    def one(item: int) -> int:
        if item == 0:
            begun.set()
            assert hanging.wait(60)
        return item * 2

    commit = GroupCommit(one, lambda items: [item * 2 for item in items], max_wait=0.05)
    stuck = threading.Thread(target=commit, args=(0,))
    stuck.start()
    assert begun.wait(60)
    found: list[int] = []
    others = [threading.Thread(target=lambda item=item: found.append(commit(item))) for item in (1, 2, 3)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(50)
    assert sorted(found) == [2, 4, 6]
    assert stuck.is_alive()
    hanging.set()
    stuck.join(60)
    assert commit(4) == 8
