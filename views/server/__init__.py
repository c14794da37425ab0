"""`flask …`: one file per room that has commands, and what they share."""

import logging
from typing import Any

import click
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask.cli import AppGroup, ScriptInfo
from flask_migrate import upgrade
from sqlalchemy.exc import OperationalError

from models.core.db import db
from models.core.errors import DomainError
from models.core.settings import ROOT
from views.web.logs import redact

log = logging.getLogger("stoa.commands")

MIGRATIONS = str(ROOT / "migrations")


class CommandGroup(AppGroup):
    """A room's commands. Each runs in an application context of its own, calls its verb and commits `db.session` once;
    without that, and after an error, nothing was done.

    They find the database migrated, also when no server ever ran here. A DomainError, a database that cannot be reached
    and one of another release end them with a sentence. What fails unexpectedly goes through the log, which repeats
    nobody's text.
    """

    called = ""
    """The command that is run."""

    without_database: frozenset[str] = frozenset()
    """Commands that need no database."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words after the group's name. What is no text cannot be kept, looked up or printed."""
        if any("\x00" in each or not _is_text(each) for each in args):
            raise click.UsageError("Arguments must be text in UTF-8, without NUL.", ctx)
        self.called = next((each for each in args if not each.startswith("-")), "")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command of the group, or say what it does."""
        if "--help" in ctx.args:
            return super().invoke(ctx)
        try:
            if self.called not in self.without_database:
                with ctx.ensure_object(ScriptInfo).load_app().app_context():
                    _ready()
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


def _is_text(word: str) -> bool:
    # bytes that are no UTF-8 come as halves of surrogate pairs
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def _ready() -> None:
    with db.engine.connect() as connection:
        found = set(MigrationContext.configure(connection).get_current_heads())
    if not found:
        upgrade(directory=MIGRATIONS)
    elif found != set(ScriptDirectory(MIGRATIONS).get_heads()):
        raise click.ClickException(
            "The database is of another release. Bring it to this one with `.venv/bin/flask db upgrade` or `make run`."
        )
