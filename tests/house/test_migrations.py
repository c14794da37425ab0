"""Migrations upgrade and downgrade, on an empty and a seeded database, and end at the models."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from app import create_app
from models import ledger
from models.core.db import db
from models.core.settings import Settings
from tests import factories

ROOT = Path(__file__).parents[2]
MIGRATION_LOCK = 7_866_001
"""As in migrations/env.py."""
REVISIONS = [
    revision.revision
    for revision in reversed(list(ScriptDirectory(str(ROOT / "migrations")).walk_revisions()))
]


@pytest.fixture
def fresh(postgres_url: str) -> Iterator[URL]:
    """An empty database on the tests' server."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS stoa_migrations WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE stoa_migrations"))
    yield make_url(postgres_url).set(database="stoa_migrations")
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE stoa_migrations WITH (FORCE)"))


@pytest.fixture
def migrated(fresh: URL, settings: Settings) -> Iterator[Flask]:
    """The application on that database, in its context, not migrated yet."""
    app = create_app(settings, database_url=fresh.render_as_string(hide_password=False))
    with app.app_context():
        yield app
        db.engine.dispose()


AfterEach = Callable[[Callable[[str, Connection], object]], AbstractContextManager[None]]


@pytest.fixture
def after_each(migrated: Flask) -> AfterEach:
    """Calls a function after each migration with the database's revision, on the connection that migrates: one command for all
    revisions instead of one for each."""
    options = migrated.extensions["migrate"].configure_args

    @contextmanager
    def watched(watch: Callable[[str, Connection], object]) -> Iterator[None]:
        def applied(ctx: MigrationContext, heads: Collection[str], **_: object) -> None:
            # the base has no revision
            for revision in heads:
                assert ctx.connection is not None
                watch(revision, ctx.connection)

        options["on_version_apply"] = applied
        yield
        del options["on_version_apply"]

    return watched


@pytest.fixture
def plain_engine(fresh: URL) -> Engine:
    return create_engine(fresh, poolclass=NullPool)


def object_names(engine: Engine) -> set[str]:
    """Names of all relations, types, functions and triggers in the database."""
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace"
                " UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind <> 'a'"
                " UNION SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
            )
        )
        return {name for (name,) in found if "alembic_version" not in name}


def shape(connection: Connection) -> list[tuple[str, ...]]:
    """Every column, index, constraint, view, function and trigger as PostgreSQL prints it."""
    queries = (
        "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull::text,"
        " coalesce(pg_get_expr(adbin, adrelid), '') FROM pg_attribute"
        " JOIN pg_class ON pg_class.oid = attrelid AND relnamespace = current_schema()::regnamespace"
        " LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attnum > 0 AND NOT attisdropped",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()",
        "SELECT viewname, definition FROM pg_views WHERE schemaname = current_schema()",
        "SELECT sequencename, data_type::text FROM pg_sequences WHERE schemaname = current_schema()",
        "SELECT pg_get_statisticsobjdef(oid) FROM pg_statistic_ext"
        " WHERE stxnamespace = current_schema()::regnamespace",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = current_schema()::regnamespace",
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
        " AND prokind <> 'a'",
        "SELECT aggfnoid::regprocedure::text, aggtransfn::text, agginitval FROM pg_aggregate"
        " JOIN pg_proc ON pg_proc.oid = aggfnoid AND pronamespace = current_schema()::regnamespace",
        "SELECT pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " AND relnamespace = current_schema()::regnamespace WHERE NOT tgisinternal",
    )
    return sorted(tuple(row) for query in queries for row in connection.execute(text(query)))


def shape_of(engine: Engine) -> list[tuple[str, ...]]:
    with engine.connect() as connection:
        return shape(connection)


def seed() -> None:
    alice, bob = factories.user("alice"), factories.user("bob")
    org = factories.org(alice, members=(bob,))
    factories.token(alice)
    factories.token(bob, type="cli", fingerprint_id=factories.fingerprint().id)
    factories.grant(alice, 100, balance=-20)
    factories.grant(alice, type="organization", org_id=org.id)
    factories.hold(alice)
    factories.referral(alice, bob)
    run = factories.run(alice)
    factories.run(alice, "researcher", parent=run, status="completed")
    factories.step(run)
    factories.call(alice, message=factories.message(alice), run_id=run.id)
    factories.agent(factories.publisher(org))
    db.session.remove()


def rows(connection: Connection) -> dict[str, int]:
    tables = (
        '"user"',
        "org",
        "org_member",
        "session",
        "credit_ledger",
        "credit_entry",
        "credit_hold",
        "agent_run",
        "message",
        "agent_config",
    )
    return {table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in tables}


def rows_of(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return rows(connection)


def test_models_and_migrations_agree(migrated: Flask) -> None:
    flask_migrate.upgrade()
    flask_migrate.check()


def test_every_revision_downgrades_and_upgrades_when_empty(
    migrated: Flask, after_each: AfterEach, plain_engine: Engine
) -> None:
    shapes: dict[str, list[tuple[str, ...]]] = {}
    with after_each(lambda revision, connection: shapes.setdefault(revision, shape(connection))):
        flask_migrate.upgrade()
    assert list(shapes) == REVISIONS

    def compare(revision: str, connection: Connection) -> None:
        assert shape(connection) == shapes.pop(revision), revision

    last = shapes.pop(REVISIONS[-1])
    with after_each(compare):
        flask_migrate.downgrade(revision="base")
    assert not shapes
    assert object_names(plain_engine) == set()
    flask_migrate.upgrade()
    assert shape_of(plain_engine) == last


def test_entries_are_chained_while_others_are_written(
    migrated: Flask, plain_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    flask_migrate.upgrade(revision="0030")
    people = ("alice", "bob", "carol")

    def grant(connection: Connection, name: str, operation: str) -> None:
        connection.execute(
            text("SELECT credit_grant(:operation, :id, NULL, 5, 'admin', 60, 'x', NULL, now())"),
            {"operation": operation, "id": name},
        )
        connection.execute(
            text("SELECT credit_charge(:id, NULL, 7, :operation, now())"),
            {"id": name, "operation": operation},
        )

    with plain_engine.begin() as connection:
        for name in people:
            connection.execute(
                text("INSERT INTO \"user\" (id, email) VALUES (:id, :id || '@example.org')"), {"id": name}
            )
        for number in range(40):
            grant(connection, people[number % 2], f"before-{number}")
    flask_migrate.upgrade(revision="0031")
    with plain_engine.begin() as connection:
        for name in people:
            grant(connection, name, f"between-{name}")
    monkeypatch.setattr(script_of("0032"), "BATCH", 7)
    done = threading.Event()

    def go_on() -> None:
        for number in range(4000):
            with plain_engine.begin() as connection:
                grant(connection, people[number % 3], f"meanwhile-{number}")
            if done.is_set():
                return

    writer = threading.Thread(target=go_on)
    writer.start()
    flask_migrate.upgrade()
    done.set()
    writer.join()
    with plain_engine.begin() as connection:
        for name in people:
            grant(connection, name, f"after-{name}")
    checks = {check.name: check for check in ledger.prove().checks}
    hashes = checks["each entry's hash is that of itself and the entry before"]
    assert hashes.count == 0, hashes.differences
    assert checks["each entry's balance follows from the one before"].count == 0
    with plain_engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM credit_entry")) > 120
        with pytest.raises(IntegrityError, match="append-only"):
            connection.execute(text("UPDATE credit_entry SET hash = NULL"))


def script_of(revision: str) -> Any:
    """The module of a migration."""
    return ScriptDirectory(str(ROOT / "migrations")).get_revision(revision).module


def test_every_revision_downgrades_and_upgrades_with_rows(
    migrated: Flask, after_each: AfterEach, plain_engine: Engine
) -> None:
    flask_migrate.upgrade()
    seed()
    before = rows_of(plain_engine)
    assert 0 not in before.values()
    counts: dict[str, dict[str, int]] = {}
    with after_each(lambda revision, connection: counts.setdefault(revision, rows(connection))):
        flask_migrate.downgrade(revision=REVISIONS[0])
    assert counts == dict.fromkeys(REVISIONS[:-1], before)
    flask_migrate.upgrade()
    assert rows_of(plain_engine) == before
    flask_migrate.downgrade(revision="base")
    assert object_names(plain_engine) == set()
    flask_migrate.upgrade()
    assert set(rows_of(plain_engine).values()) == {0}


def test_the_history_is_linear_and_its_files_are_dated() -> None:
    script = ScriptDirectory(str(ROOT / "migrations"))
    assert len(script.get_heads()) == 1
    for revision in script.walk_revisions():
        name = Path(revision.path).name
        assert re.fullmatch(rf"\d{{8}}_{revision.revision}_[a-z0-9_]+\.py", name), name


def test_the_first_revision_is_that_of_the_first_release() -> None:
    assert REVISIONS[0] == "0021"


def test_a_database_from_before_the_first_release_gets_instructions(
    migrated: Flask, plain_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    flask_migrate.stamp()
    with plain_engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0015'"))
    with pytest.raises(SystemExit):
        flask_migrate.upgrade()
    assert "at revision 0015, from before release 0.1" in caplog.text
    assert "docs/operating.md" in caplog.text


def test_two_machines_can_migrate_concurrently(
    migrated: Flask, fresh: URL, plain_engine: Engine, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": fresh.render_as_string(hide_password=False),
        "STOA_DATA_DIR": str(tmp_path),
        "PYTHONWARNINGS": "error",
    }
    command = [sys.executable, "-m", "flask", "db", "upgrade"]
    other = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    with plain_engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
        waits = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND query LIKE '%pg_try_advisory_lock%'"
        )
        while not connection.scalar(waits):
            assert other.poll() is None, other.communicate()
            connection.rollback()
            time.sleep(0.05)
    flask_migrate.upgrade()
    output, _ = other.communicate(timeout=100)
    assert other.returncode == 0, output
    assert "agent_run" in object_names(plain_engine)


def test_a_migration_does_not_queue_behind_a_reader(migrated: Flask, plain_engine: Engine) -> None:
    flask_migrate.upgrade()
    with plain_engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM agent_run"))
        with pytest.raises(Exception, match="lock timeout"):
            flask_migrate.downgrade(revision="base")
    assert "agent_run" in object_names(plain_engine)


def test_migrations_cannot_be_written_as_sql(migrated: Flask, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit):
        flask_migrate.upgrade(sql=True)
    assert "--sql is not supported" in caplog.text
