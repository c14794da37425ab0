"""The command line: operators' verbs, and the server itself."""

import sys
from types import TracebackType

import click
from flask import Flask
from sqlalchemy.exc import OperationalError, ProgrammingError

from views.logs import redact


def init_app(app: Flask) -> None:
    """Let a command that fails for want of a database say so in a sentence."""
    if click.get_current_context(silent=True) is not None:
        sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sentence = _sentence(error)
    if sentence is None:
        sys.__excepthook__(kind, error, trace)
    else:
        click.echo(f"Error: {sentence}", err=True)


def _sentence(error: BaseException) -> str | None:
    if isinstance(error, OperationalError):
        return redact(f"The database cannot be used: {str(error.orig).strip().splitlines()[0]}.")
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if isinstance(error, ProgrammingError) and state in ("42P01", "42703", "42883"):
        return (
            "The database has no tables yet, or those of another release. "
            "Run make run once, or .venv/bin/flask db upgrade."
        )
    return None
