"""Heavy work in a process that serves others: one at a time, in slices, with the others between them."""

import subprocess
import sys
import threading
import time

import pytest

from models.core.cooperative import HEAVY, PAUSE, SLICE, TimeSlices, heavy, in_slices
from models.core.settings import ROOT

GEVENT = """
from gevent import monkey; monkey.patch_all()
import socket, time, gevent
from models.core.cooperative import TimeSlices, heavy, in_slices

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end: pass

here, there = socket.socketpair()
def serve():
    while data := there.recv(1): there.send(data)
waits = []
def ask():
    while True:
        began = time.monotonic()
        here.send(b"x"); here.recv(1)
        waits.append(time.monotonic() - began)
        gevent.sleep(0.002)

def whole():
    with heavy(1 << 30): work(0.03)
def sliced():
    for _ in in_slices(range(20)): work(0.002)

gevent.spawn(serve); asking = gevent.spawn(ask)
start = time.monotonic()
gevent.joinall([gevent.spawn(whole) for _ in range(40)])
gevent.joinall([gevent.spawn(sliced) for _ in range(15)])
print(len(waits), max(waits), time.monotonic() - start)
"""


def test_others_are_served_between_forty_heavy_pieces_of_work() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GEVENT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    asked, worst, whole = done.stdout.split()
    assert int(asked) > 40
    assert float(worst) < float(whole) / 3  # one piece takes a fortieth of it


def test_one_heavy_piece_is_done_at_a_time_and_light_ones_whenever() -> None:
    inside, most, light = 0, 0, 0

    def work(size: int) -> None:
        nonlocal inside, most, light
        with heavy(size):
            if size < HEAVY:
                light += 1
                return
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work, args=(size,)) for size in (HEAVY, HEAVY - 1) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, light) == (1, 5)


def test_an_error_ends_its_turn() -> None:
    with pytest.raises(ValueError, match="no"), heavy(HEAVY):
        raise ValueError("no")
    with heavy(HEAVY):
        pass


def test_slices_pause_when_they_are_over_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    moment, pauses = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    monkeypatch.setattr(time, "sleep", pauses.append)
    slices = TimeSlices()
    slices.pause()
    assert pauses == []
    moment[0] += SLICE * 2
    slices.pause()
    slices.pause()
    assert pauses == [PAUSE]
    assert list(in_slices("abc")) == ["a", "b", "c"]
