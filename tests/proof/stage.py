"""What every proof needs: a started server, people with credits, and a look at the books."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from models.core.db import db, engine_options
from models.core.settings import ROOT
from models.ledger import Account
from tests import factories
from tests.proof.upstream import Upstream
from tests.server import living

T = TypeVar("T")

PRICES = '["openai/proof"]\ninput = 0\noutput = 1000\n'
"""One model whose hold and price are known to the credit: its input is free, a hundred tokens are $0.10."""


@dataclass(frozen=True)
class Person:
    id: str
    key: str
    cookie: str

    @property
    def account(self) -> Account:
        return Account(user_id=self.id)


@dataclass
class Result:
    """A line of the table."""

    name: str
    ran: str
    """What was done, with counts."""
    worst: str
    """The worst that was seen."""
    seconds: float = 0.0
    wrong: str = ""
    """Why it failed; empty when the proof holds."""


class Stage:
    """A server at `address` on the database of `engine`, whose providers are `upstream`."""

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
        db.init_app(self._app)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """`db.session` on the server's database, in an application context of its own."""
        with self._app.app_context():
            yield db.session()

    def people(self, count: int, credits: int) -> list[Person]:
        """Users with a key, a browser session and `credits`."""
        made = []
        with self.session():
            for _ in range(count):
                user = factories.user(factories.new_id("proof-"))
                person = Person(user.id, factories.token(user), factories.token(user, type="web"))
                made.append(person)
                if credits:
                    self.grant(person, credits)
        return made

    def grant(self, person: Person, credits: int, **options: Any) -> None:
        """A committed grant, within `session()`."""
        kind = options.pop("type", "purchase")
        operation = factories.new_id("proof-")
        ledger.grant(person.account, credits, kind, operation_id=operation, **options)
        db.session.commit()

    def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """Ask the database; waits for one that is recovering."""

        def ask() -> list[Any]:
            with self.engine.connect() as connection:
                return list(connection.execute(text(statement), parameters).all())

        return patiently(ask)

    def number(self, statement: str, **parameters: Any) -> int:
        return int(self.rows(statement, **parameters)[0][0] or 0)

    def balance(self, person: Person) -> int:
        return self.number("SELECT sum(balance) FROM credit_ledger WHERE user_id = :id", id=person.id)

    def calls(self, people: list[Person]) -> list[Any]:
        return self.rows(
            "SELECT request_id, message_id, user_id, requested_model, state, usage_source, credits, micro_credits,"
            " output_tokens, uncached_input_tokens, cost, client_gone, error"
            " FROM gateway_call WHERE user_id = ANY(:ids)",
            ids=[person.id for person in people],
        )

    def live(self) -> int:
        return self.number("SELECT count(*) FROM credit_hold WHERE state = 'live'")

    def quiet(self, seconds: float = 75.0) -> float:
        """Wait until no hold lives; how long that took."""
        began = time.monotonic()
        while (left := self.live()) and time.monotonic() - began < seconds:
            time.sleep(0.1)
        assert not left, f"{left} holds still live after {seconds:g} seconds"
        return time.monotonic() - began

    def prove(self) -> None:
        """The books are clean and no hold lives."""
        self.quiet()

        def recount() -> ledger.LedgerProof:
            with self.session():
                return ledger.prove()

        proof = patiently(recount)
        assert proof.clean, [(check.name, check.differences[:3]) for check in proof.checks if check.count]


def patiently(ask: Callable[[], T], seconds: float = 60.0) -> T:
    """The answer, once PostgreSQL gives one."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def settings_for(upstream: Upstream, place: Path, **more: str) -> dict[str, str]:
    """The environment that leads every provider of a server to the scripted one."""
    prices = place / "prices.toml"
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
    """`flask serve` with a data directory of its own, which can be killed in parts and started again."""

    def __init__(self, place: Path, environment: dict[str, str], workers: int) -> None:
        self.place = place
        self.data = place / "data"
        self.data.mkdir()
        (self.data / "demo_seeded").touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(
                ("STOA_", "OPENAI_", "OPENROUTER_", "ANTHROPIC_", "GEMINI_", "PROMETHEUS", "PG")
            )
        }
        self.environment = (
            kept
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
        self.ended = threading.Event()

    def start(self) -> None:
        with open(self.place / "log", "ab") as log:
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
        """How long it took until the server answered with its database."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            assert self.process is not None
            assert self.process.poll() is None, f"flask serve ended by itself:\n{self.words()}"
            with (
                suppress(OSError, ConnectionError),
                urllib.request.urlopen(f"{self.address}/readyz", timeout=3) as answer,
            ):
                if answer.status == 200:
                    return time.monotonic() - began
            time.sleep(0.1)
        raise AssertionError(f"the server was not ready within {seconds:g} seconds:\n{self.words()}")

    def engine(self) -> Engine:
        """An engine of the proof's own: reads where the server's socket is, and starts nothing."""
        lines = (self.data / "postgres" / "postmaster.pid").read_text().splitlines()
        options = engine_options(pool_size=20)
        return create_engine(f"postgresql+psycopg://postgres@/stoa?host={lines[4]}", **options)

    def words(self) -> str:
        return (self.place / "log").read_text(errors="replace")[-4000:]

    # -- its parts -----------------------------------------------------------------------------------------------

    def web_workers(self) -> list[psutil.Process]:
        """The gunicorn workers: children of a gunicorn that is itself a child of the supervisor."""
        return [process for master in self._masters() for process in master.children()]

    def postmaster(self) -> psutil.Process | None:
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            line = (self.data / "postgres" / "postmaster.pid").read_text().splitlines()[0]
            return psutil.Process(int(line))
        return None

    def everything(self) -> list[psutil.Process]:
        return living(self.place)

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
        """Every process at once, as when the machine loses its power; optionally all but PostgreSQL."""
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
        """Ctrl-C; what is left after that is killed."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(45)
        left = self.everything()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        if self.process is not None:
            self.process.wait(10)


@contextmanager
def serving(upstream: Upstream, *, workers: int = 3, **settings: str) -> Iterator[tuple[Serve, Stage]]:
    """`flask serve` in a place that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="stoa-proof-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        place.chmod(0o755)
        server = Serve(place, settings_for(upstream, place, **settings), workers)
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
