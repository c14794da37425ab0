"""The embedded server: first start, shared use, shutdown, crashes and unusual paths."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from models.core import postgres
from models.core.settings import ROOT
from tests.server import living

USER = """
import sys
from pathlib import Path
from models.core.postgres import embedded_url, release
directory = Path(sys.argv[1])
print(embedded_url(directory), flush=True)
sys.stdin.readline()
print(release(directory), flush=True)
"""


class Other:
    """Another process that uses the server until it is stopped or killed."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def url(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def leave(self) -> bool:
        """Whether this process stopped the server."""
        stopped, _ = self.process.communicate("\n", timeout=100)
        return stopped.strip() == "True"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def _query(url: str, statement: str) -> Any:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchone()[0] if cursor.description else None


def _postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def test_first_use_creates_a_durable_server_and_the_last_process_stops_it(data_dir: Path) -> None:
    url = postgres.embedded_url(data_dir, max_connections=70)
    shown = {
        name: _query(url, f"SHOW {name}")
        for name in ("fsync", "synchronous_commit", "timezone", "max_connections", "listen_addresses")
    }
    assert shown == {
        "fsync": "on",
        "synchronous_commit": "on",
        "timezone": "UTC",
        "max_connections": "70",
        "listen_addresses": "",
    }
    assert _query(url, "SELECT current_database()") == "stoa"
    assert postgres.embedded_url(data_dir) == url
    assert postgres.release(data_dir)
    assert not postgres.is_running(data_dir)
    assert living(data_dir) == []


def test_concurrent_starts_share_one_server_until_both_release_it(data_dir: Path) -> None:
    first, second = Other(data_dir), Other(data_dir)
    assert first.url() == second.url() != ""
    assert not first.leave()
    assert postgres.is_running(data_dir)
    assert second.leave()
    assert not postgres.is_running(data_dir)


def test_a_killed_process_does_not_keep_the_server_running(data_dir: Path) -> None:
    killed = Other(data_dir)
    killed.url()
    killed.kill()
    assert postgres.is_running(data_dir)
    url = postgres.embedded_url(data_dir)
    assert _query(url, "SELECT 1") == 1
    assert postgres.release(data_dir)


def test_a_killed_server_recovers_what_was_committed(data_dir: Path) -> None:
    url = postgres.embedded_url(data_dir)
    _query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    processes = living(data_dir)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as busy:
        busy.execute("SET client_connection_check_interval = 0")
        os.kill(_postmaster(data_dir), signal.SIGKILL)
        again = postgres.embedded_url(data_dir)
    assert _query(again, "SELECT answer FROM kept") == 42
    assert all(_gone(process) for process in processes)
    assert postgres.release(data_dir)


def test_a_pid_file_of_another_process_is_not_trusted(data_dir: Path) -> None:
    postgres.embedded_url(data_dir)
    assert postgres.release(data_dir)
    (data_dir / "postgres" / "postmaster.pid").write_text(
        f"{os.getpid()}\n{data_dir}/postgres\n{int(time.time())}\n5432\n/tmp\n\n0 0\nready\n"
    )
    assert not postgres.is_running(data_dir)
    assert _query(postgres.embedded_url(data_dir), "SELECT 1") == 1
    assert postgres.release(data_dir)


def test_an_interrupted_initialisation_is_repeated(data_dir: Path) -> None:
    half = data_dir / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    assert _query(postgres.embedded_url(data_dir), "SELECT 1") == 1
    assert postgres.release(data_dir)


def test_paths_with_spaces_quotes_and_great_length_work(place: Path) -> None:
    for name in ('it\'s a "data" dir, mine', "long-" + "x" * 120):
        data_dir = place / name
        assert _query(postgres.embedded_url(data_dir), "SELECT 1") == 1
        assert postgres.release(data_dir)


def test_threads_can_start_the_server_concurrently(data_dir: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        urls = set(threads.map(lambda _: postgres.embedded_url(data_dir), range(4)))
    assert len(urls) == 1
    assert postgres.release(data_dir)


def test_a_failed_start_reports_the_server_log(data_dir: Path) -> None:
    postgres.embedded_url(data_dir)
    assert postgres.release(data_dir)
    (data_dir / "postgres" / "postgresql.auto.conf").write_text("shared_buffers = 'lots'\n")
    with pytest.raises(postgres.PostgresError, match="shared_buffers"):
        postgres.embedded_url(data_dir)
    (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(postgres.PostgresError, match="written by PostgreSQL 16"):
        postgres.embedded_url(data_dir)


def test_an_unusable_data_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(postgres.PostgresError, match="STOA_DATA_DIR"):
        postgres.embedded_url(tmp_path / "file" / "data")


def _gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


HELP = """
import sys
from flask.cli import main
for arguments in ([], ["serve"], ["store", "import"]):
    sys.argv = ["flask", *arguments, "--help"]
    try:
        main()
    except SystemExit as ended:
        print(ended.code)
"""


def test_help_starts_no_server(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", HELP],
        cwd=ROOT,
        env=os.environ | {"STOA_DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = result.stdout.splitlines()
    assert lines.count("0") == 3, result.stderr
    assert sum(line.startswith("Usage:") for line in lines) == 3
    assert not (tmp_path / "data" / "postgres").exists()
