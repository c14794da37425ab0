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

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end: pass

client, server = socket.socketpair()
def serve():
    while data := server.recv(1): server.send(data)
waits = []
def probe():
    while True:
        began = time.monotonic()
        client.send(b"x"); client.recv(1)
        waits.append(time.monotonic() - began)
        gevent.sleep(0.002)

def whole():
    with heavy(1 << 30): work(0.03)
def sliced():
    for _ in in_slices(range(20)): work(0.002)

gevent.spawn(serve); gevent.spawn(probe)
start = time.monotonic()
gevent.joinall([gevent.spawn(whole) for _ in range(40)])
gevent.joinall([gevent.spawn(sliced) for _ in range(15)])
print(len(waits), max(waits), time.monotonic() - start)
"""


def test_other_requests_are_served_between_heavy_steps() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GEVENT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    requests, worst, total = done.stdout.split()
    assert int(requests) > 40
    assert float(worst) < float(total) / 3  # one of the forty takes a fortieth


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
