"""Runs the migrations on a connection of their own, one process at a time, each in its own transaction."""

import time
from typing import Any

from alembic import context
from alembic.migration import MigrationContext
from alembic.util import CommandError
from flask import current_app
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

# Whoever migrates holds this advisory lock, so that several machines may start at once.
MIGRATION_LOCK = 7_866_001
LOCK_WITHIN = 120  # seconds


def include_object(
    obj: object, name: str | None, kind: str, reflected: bool, compare_to: object | None
) -> bool:
    """The job queue's objects are its library's, not the models'."""
    return not (name or "").startswith(("procrastinate_", "idx_procrastinate_"))


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """As `include_object`, before anything is reflected."""
    return kind != "table" or not (name or "").startswith("procrastinate_")


def process_revision_directives(migration: Any, revision: Any, directives: list[Any]) -> None:
    """An automatic revision that would change nothing is not written."""
    options = context.config.cmd_opts
    if (
        options is not None
        and getattr(options, "autogenerate", False)
        and directives[0].upgrade_ops.is_empty()
    ):
        directives[:] = []


def configuration() -> dict[str, Any]:
    """Flask-Migrate's own options with ours."""
    options: dict[str, Any] = dict(current_app.extensions["migrate"].configure_args)
    options.setdefault("process_revision_directives", process_revision_directives)
    options.update(
        target_metadata=current_app.extensions["migrate"].db.metadata,
        include_object=include_object,
        include_name=include_name,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    return options


def migrate() -> None:
    """Wait up to two minutes for another migration to end, then migrate without ever queueing on a table lock
    for longer than five seconds: behind a waiting ALTER TABLE every reader of the table would wait as well."""
    engine = create_engine(
        current_app.extensions["migrate"].db.engine.url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"options": "-c timezone=UTC -c lock_timeout=5000 -c statement_timeout=0"},
    )
    with engine.connect() as connection:
        lock(connection)
        refuse_older(connection)
        context.configure(connection=connection, **configuration())
        with context.begin_transaction():
            context.run_migrations()


def lock(connection: Connection) -> None:
    """Ask again and again, each time in a transaction of its own: one that waited would be in the way of an index that
    the other machine builds concurrently."""
    deadline = time.monotonic() + LOCK_WITHIN
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}):
        connection.commit()
        if time.monotonic() > deadline:
            raise CommandError(f"Another migration has not ended within {LOCK_WITHIN} seconds.")
        time.sleep(0.2)
    connection.commit()


def refuse_older(connection: Connection) -> None:
    """The steps of before release 0.1 are no longer there to be made."""
    first = context.script.get_base()
    for revision in MigrationContext.configure(connection).get_current_heads():
        if first and revision < first:
            raise CommandError(
                f"This database is at revision {revision}, from before release 0.1. Upgrade it with the version before"
                " 0.1 first; docs/operating.md says how."
            )
    connection.commit()


if context.is_offline_mode():
    raise CommandError("These migrations look at the database they change; --sql cannot write them down.")
migrate()
