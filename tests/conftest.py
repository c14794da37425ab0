"""Shared fixtures: an embedded PostgreSQL migrated by Alembic, the application, a client, and the cast.

A test that uses `session` or one of the cast runs in an application context: domain functions use `db.session`, and
`session` is the same session. A thread needs its own context:

    with app.app_context():
        bans.ban(db.session.get_one(User, id), None, now())
        db.session.commit()
"""

import gc

gc.disable()  # until all tests are collected

import os
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from hypothesis import HealthCheck
from hypothesis import settings as property_settings
from psycopg.errors import DeadlockDetected
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession

from app import create_app
from models.core.db import db, engine_options
from models.core.postgres import embedded_url, release
from models.core.settings import Settings, load_settings
from models.deployments import site_traffic
from models.gateway.refused_calls import RefusedCalls
from models.orgs import Org
from tests import described, factories, lock_order
from tests.chromium import chromium, open_page
from tests.factories import Person
from tests.fakes.localstripe import localstripe, localstripe_server
from tests.fakes.stripe_simulator import stripe_server, stripe_sim
from tests.fakes.webhook import webhook
from tests.server import wait_for_requests

lock_order.watch()
site_traffic.FLUSH_SECONDS = 3_600.0  # what one test counted disturbs no other

# 200 ms for an example, the default, are not enough for a busy machine
property_settings.register_profile(
    "patient", property_settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
property_settings.load_profile("patient")

# one browser for all tests: Playwright can start only once per process; and doubles of Stripe
__all__ = [
    "chromium",
    "localstripe",
    "localstripe_server",
    "open_page",
    "stripe_server",
    "stripe_sim",
    "webhook",
]


def _use_memory_for_temporary_files() -> None:
    """Put temporary files, and with them the data directories of all servers, into memory where there is enough: creating and
    removing a database cluster on a disk takes three times as long. TMPDIR overrides it."""
    memory = Path("/dev/shm")
    if "TMPDIR" not in os.environ and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


_use_memory_for_temporary_files()


LONGEST = (
    "proof/test_proof_of_calls.py",
    "house/test_migrations.py",
    "core/test_slow_clients.py",
    "core/test_serve.py",
    "clients/test_launcher_commands.py",
    "proof/test_proof_of_crashes.py",
    "web/test_look_in_browser.py",
    "gateway/test_server.py",
    "core/test_postgres.py",
    "core/test_rate_limits.py",
    "clients/test_codebuff_sdk.py",
    "gateway/test_unsettled.py",
    "core/test_settings.py",
)
"""The files that take longest, most of it in servers that they start, and in time-outs that they wait for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then those with few tests: they start servers and browsers. pytest-xdist distributes
    whole files in this order, so none of them is left for the end."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    if gone := [str(path) for path in ranks if not path.exists()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names files that are gone: {gone}")
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: (ranks.get(item.path, len(ranks)), sizes[item.path]))


def pytest_collection_finish() -> None:
    """Exempt the loaded modules and the collected tests from garbage collection, and collect more rarely: a full collection
    took half a second, and all of them a quarter of the processor time of small tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A private PostgreSQL server for this pytest process, or the empty database at STOA_TEST_DATABASE_URL."""
    given = os.environ.get("STOA_TEST_DATABASE_URL")
    if given:
        yield given
        return
    directory = Path(tempfile.mkdtemp(prefix="stoa-test-"))
    url = embedded_url(directory, max_connections=300)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for durable in ("fsync", "synchronous_commit", "full_page_writes", "wal_compression"):
            connection.exec_driver_sql(f"ALTER SYSTEM SET {durable} = off")
        connection.exec_driver_sql("ALTER SYSTEM SET max_wal_size = '256MB'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    engine.dispose()
    yield url
    release(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Test settings: nothing from the environment, no provider keys."""
    return load_settings(
        _env_file=None,
        stoa_data_dir=tmp_path_factory.mktemp("data"),
        stoa_secret_key="test-secret-test-secret-test-secret-test",
        stoa_base_url="http://localhost:8000",
        stoa_admins="root@example.org",
        stoa_auditors="auditor@example.org",
        stoa_demo_delay_ms=0,
        stoa_failed_keys_per_minute=0,
    )


@pytest.fixture(scope="session")
def app(postgres_url: str, settings: Settings) -> Iterator[Flask]:
    """The application on a database migrated from empty to head."""
    from flask_migrate import upgrade

    app = create_app(settings, database_url=postgres_url)
    app.config["TESTING"] = True
    app.config["PROPAGATE_EXCEPTIONS"] = False
    with app.app_context():
        upgrade()
    yield app
    with app.app_context():
        db.engine.dispose()
    app.extensions["gateway"].pool.close()


@pytest.fixture(scope="session")
def engine(app: Flask, postgres_url: str) -> Iterator[Engine]:
    """An engine for the test, separate from the application's. It does not ping its connections: that took a twentieth of
    tests that make no requests."""
    engine = create_engine(postgres_url, **engine_options(pool_size=60) | {"pool_pre_ping": False})
    yield engine
    engine.dispose()


STREAM_SECONDS = 5.0

FilledTables = Callable[[], Sequence[str]]


@pytest.fixture(scope="session")
def filled_tables(app: Flask, postgres_url: str) -> Iterator[FilledTables]:
    """A function that returns the names of all tables with rows.

    Its connection is its own, so that the plan of its statement stays cached: planning takes ten times as long as running
    it, and setting session_replication_role discards all plans of a connection. It is prepared in SQL and run by its name,
    because sending 10 kB took longer than everything else.
    """
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT", **engine_options(pool_size=1))
    with engine.connect() as connection:
        probe = connection.execute(
            text(
                "SELECT string_agg(format('SELECT ''%1$I.%2$I'' WHERE EXISTS (SELECT FROM %1$I.%2$I)',"
                " schemaname, tablename), ' UNION ALL ') FROM pg_tables"
                " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            )
        ).scalar_one()
    engine.dispose()

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.execute(f"PREPARE filled_tables AS {probe}")

    def filled() -> Sequence[str]:
        with closing(engine.raw_connection()) as connection:
            return [name for (name,) in connection.driver_connection.execute("EXECUTE filled_tables")]

    yield filled
    engine.dispose()


_RUNS_AND_CALLS = re.compile(r"^(/(?:runs|calls)\b)")
_STATEMENT = re.compile(r"^(?:/profile/statement\b|/profile$|/profile(?=\?tab=statement))(.*)")


class Client(FlaskClient):
    """Sends each request outside the test's application context, so it has its own session, and a view that does not commit
    fails its test. Validates responses of JSON routes against the OpenAPI document."""

    home = ""
    """`/orgs/<slug>`, to open an organisation's runs, calls and statement instead of the person's own."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        if self.home and args and isinstance(args[0], str):
            address, count = _STATEMENT.subn(rf"{self.home}/billing/statement\1", args[0])
            args = (address if count else _RUNS_AND_CALLS.sub(rf"{self.home}\1", address), *args[1:])
        answer = Context().run(super().open, *args, **kwargs)
        described.check(self.application, answer)
        return answer


class CliRunner(FlaskCliRunner):
    """Runs each command outside the test's application context, for the same reason."""

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        return Context().run(super().invoke, *args, **kwargs)


# stored when a test says so (`flush`), so that nothing is written while the tables are emptied
RefusedCalls.background = False
Flask.test_client_class = Client
Flask.test_cli_runner_class = CliRunner


@pytest.fixture
def session(app: Flask, engine: Engine) -> Iterator[OrmSession]:
    """`db.session` of the test's application context, for setup, assertions, and the domain functions that the test calls.

    Requests and commands have their own sessions. Commit the setup; all rows are deleted after the test. Every commit
    expires loaded objects, so that changes by requests are visible. It uses the test's engine, so that its connections are
    not counted as the application's.
    """
    with app.app_context():
        db.session.registry.set(OrmSession(engine, expire_on_commit=True))  # type: ignore[arg-type]
        yield db.session()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty the tables after each test that used the database.

    Deletes from tables with rows only, with triggers and foreign keys disabled: much faster than TRUNCATE of all tables,
    and not blocked by readers. What the test left running ends first. Where something else still writes, the two may lock
    rows in opposite orders: then it ends first, and the deletes are tried again.
    """
    if not {"app", "session"} & set(request.fixturenames):
        yield
        return
    filled: FilledTables = request.getfixturevalue("filled_tables")
    engine: Engine = request.getfixturevalue("engine")
    yield
    _wait_for_writers()
    for last in (False, False, True):
        try:
            _empty(engine, filled())
            return
        except DeadlockDetected:
            if last:
                raise


def _wait_for_writers() -> None:
    """Wait for the requests to servers of this process, and for streams that are settled after their client left. Gives up
    on those whose provider does not answer."""
    wait_for_requests()
    deadline = time.monotonic() + STREAM_SECONDS
    for thread in threading.enumerate():
        if thread.name in ("stoa-pump", "stoa-turn"):
            thread.join(max(0.0, deadline - time.monotonic()))


def _empty(engine: Engine, tables: Sequence[str]) -> None:
    """Delete all rows of the tables, in one request to the server; several statements cannot be prepared.

    Raises: DeadlockDetected.
    """
    if not tables:
        return
    deletes = "; ".join(f"DELETE FROM {table}" for table in tables)
    with engine.begin() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"SET LOCAL session_replication_role = replica; {deletes}", prepare=False)


@pytest.fixture(params=["a person's account", "an organisation's account"])
def kind(request: pytest.FixtureRequest, session: OrmSession) -> Iterator[None]:
    """Run the test twice: all keys, calls and runs belong to users' own accounts, then to organisations' accounts."""
    factories.ORGANISATIONS = {} if request.param == "an organisation's account" else None
    yield
    factories.ORGANISATIONS = None


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client without cookies."""
    return app.test_client()


@pytest.fixture
def alice(app: Flask, session: OrmSession) -> Person:
    """The owner of the organisation `acme`."""
    return factories.person(app, "alice")


@pytest.fixture
def bob(app: Flask, session: OrmSession) -> Person:
    """A member of `acme`."""
    return factories.person(app, "bob")


@pytest.fixture
def carol(app: Flask, acme: Org) -> Person:
    """An admin of `acme`."""
    person = factories.person(app, "carol")
    factories.join(acme, person.id, "admin")
    return person


@pytest.fixture
def dave(app: Flask, acme: Org) -> Person:
    """Has the role `billing` in `acme`."""
    person = factories.person(app, "dave")
    factories.join(acme, person.id, "billing")
    return person


@pytest.fixture
def mallory(app: Flask, session: OrmSession) -> Person:
    """A signed-in user without access."""
    return factories.person(app, "mallory")


@pytest.fixture
def anonymous(app: Flask) -> Person:
    """An anonymous client: no cookie, token or user."""
    return Person("", None, app.test_client(), "", {})


@pytest.fixture
def acme(session: OrmSession, alice: Person, bob: Person) -> Org:
    """The organisation that alice owns and bob is a member of."""
    assert alice.user is not None
    assert bob.user is not None
    return factories.org(alice.user, members=(bob.user,))


@pytest.fixture
def cast(
    alice: Person, carol: Person, bob: Person, dave: Person, mallory: Person, anonymous: Person
) -> dict[str, Person]:
    """Everybody by name, to try a route of `acme` as each."""
    people = (alice, carol, bob, dave, mallory, anonymous)
    return dict(zip(("alice", "carol", "bob", "dave", "mallory", "anonymous"), people, strict=True))
