"""Rate limits are shared by all processes of a machine; losing the file never fails a request."""

import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from models.core.settings import ROOT
from tests.server import running
from views.web import rate_limits
from views.web.rate_limits import MachineStorage

LIMIT = RateLimitItemPerMinute(10)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "data" / "rate_limits.db")


def moving(path: str) -> MovingWindowRateLimiter:
    return MovingWindowRateLimiter(MachineStorage(path=path))


def test_two_share_one_count_and_a_restart_keeps_it(path: str) -> None:
    one, other = moving(path), moving(path)
    assert [limiter.hit(LIMIT, "key") for limiter in (one, other) * 6] == [True] * 10 + [False] * 2
    assert not moving(path).hit(LIMIT, "key")
    assert not moving(path).test(LIMIT, "key")
    assert moving(path).hit(LIMIT, "another")
    reset, remaining = one.get_window_stats(LIMIT, "key")
    assert remaining == 0
    assert 50 < reset - time.time() <= 60
    one.clear(LIMIT, "key")
    assert other.hit(LIMIT, "key")


def test_counts_of_a_sliding_window_fade(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1_800_000_000.0  # a window begins
    monkeypatch.setattr(time, "time", lambda: clock)
    one, other = MachineStorage(path=path), MachineStorage(path=path)
    assert one.acquire_sliding_window_entry("key", 10, 60, 8)
    assert not other.acquire_sliding_window_entry("key", 10, 60, 3)
    assert other.get_sliding_window("key", 60) == (0, 60, 8, 120)
    clock += 90  # half of the first window still counts
    assert other.get_sliding_window("key", 60) == (8, 30, 0, 90)
    assert not one.acquire_sliding_window_entry("key", 10, 60, 7)
    assert one.acquire_sliding_window_entry("key", 10, 60, 6)
    one.clear_sliding_window("key", 60)
    assert other.acquire_sliding_window_entry("key", 10, 60, 10)


def test_a_window_moves(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: clock)
    limiter, second = moving(path), RateLimitItemPerSecond(2)
    assert limiter.hit(second, "key")
    clock += 0.6
    assert limiter.hit(second, "key")
    assert not limiter.hit(second, "key")
    clock += 0.5
    assert limiter.hit(second, "key")
    assert not limiter.hit(second, "key")


def test_fixed_windows_count_too(path: str) -> None:
    limiter = FixedWindowRateLimiter(MachineStorage(path=path))
    assert [limiter.hit(LIMIT, "key") for _ in range(12)] == [True] * 10 + [False] * 2
    assert limiter.storage.check()
    assert limiter.storage.reset()
    assert limiter.hit(LIMIT, "key")


def test_more_than_the_limit_at_once_is_refused_and_not_counted(path: str) -> None:
    limiter = moving(path)
    assert not limiter.hit(LIMIT, "key", cost=11)
    assert limiter.hit(LIMIT, "key", cost=10)
    assert not limiter.hit(LIMIT, "key")


def test_threads_and_processes_at_once_lose_no_count(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "BUSY_SECONDS", 60)
    program = (
        "import sys; from tests.core.test_rate_limits import *\n"
        "rate_limits.BUSY_SECONDS = 60\n"
        "limiter = moving(sys.argv[1])\n"
        "print(sum(limiter.hit(RateLimitItemPerMinute(300), 'key') for _ in range(150)))"
    )
    moving(path).test(LIMIT, "key")
    processes = [
        subprocess.Popen([sys.executable, "-c", program, path], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    own = moving(path)
    with ThreadPoolExecutor(4) as pool:
        passed = sum(pool.map(lambda _: own.hit(RateLimitItemPerMinute(300), "key"), range(150)))
    assert passed + sum(int(process.communicate()[0]) for process in processes) == 300


def test_what_counts_no_longer_is_removed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "CLEANUP_SECONDS", 0)
    storage = MachineStorage(path=path)
    limiter = MovingWindowRateLimiter(storage)
    for number in range(20):
        limiter.hit(RateLimitItemPerSecond(1), str(number))
    time.sleep(1.1)
    limiter.hit(LIMIT, "key")
    assert storage.reset() == 1


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_is_begun_anew(path: str, damage: bytes) -> None:
    Path(path).parent.mkdir()
    Path(path).write_bytes(damage)
    assert [moving(path).hit(LIMIT, "key") for _ in range(11)] == [True] * 10 + [False]


def ask(address: str) -> int:
    request = urllib.request.Request(
        f"{address}/api/auth/cli/code", b'{"fingerprintId": "f"}', {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_file_that_cannot_be_used_stops_no_request(app: Flask, postgres_url: str, tmp_path: Path) -> None:
    """Each worker counts for itself then."""
    (tmp_path / "rate_limits.db").mkdir()
    with running(postgres_url, tmp_path) as address:
        statuses = [ask(address) for _ in range(70)]
    assert statuses[:30] == [200] * 30
    assert 30 <= statuses.count(200) <= 60
    assert set(statuses) == {200, 429}


def test_the_workers_of_a_server_count_together(app: Flask, postgres_url: str, tmp_path: Path) -> None:
    with running(postgres_url, tmp_path) as address:
        assert [ask(address) for _ in range(40)] == [200] * 30 + [429] * 10
    with closing(sqlite3.connect(tmp_path / "rate_limits.db")) as counts, counts:
        # the next may take more than the minute to start that these count
        counts.execute("UPDATE hit SET at = at + 600, until = until + 600")
    with running(postgres_url, tmp_path, workers=1) as address:
        assert ask(address) == 429
