"""Logging: one line per problem with the request id, without secrets and users' text.

Exception messages may quote user data: rows, bodies, URLs. So the log contains the type and location of an exception, and its
message only if it is known to be the server's own: from the operating system, or from PostgreSQL about its state. Of log
messages of other libraries only the fixed part is logged.
"""

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import psycopg
from flask import g, has_request_context
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.core.mail import MailError
from models.core.postgres import PostgresError
from models.core.redaction import redact, without_personal
from models.core.settings import SettingsError

SAFE_EXCEPTIONS = (MailError, PostgresError, SettingsError, PoolTimeout)
"""Exceptions whose messages contain no user data."""
SAFE_SQLSTATES = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX001", "XX002")
"""PostgreSQL error classes about server and connection, whose messages quote no data."""


class LogFormatter(logging.Formatter):
    """Time, level, logger, request id, message and the frames of an exception, in one line.

    INFO records are the message only: progress for the terminal.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        message = _message(record)
        if record.levelno > logging.INFO:
            where = f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%SZ} {record.levelname} {record.name}"
            if has_request_context() and g.get("request_id"):
                where += f" request={g.request_id}"
            message = f"{where} {_one_line(message)}"
            if record.exc_info and record.exc_info[1]:
                message += f" | {_exception(record.exc_info[1])}"
            # Not for INFO: mails printed to the console need their addresses and links.
            message = without_personal(message)
        return redact(message, self.secrets)


def init_app(secrets: Iterable[str]) -> None:
    """Log to standard error, unless the root logger has handlers already (tests, a host application)."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(secrets))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)


def show_progress() -> None:
    """Enable INFO messages, for server processes; commands stay quiet because programs read their output.

    Also routes uncaught exceptions through the log, since default tracebacks contain exception messages.
    """
    logging.getLogger("stoa").setLevel(logging.INFO)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    if "gevent" in sys.modules:
        from gevent.hub import Hub

        Hub.print_exception = lambda _hub, _context, *error: _uncaught(*error)  # type: ignore[method-assign]


def _uncaught(kind: type[BaseException], error: BaseException | None, place: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("stoa").error("uncaught exception", exc_info=(kind, error or kind(), place))


def use_root_handlers(name: str) -> None:
    """Make a library's logger use the root handlers instead of its own."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    logger.propagate = True


def _message(record: logging.LogRecord) -> str:
    ours = record.name.partition(".")[0] == "stoa"
    message = describe(record.msg) if isinstance(record.msg, BaseException) else str(record.msg)
    # In preformatted messages, libraries put data after a colon or on the next line.
    fixed = message if ours or record.levelno <= logging.INFO else re.split(r": |\n", message, maxsplit=1)[0]
    if not record.args:
        return fixed
    try:
        if isinstance(record.args, Mapping):
            return message % {name: _argument(value, ours) for name, value in record.args.items()}
        return message % tuple(_argument(value, ours) for value in record.args)
    except (TypeError, ValueError, KeyError):
        return fixed


def _argument(value: Any, ours: bool) -> Any:
    if isinstance(value, BaseException):
        return describe(value)
    return value if ours or value is None or isinstance(value, int | float) else "…"


def describe(error: BaseException) -> str:
    """The type of an exception, and its message if that is safe to log."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    text = ""
    if isinstance(error, psycopg.Error):
        text = _database_error(error)
    elif isinstance(error, SAFE_EXCEPTIONS):
        text = _one_line(str(error))
    elif isinstance(error, OSError) and error.errno is not None:
        text = f"[Errno {error.errno}] {error.strerror}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _database_error(error: psycopg.Error) -> str:
    state, diag = error.sqlstate, error.diag
    if state is None:
        # libpq's message for a failed connection; psycopg's other errors quote values
        return _one_line(str(error)) if isinstance(error, psycopg.OperationalError) else ""
    parts = [state]
    if state.startswith(SAFE_SQLSTATES):
        parts.append(_one_line(diag.message_primary or ""))
    names = {"constraint": diag.constraint_name, "table": diag.table_name, "column": diag.column_name}
    parts += [f"{what} {name}" for what, name in names.items() if name]
    place = re.search(r"PL/pgSQL function (\w+)\([^()]*\) line (\d+)", diag.context or "")
    return " ".join([*parts, f"in {place[1]} line {place[2]}"] if place else parts)


def _exception(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    path = " > ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if isinstance(error, DBAPIError):
        cause = None  # `describe` covers it
    line = f"{describe(error)} at {path}"
    return f"{line} | after {describe(cause)}" if cause else line


def _short(filename: str) -> str:
    return "/".join(filename.rsplit("/", 2)[-2:])


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).replace("\r", " ")
