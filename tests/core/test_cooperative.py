"""Heavy work runs one at a time and in slices, with other requests in between."""

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

done = 0  # milliseconds of work
def work(ms):
    global done
    end = time.monotonic() + ms / 1000
    while time.monotonic() < end: pass
    done += ms

client, server = socket.socketpair()
def serve():
    while data := server.recv(1): server.send(data)
waits = []  # work done while one request was served
def probe():
    while True:
        before = done
        client.send(b"x"); client.recv(1)
        waits.append(done - before)
        gevent.sleep(0.002)

def whole():
    with heavy(1 << 30): work(30)
def sliced():
    for _ in in_slices(range(20)): work(2)

gevent.spawn(serve); gevent.spawn(probe)
gevent.joinall([gevent.spawn(whole) for _ in range(40)])
gevent.joinall([gevent.spawn(sliced) for _ in range(15)])
print(len(waits), max(waits), done)
"""


def test_other_requests_are_served_between_heavy_steps() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GEVENT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    requests, worst, total = map(int, done.stdout.split())
    assert requests > 20
    assert worst < total / 4


def test_one_heavy_step_runs_at_a_time_and_light_ones_concurrently() -> None:
    running, max_running, light = 0, 0, 0

    def work(size: int) -> None:
        nonlocal running, max_running, light
        with heavy(size):
            if size < HEAVY:
                light += 1
                return
            running += 1
            max_running = max(max_running, running)
            time.sleep(0.01)
            running -= 1

    threads = [threading.Thread(target=work, args=(size,)) for size in (HEAVY, HEAVY - 1) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max_running, light) == (1, 5)


def test_an_error_releases_the_lock() -> None:
    with pytest.raises(ValueError, match="no"), heavy(HEAVY):
        raise ValueError("no")
    with heavy(HEAVY):
        pass


def test_slices_pause_when_they_are_over_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", pauses.append)
    slices = TimeSlices()
    slices.pause()
    assert pauses == []
    clock[0] += SLICE * 2
    slices.pause()
    slices.pause()
    assert pauses == [PAUSE]
    assert list(in_slices("abc")) == ["a", "b", "c"]
