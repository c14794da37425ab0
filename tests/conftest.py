"""The stage of every test: an embedded PostgreSQL migrated by Alembic, an application, a client, the cast.

A test that asks for `session` (or for one of the cast) runs in an application context: it calls verbs, which use
`db.session`, and inspects what they did through `session`, which is the same one. A thread needs a context of its own:

    with app.app_context():
        bans.ban(db.session.get_one(User, id), None, now())
        db.session.commit()
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession

from app import create_app
from models.core.db import db, engine_options
from models.core.postgres import embedded_url, release
from models.core.settings import Settings, load_settings
from models.orgs import Org
from tests import described, factories
from tests.chromium import chromium, open_page
from tests.factories import Person
from tests.fakes.localstripe import localstripe, localstripe_server
from tests.fakes.stripe_simulator import stripe_server, stripe_sim
from tests.fakes.webhook import webhook

# one browser for all rooms: Playwright starts only once in a process; and doubles of Stripe
__all__ = [
    "chromium",
    "localstripe",
    "localstripe_server",
    "open_page",
    "stripe_server",
    "stripe_sim",
    "webhook",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of few tests first: theirs start servers and browsers, and take longest. So no worker of pytest-xdist, which
    gives out whole files in this order, is left with one of those while the others have nothing more to do."""
    sizes = Counter(item.path for item in items)
    items.sort(key=lambda item: sizes[item.path])


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A private PostgreSQL server for this pytest process (STOA_TEST_DATABASE_URL: an existing, empty one)."""
    given = os.environ.get("STOA_TEST_DATABASE_URL")
    if given:
        yield given
        return
    directory = Path(tempfile.mkdtemp(prefix="stoa-test-"))
    url = embedded_url(directory, max_connections=300)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET fsync = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    yield url
    release(directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of the tests: nothing from the environment, no provider key, secrets of their own."""
    return load_settings(
        _env_file=None,
        stoa_data_dir=tmp_path_factory.mktemp("data"),
        stoa_secret_key="test-secret-test-secret-test-secret-test",
        stoa_base_url="http://localhost:8000",
        stoa_admins="root@example.org",
        stoa_demo_delay_ms=0,
    )


@pytest.fixture(scope="session")
def app(postgres_url: str, settings: Settings) -> Iterator[Flask]:
    """The application on a database that Alembic brought from empty to head."""
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
    """An engine of the test's own, apart from the application's."""
    engine = create_engine(postgres_url, **engine_options(pool_size=60))
    yield engine
    engine.dispose()


class Client(FlaskClient):
    """Sends each request outside the test's application context: it has a session of its own, as on a server, and a
    view that forgets to commit fails its test. Answers of JSON routes must be as the API's document says."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        answer = Context().run(super().open, *args, **kwargs)
        described.check(self.application, answer)
        return answer


class CliRunner(FlaskCliRunner):
    """Runs each command outside the test's application context, for the same reason."""

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        return Context().run(super().invoke, *args, **kwargs)


Flask.test_client_class = Client
Flask.test_cli_runner_class = CliRunner


@pytest.fixture
def session(app: Flask, engine: Engine) -> Iterator[OrmSession]:
    """`db.session` of the test's own application context, to arrange and inspect with, and the one that verbs use when
    the test calls them. Requests and commands have others. Commit what you arrange; it is all removed after the test.

    It forgets with every commit what it has loaded, so that it sees what requests changed, and has the test's own
    connections, so that who counts the application's does not count these.
    """
    with app.app_context():
        db.session.registry.set(OrmSession(engine, expire_on_commit=True))  # type: ignore[arg-type]
        yield db.session()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty the tables after each test that used the database.

    Only tables with rows are emptied, by DELETE with triggers and foreign keys asleep: many times faster than
    a TRUNCATE of everything, and it waits for no reader.
    """
    used = "app" in request.fixturenames or "session" in request.fixturenames
    engine: Engine | None = request.getfixturevalue("engine") if used else None
    yield
    if engine is None:
        return
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        probes = connection.execute(
            text(
                "SELECT string_agg(format('SELECT ''%1$I.%2$I'' WHERE EXISTS (SELECT FROM %1$I.%2$I)',"
                " schemaname, tablename), ' UNION ALL ') FROM pg_tables"
                " WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            )
        ).scalar_one()
        for table in connection.exec_driver_sql(probes).scalars().all():
            connection.exec_driver_sql(f"DELETE FROM {table}")


@pytest.fixture(params=["a person's account", "an organisation's account"])
def kind(request: pytest.FixtureRequest, session: OrmSession) -> Iterator[None]:
    """The test runs twice: everybody's keys, calls and runs are of their own account; then of the account of an
    organisation that they are a member of."""
    factories.ORGANISATIONS = {} if request.param == "an organisation's account" else None
    yield
    factories.ORGANISATIONS = None


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser without cookies. No application context is held, so that each request has its own session."""
    return app.test_client()


@pytest.fixture
def alice(app: Flask, session: OrmSession) -> Person:
    """The owner: of her runs, her keys, and of the organisation `acme`."""
    return factories.person(app, "alice")


@pytest.fixture
def bob(app: Flask, session: OrmSession) -> Person:
    """A plain member of `acme`."""
    return factories.person(app, "bob")


@pytest.fixture
def mallory(app: Flask, session: OrmSession) -> Person:
    """A signed-in stranger."""
    return factories.person(app, "mallory")


@pytest.fixture
def anonymous(app: Flask) -> Person:
    """Nobody: no cookie, no token, no row."""
    return Person("", None, app.test_client(), "", {})


@pytest.fixture
def acme(session: OrmSession, alice: Person, bob: Person) -> Org:
    """The organisation that alice owns and bob is a member of."""
    assert alice.user is not None
    assert bob.user is not None
    return factories.org(alice.user, members=(bob.user,))
