"""Turns at the ledger's connections: first come, first served, and none is lost."""

import threading
import time

import pytest

from models.core.pool import FairSemaphore, PoolTimeout


def waiting(turns: FairSemaphore) -> int:
    return len(turns._waiting)


def test_turns_come_in_the_order_of_asking_and_nobody_passes() -> None:
    turns = FairSemaphore(1)
    order: list[int] = []

    def ask(number: int) -> None:
        with turns.turn(10):
            order.append(number)
            time.sleep(0.01)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    with turns.turn(0):
        for number, thread in enumerate(threads):
            thread.start()
            while waiting(turns) <= number:
                time.sleep(0.001)
    ask(99)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4, 5, 99]


def test_who_waits_too_long_is_told_and_takes_no_turn_with_it() -> None:
    turns = FairSemaphore(2)
    with turns.turn(0), turns.turn(0):
        with pytest.raises(PoolTimeout), turns.turn(0.02):
            pass
        with pytest.raises(PoolTimeout), turns.turn(-1):
            pass
        assert waiting(turns) == 0
    with turns.turn(0), turns.turn(0):
        pass


def test_many_in_a_hurry_lose_no_turn() -> None:
    turns = FairSemaphore(3)
    inside: list[int] = []
    most: list[int] = []

    def hurry(number: int) -> None:
        for _ in range(40):
            try:
                with turns.turn(0.001 * (number % 3)):
                    inside.append(number)
                    most.append(len(inside))
                    time.sleep(0.0005)
                    inside.remove(number)
            except PoolTimeout:
                continue

    threads = [threading.Thread(target=hurry, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    with turns.turn(0), turns.turn(0), turns.turn(0), pytest.raises(PoolTimeout), turns.turn(0):
        pass
