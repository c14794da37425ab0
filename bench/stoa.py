"""The server under test: `flask serve` with default settings on a fresh data directory and its embedded PostgreSQL."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from bench.load import Target, request
from models.core import postgres
from models.core.settings import ROOT

MODEL = "openai/gpt-4o"
CREDITS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Stoa:
    """A running server."""

    port: int
    process: psutil.Process
    socket_dir: Path

    def sql(self) -> psycopg.Connection[tuple[object, ...]]:
        """A connection to its database."""
        return psycopg.connect(
            host=str(self.socket_dir), user=postgres.SUPERUSER, dbname=postgres.DATABASE, autocommit=True
        )

    def workers(self) -> list[psutil.Process]:
        """The web workers: children of the gunicorn master."""
        masters = [child for child in self.process.children() if "gunicorn" in " ".join(child.cmdline())]
        return [worker for master in masters for worker in master.children()]

    def memory(self) -> list[int]:
        """Resident memory of each worker, in bytes."""
        return [worker.memory_info().rss for worker in self.workers()]

    def target(self, name: str, keys: list[str], *, stream: bool = False) -> Target:
        """Calls with each of the keys in rotation."""
        requests = [request(MODEL, {"Authorization": f"Bearer {key}"}, stream=stream) for key in keys]
        return Target(name, self.port, requests)


@contextmanager
def running(
    data: Path, upstream_port: int, environment: dict[str, str], *, keep: bool = False
) -> Iterator[Stoa]:
    """Start a server on an empty `data` directory, which is deleted afterwards. `keep`: use and keep the existing one."""
    if not keep:
        shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, exist_ok=True)
    (data / "demo_seeded").write_text("done")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(
            (
                "STOA_",
                "OPENAI_",
                "OPENROUTER_",
                "ANTHROPIC_",
                "GEMINI_",
                "PROMETHEUS",
                "DATABASE",
                "PYTHONDONT",
            )
        )
    }
    settings = {
        "STOA_DATA_DIR": str(data),
        "STOA_HOST": "127.0.0.1",
        "STOA_WORKERS": "2",
        "PORT": str(port),
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream_port}/v1",
        "OPENAI_API_KEY": "sk-bench",
    }
    log = open(data / "serve.log", "wb")  # noqa: SIM115  (closed below)
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app:create_app", "serve"],
        cwd=ROOT,
        env=inherited | settings | environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        _wait(process, port, data)
        pid_file = (data / "postgres" / "postmaster.pid").read_text().splitlines()
        yield Stoa(port, psutil.Process(process.pid), Path(pid_file[4]))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        text = (data / "serve.log").read_text(errors="replace")
        if "Traceback" in text:
            kept_log = data.with_name("serve.log")
            shutil.copy(data / "serve.log", kept_log)
            print(f"The server logged errors: {kept_log}", file=sys.stderr)
        if not keep:
            shutil.rmtree(data, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], port: int, data: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("Stoa did not start:\n" + (data / "serve.log").read_text())
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                if answer.status == 200 and "ready at" in (data / "serve.log").read_text():
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"Stoa was not ready within two minutes; see {data / 'serve.log'}")


def open_accounts(stoa: Stoa, count: int, prefix: str = "bench") -> list[str]:
    """Create `count` users with an API key and credits. Returns the keys."""
    keys = [f"cb-pat-{prefix}-{number:06d}" for number in range(count)]
    hashes = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    with stoa.sql() as connection:
        connection.execute(
            """
            INSERT INTO "user" (id, email, next_quota_reset)
            SELECT %(prefix)s || '-' || n, %(prefix)s || n || '@example.org', now() AT TIME ZONE 'UTC' + interval '20 days'
            FROM generate_series(0, %(last)s) n
            """,
            {"prefix": prefix, "last": count - 1},
        )
        connection.execute(
            """
            INSERT INTO session ("sessionToken", "userId", expires, type, token_hint)
            SELECT hash, %(prefix)s || '-' || (n - 1), now() AT TIME ZONE 'UTC' + interval '1 year', 'pat', 'bench'
            FROM unnest(%(hashes)s::text[]) WITH ORDINALITY AS keys(hash, n)
            """,
            {"prefix": prefix, "hashes": hashes},
        )
        connection.execute(
            """
            SELECT credit_grant(%(prefix)s || '-grant-' || n, %(prefix)s || '-' || n, NULL, %(credits)s::bigint, 'purchase',
                80, 'Bench', NULL, now())
            FROM generate_series(0, %(last)s) n
            """,
            {"prefix": prefix, "last": count - 1, "credits": CREDITS},
        )
        connection.execute("VACUUM ANALYZE")
    return keys


def limit_accounts(stoa: Stoa, prefix: str) -> None:
    """Put five budgets in force for each account that `open_accounts` created with this prefix; none is ever used up."""
    with stoa.sql() as connection:
        connection.execute(
            """
            INSERT INTO budget (account_id, level, period, limit_credits)
            SELECT a.id, b.level, b.period, 1000000000
            FROM credit_account a, (VALUES
                ('account', 'hour'), ('account', 'day'), ('account', 'month'), ('key', 'week'), ('key', 'total')
            ) b (level, period)
            WHERE a.id LIKE %(prefix)s || '-%%'
            """,
            {"prefix": prefix},
        )
        connection.execute("VACUUM ANALYZE")


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """Row counts in the database."""

    settled: int
    failed: int
    messages: int
    rollup_calls: int
    holds: int

    @classmethod
    def read(cls, stoa: Stoa) -> "LedgerCounts":
        """Read the counts."""
        with stoa.sql() as connection:
            row = connection.execute(
                """
                SELECT (SELECT count(*) FROM gateway_call WHERE state = 'settled'),
                    (SELECT count(*) FROM gateway_call WHERE state = 'failed'),
                    (SELECT count(*) FROM message),
                    (SELECT coalesce(sum(calls), 0)::bigint FROM usage_rollup WHERE grain = 'day'),
                    (SELECT count(*) FROM credit_hold)
                """
            ).fetchone()
        assert row is not None
        return cls(*row)  # type: ignore[arg-type]


def prove(data: Path, room: str = "billing") -> str:
    """The last line of `flask billing prove` (or `store prove`) and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app:create_app", room, "prove"],
        cwd=ROOT,
        env=dict(os.environ, STOA_DATA_DIR=str(data)),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return f"{lines[-1] if lines else 'no output'} (code {done.returncode})"
