"""The fair semaphore serves waiters in order and loses no slot."""

import threading
import time

import pytest

from models.core.pool import FairSemaphore, PoolTimeout


def waiting(fair: FairSemaphore) -> int:
    return len(fair._waiting)


def test_slots_are_granted_in_order_of_arrival() -> None:
    fair = FairSemaphore(1)
    order: list[int] = []

    def acquire(number: int) -> None:
        with fair.slot(10):
            order.append(number)
            time.sleep(0.01)

    threads = [threading.Thread(target=acquire, args=(number,)) for number in range(6)]
    with fair.slot(0):
        for number, thread in enumerate(threads):
            thread.start()
            while waiting(fair) <= number:
                time.sleep(0.001)
    acquire(99)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4, 5, 99]


def test_a_timeout_raises_and_takes_no_slot() -> None:
    fair = FairSemaphore(2)
    with fair.slot(0), fair.slot(0):
        with pytest.raises(PoolTimeout), fair.slot(0.02):
            pass
        with pytest.raises(PoolTimeout), fair.slot(-1):
            pass
        assert waiting(fair) == 0
    with fair.slot(0), fair.slot(0):
        pass


def test_concurrent_timeouts_lose_no_slot() -> None:
    fair = FairSemaphore(3)
    holders: list[int] = []
    counts: list[int] = []

    def contend(number: int) -> None:
        for _ in range(40):
            try:
                with fair.slot(0.001 * (number % 3)):
                    holders.append(number)
                    counts.append(len(holders))
                    time.sleep(0.0005)
                    holders.remove(number)
            except PoolTimeout:
                continue

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(counts) <= 3
    with fair.slot(0), fair.slot(0), fair.slot(0), pytest.raises(PoolTimeout), fair.slot(0):
        pass
