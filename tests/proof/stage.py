"""Shared by all proofs: a running server, users with credits, and access to the ledger."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import psutil
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from models import ledger
from models.core.audit_log import SYSTEM
from models.core.db import db, engine_options
from models.core.settings import ROOT, load_settings
from tests import factories
from tests.proof import cast
from tests.proof.cast import DELEGATED, OWN, Person
from tests.proof.upstream import Upstream
from tests.server import living

T = TypeVar("T")

PRICES = '["openai/proof"]\ninput = 0\noutput = 1000\n'
"""A model with an exactly known hold and price: free input, $0.10 per 100 output tokens."""


@dataclass
class Result:
    """A row of the result table."""

    name: str
    summary: str
    """What was run, with counts."""
    observed: str
    """The worst observed values."""
    seconds: float = 0.0
    failure: str = ""
    """Why it failed; empty if it passed."""


class Stage:
    """A server at `address` with the database of `engine` and `upstream` as all providers."""

    def __init__(self, address: str, engine: Engine, upstream: Upstream) -> None:
        self.address = address
        self.engine = engine
        self.upstream = upstream
        self._app = Flask("proof")
        self._app.config["SQLALCHEMY_DATABASE_URI"] = engine.url
        self._app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
            "poolclass": NullPool,
            "connect_args": engine_options(pool_size=1)["connect_args"],
        }
        self._app.extensions["audit_actor"] = lambda: SYSTEM
        self._app.extensions["settings"] = load_settings(database_url=str(engine.url))
        db.init_app(self._app)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """`db.session` on the server's database, in a new application context."""
        with self._app.app_context():
            yield db.session()

    def people(
        self, count: int, credits: int, ways: Sequence[str] = OWN, budgets: Mapping[str, int] | None = None
    ) -> list[Person]:
        """Create users with an API key, a browser session and `credits`, who pay in `ways` in turn, each from another account.
        `budgets`: those of the organisations, as credits by level."""
        people = []
        with self.session():
            for _, way in zip(range(count), cycle(ways), strict=False):
                (person,) = (cast.person(),) if way == "own" else cast.members((way,), budgets or {})
                people.append(person)
                if credits:
                    self.grant(person, credits)
        return people

    def members(
        self, credits: int, ways: Sequence[str] = DELEGATED, budgets: Mapping[str, int] | None = None
    ) -> list[Person]:
        """Create members of one organisation with `credits`, one for each way of paying from it."""
        with self.session():
            people = cast.members(ways, budgets or {})
            self.grant(people[0], credits)
        return people

    def grant(self, person: Person, credits: int, *, own: bool = False, **options: Any) -> None:
        """Grant credits to the account that pays (`own`: to the person's own), and commit. Call within `session()`."""
        account = person.own if own else person.account
        kind = options.pop("type", "purchase")
        operation = factories.new_id("proof-")
        ledger.grant(
            account, credits, "organization" if account.org_id else kind, operation_id=operation, **options
        )
        db.session.commit()

    def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """Query the database. Retries while it is recovering."""

        def query() -> list[Any]:
            with self.engine.connect() as connection:
                return list(connection.execute(text(statement), parameters).all())

        return retry(query)

    def number(self, statement: str, **parameters: Any) -> int:
        return int(self.rows(statement, **parameters)[0][0] or 0)

    def balance(self, person: Person, *, own: bool = False) -> int:
        """Credits of the account that pays; `own`: of the person's own."""
        return self.number(
            "SELECT sum(balance) FROM credit_ledger WHERE coalesce(org_id, user_id) = :id",
            id=person.id if own else person.account.id,
        )

    def calls(self, people: list[Person]) -> list[Any]:
        return self.rows(
            "SELECT request_id, message_id, account_id, user_id, requested_model, state, usage_source, credits, micro_credits,"
            " output_tokens, uncached_input_tokens, cost, client_gone, error"
            " FROM gateway_call WHERE user_id = ANY(:ids)",
            ids=[person.id for person in people],
        )

    def check_payers(self, people: list[Person], *, overspent: int = 0) -> int:
        """Assert that the right accounts paid for the calls, and that no budget is overspent by more than `overspent`; the sums
        are checked by `prove`. Returns how many budgets were spent from."""
        payers = {person.id: person.payers for person in people}
        wrong = [row for row in self.calls(people) if row.account_id not in payers[row.user_id]]
        assert not wrong, f"{len(wrong)} calls of another account, first {wrong[0]}"
        unlike = self.number(
            "SELECT count(*) FROM gateway_call c JOIN message m ON m.id = c.message_id WHERE c.user_id = ANY(:ids)"
            " AND (coalesce(m.org_id, m.user_id) <> c.account_id OR m.org_id IS NOT NULL AND m.paid_by <> ALL(:ways))",
            ids=list(payers),
            ways=list(DELEGATED),
        )
        assert not unlike, f"{unlike} messages do not say who paid"
        spent = self.rows(
            "SELECT b.level, s.subject, b.limit_credits, s.spent FROM budget b JOIN budget_spend s ON s.budget_id = b.id"
            " WHERE b.account_id = ANY(:ids)",
            ids=[person.account.id for person in people],
        )
        over = [row for row in spent if row.spent > row.limit_credits + overspent]
        assert not over, f"{len(over)} budgets are overspent, first {over[0]}"
        return sum(row.spent > 0 for row in spent)

    def live_holds(self) -> int:
        return self.number("SELECT count(*) FROM credit_hold WHERE state = 'live'")

    def wait_for_holds(self, seconds: float = 75.0) -> float:
        """Wait until there are no live holds. Returns the seconds waited."""
        began = time.monotonic()
        while (remaining := self.live_holds()) and time.monotonic() - began < seconds:
            time.sleep(0.1)
        assert not remaining, f"{remaining} live holds after {seconds:g} seconds"
        return time.monotonic() - began

    def prove(self) -> None:
        """Assert that the ledger is consistent and has no live holds."""
        self.wait_for_holds()

        def recount() -> ledger.LedgerProof:
            with self.session():
                return ledger.prove()

        proof = retry(recount)
        assert proof.clean, [(check.name, check.differences[:3]) for check in proof.checks if check.count]


def retry(query: Callable[[], T], seconds: float = 60.0) -> T:
    """Retry a query until PostgreSQL answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return query()
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def settings_for(upstream: Upstream, directory: Path, **more: str) -> dict[str, str]:
    """Environment variables that point every provider to the scripted upstream."""
    prices = directory / "prices.toml"
    prices.write_text(PRICES)
    return {
        "OPENAI_API_KEY": "sk-proof-openai-key",
        "OPENAI_BASE_URL": upstream.url,
        "OPENROUTER_API_KEY": "sk-proof-openrouter-key",
        "OPENROUTER_BASE_URL": upstream.url,
        "STOA_PRICES_FILE": str(prices),
        "STOA_FREE_CREDITS": "0",
        **more,
    }


class Serve:
    """`flask serve` with its own data directory. Its processes can be killed and restarted."""

    def __init__(self, directory: Path, environment: dict[str, str], workers: int) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.data.mkdir()
        (self.data / "demo_seeded").touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(
                ("STOA_", "STRIPE_", "OPENAI_", "OPENROUTER_", "ANTHROPIC_", "GEMINI_", "PROMETHEUS", "PG")
            )
        }
        self.environment = (
            inherited
            | {
                "STOA_DATA_DIR": str(self.data),
                "PORT": str(self.port),
                "STOA_HOST": "127.0.0.1",
                "STOA_WORKERS": str(workers),
                "STOA_DEMO_DELAY_MS": "0",
                "DATABASE_URL": "",
            }
            | environment
        )
        self.workers = workers
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.reaper: threading.Thread | None = None
        self.exited = threading.Event()

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "app:create_app", "serve"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, seconds: float = 180.0) -> float:
        """Wait until the server and its database are ready. Returns the seconds waited."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            assert self.process is not None
            assert self.process.poll() is None, f"flask serve exited:\n{self.log_tail()}"
            with (
                suppress(OSError, ConnectionError),
                urllib.request.urlopen(f"{self.address}/readyz", timeout=3) as answer,
            ):
                if answer.status == 200:
                    return time.monotonic() - began
            time.sleep(0.1)
        raise AssertionError(f"the server was not ready within {seconds:g} seconds:\n{self.log_tail()}")

    def engine(self) -> Engine:
        """A separate engine, connected to the socket of the server's PostgreSQL."""
        lines = (self.data / "postgres" / "postmaster.pid").read_text().splitlines()
        options = engine_options(pool_size=20)
        return create_engine(f"postgresql+psycopg://postgres@/stoa?host={lines[4]}", **options)

    def log_tail(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-4000:]

    # -- processes -------------------------------------------------------------------------------------------

    def web_workers(self) -> list[psutil.Process]:
        """The gunicorn workers: children of the gunicorn masters, which are children of the supervisor."""
        return [process for master in self._masters() for process in master.children()]

    def job_workers(self) -> list[psutil.Process]:
        """The job worker, a child of the supervisor; none while it is started again."""
        assert self.process is not None
        with suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if child.cmdline()[-1:] == ["work"]]
        return []

    def postmaster(self) -> psutil.Process | None:
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            line = (self.data / "postgres" / "postmaster.pid").read_text().splitlines()[0]
            return psutil.Process(int(line))
        return None

    def everything(self) -> list[psutil.Process]:
        return living(self.directory)

    def _masters(self) -> list[psutil.Process]:
        assert self.process is not None
        with suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if "gunicorn" in " ".join(child.cmdline())]
        return []

    def kill_worker(self, pick: Callable[[list[Any]], Any]) -> list[int]:
        with suppress(IndexError, psutil.Error):
            victim = pick(self.web_workers())
            victim.kill()
            return [victim.pid]
        return []

    def kill_postgres(self) -> list[int]:
        main = self.postmaster()
        if main is not None:
            with suppress(psutil.Error):
                main.kill()
        return []

    def kill_all(self, *, postgres: bool) -> list[int]:
        """Kill every process at once, like a power failure; without `postgres`, all but PostgreSQL."""
        victims = [process for process in self.everything() if postgres or process.name() != "postgres"]
        for process in victims:
            with suppress(psutil.Error):
                process.suspend()
        for process in victims:
            with suppress(psutil.Error):
                process.kill()
        assert self.process is not None
        self.process.wait(10)
        psutil.wait_procs(victims, timeout=10)
        return [process.pid for process in victims]

    def stop(self) -> None:
        """Send SIGINT, then kill the processes that remain."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(45)
        remaining = self.everything()
        for process in remaining:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(remaining, timeout=10)
        if self.process is not None:
            self.process.wait(10)


@contextmanager
def serving(upstream: Upstream, *, workers: int = 3, **settings: str) -> Iterator[tuple[Serve, Stage]]:
    """Run `flask serve` in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="stoa-proof-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = Serve(directory, settings_for(upstream, directory, **settings), workers)
        try:
            server.start()
            server.wait_until_ready()
            engine = server.engine()
            try:
                yield server, Stage(server.address, engine, upstream)
            finally:
                engine.dispose()
        finally:
            server.stop()
