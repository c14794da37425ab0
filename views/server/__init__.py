"""Shared base of the `flask …` commands; each room has its own in `commands.py`."""

import logging
from functools import lru_cache
from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import OperationalError

from models.core.db import db
from models.core.errors import DomainError
from models.core.redaction import redact
from models.core.settings import ROOT

log = logging.getLogger("stoa.commands")

MIGRATIONS = str(ROOT / "migrations")


class CommandGroup(AppGroup):
    """The commands of a room. Each runs in its own application context, calls a domain function and commits `db.session`
    once; an error rolls back.

    An empty database is migrated first. A DomainError, an unreachable database and a database of another release exit with
    a message. Unexpected errors are logged without users' text, exit code 1.
    """

    called = ""
    """The command that is run."""

    without_database: frozenset[str] = frozenset()
    """Commands that need no database."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Raises UsageError for NUL or invalid UTF-8, which PostgreSQL cannot store."""
        if any("\x00" in each or not _is_text(each) for each in args):
            raise click.UsageError("Arguments must be text in UTF-8, without NUL.", ctx)
        self.called = next((each for each in args if not each.startswith("-")), "")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command of the group, or print its help."""
        if "--help" in ctx.args:
            return super().invoke(ctx)
        try:
            if self.called not in self.without_database:
                with ctx.ensure_object(ScriptInfo).load_app().app_context():
                    _ensure_migrated()
            return super().invoke(ctx)
        except DomainError as error:
            raise click.ClickException(error.message) from None
        except OperationalError as error:
            reason = str(error.orig).strip().splitlines()[0]
            raise click.ClickException(redact(f"The database cannot be used: {reason}.")) from None
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception:
            log.exception("flask %s failed", ctx.info_name)
            raise click.exceptions.Exit(1) from None


def _is_text(argument: str) -> bool:
    # invalid UTF-8 arrives as lone surrogates
    return not any("\ud800" <= letter <= "\udfff" for letter in argument)


# Alembic is imported where it is used: web workers import this module, and start a tenth faster without it.


def database_heads() -> set[str]:
    """The revisions that the database is migrated to; empty for an empty database."""
    from alembic.runtime.migration import MigrationContext

    with db.engine.connect() as connection:
        return set(MigrationContext.configure(connection).get_current_heads())


@lru_cache(maxsize=1)
def release_heads() -> set[str]:
    """The revisions that this release needs. Reads all migrations, once a process."""
    from alembic.script import ScriptDirectory

    return set(ScriptDirectory(MIGRATIONS).get_heads())


def _ensure_migrated() -> None:
    from flask_migrate import upgrade

    found = database_heads()
    if not found:
        upgrade(directory=MIGRATIONS)
    elif found != release_heads():
        raise click.ClickException(
            "The database belongs to another release. Upgrade it with `.venv/bin/flask db upgrade` or `make run`."
        )
