"""What the log says: one line for each thing that went wrong, with the request's id, and never a secret or a user's text.

An exception's message may quote whatever it failed on: a row, a body, an address. So the log says its type and its
place, and its words only where they are known to be the server's: the operating system's, and PostgreSQL's of its own
state. Other libraries put such text into their messages, too; of theirs only the fixed part is kept.
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
from models.core.settings import SettingsError

SPEAKING = (MailError, PostgresError, SettingsError, PoolTimeout)
"""Exceptions whose words are the server's own."""
SERVER_STATES = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX001", "XX002")
"""Of PostgreSQL's error codes, those that tell of the server and the connection and quote no data."""

SHAPES = re.compile(
    r"(?P<key>\b(?:cb-pat|sk|rk|pk|whsec|gh[opsu]|github_pat)[-_])[A-Za-z0-9_\-]{8,}"
    r"|(?P<google>\bAIza)[A-Za-z0-9_\-]{20,}"
    r"|(?P<bearer>\bBearer\s+)[^\s\"',;]{8,}"
    r"|(?P<url>://[^\s:/@]*:)[^\s/@]+(?=@)",
    re.IGNORECASE,
)
PERSONAL = re.compile(
    r"(?P<link>/login/link/)[\w\-]+|[\w.+\-]{1,64}@[\w\-.]{1,255}\.[a-z]{2,}\b", re.IGNORECASE
)
"""Sign-in links, and what looks like an address of e-mail: of a longer one than there are, the end."""


class LogFormatter(logging.Formatter):
    """Time, level, place, request id and message in one line; an exception's frames follow in the same line.

    What is merely told (INFO) is the bare message: it is for the person at the terminal.
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
            # What is told at INFO is for whoever sits there: mails on the console keep addresses and links.
            message = PERSONAL.sub(lambda match: f"{match['link'] or ''}***", message)
        return redact(message, self.secrets)


def init_app(secrets: Iterable[str]) -> None:
    """Send the log to standard error, unless somebody (a test, a host application) took it already."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(secrets))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)


def speak() -> None:
    """Let a server process tell what it does; commands stay silent, since their output is read by programs.

    What would print a traceback of its own, with every message, goes through the log as well.
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
        logging.getLogger("stoa").error("nobody caught this", exc_info=(kind, error or kind(), place))


def adopt(name: str) -> None:
    """Let a library's logger that has handlers of its own speak through ours."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    logger.propagate = True


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without tokens, provider keys and passwords in addresses."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return SHAPES.sub(lambda match: f"{next(group for group in match.groups() if group)}***", text)


def _message(record: logging.LogRecord) -> str:
    ours = record.name.partition(".")[0] == "stoa"
    message = told(record.msg) if isinstance(record.msg, BaseException) else str(record.msg)
    # In a text that is made up already, libraries put what they failed on behind a colon or in the next line.
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
        return told(value)
    return value if ours or value is None or isinstance(value, int | float) else "…"


def told(error: BaseException) -> str:
    """The type of an exception, and what of its message cannot be a user's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    words = ""
    if isinstance(error, psycopg.Error):
        words = _of_database(error)
    elif isinstance(error, SPEAKING):
        words = _one_line(str(error))
    elif isinstance(error, OSError) and error.errno is not None:
        words = f"[Errno {error.errno}] {error.strerror}"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _of_database(error: psycopg.Error) -> str:
    state, diag = error.sqlstate, error.diag
    if state is None:
        # libpq's words for a connection that failed; psycopg's other errors speak of the values it was given
        return _one_line(str(error)) if isinstance(error, psycopg.OperationalError) else ""
    parts = [state]
    if state.startswith(SERVER_STATES):
        parts.append(_one_line(diag.message_primary or ""))
    names = {"constraint": diag.constraint_name, "table": diag.table_name, "column": diag.column_name}
    parts += [f"{what} {name}" for what, name in names.items() if name]
    place = re.search(r"PL/pgSQL function (\w+)\(.*?\) line (\d+)", diag.context or "")
    return " ".join([*parts, f"in {place[1]} line {place[2]}"] if place else parts)


def _exception(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    path = " > ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if isinstance(error, DBAPIError):
        cause = None  # it is what is told
    line = f"{told(error)} at {path}"
    return f"{line} | after {told(cause)}" if cause else line


def _short(filename: str) -> str:
    return "/".join(filename.rsplit("/", 2)[-2:])


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).replace("\r", " ")
