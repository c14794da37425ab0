"""What the log says: one line for each thing that went wrong, with the request's id, and never a secret."""

import logging
import re
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime

from flask import g, has_request_context

SHAPES = re.compile(
    r"(?P<key>\b(?:cb-pat|sk|rk|pk|whsec|gh[opsu]|github_pat)[-_])[A-Za-z0-9_\-]{8,}"
    r"|(?P<google>\bAIza)[A-Za-z0-9_\-]{20,}"
    r"|(?P<bearer>\bBearer\s+)[^\s\"',;]{8,}"
    r"|(?P<url>://[^\s:/@]*:)[^\s/@]+(?=@)",
    re.IGNORECASE,
)


class Line(logging.Formatter):
    """Time, level, place, request id and message in one line; an exception's frames follow in the same line.

    What is merely told (INFO) is the bare message: it is for the person at the terminal.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self.secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.levelno > logging.INFO:
            where = f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%SZ} {record.levelname} {record.name}"
            if has_request_context() and g.get("request_id"):
                where += f" request={g.request_id}"
            message = f"{where} {_one_line(message)}"
            if record.exc_info and record.exc_info[1]:
                message += f" | {_exception(record.exc_info[1])}"
        return redact(message, self.secrets)


def init_app(secrets: Iterable[str]) -> None:
    """Send the log to standard error, unless somebody (a test, a host application) took it already."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(Line(secrets))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)


def speak() -> None:
    """Let a server process tell what it does; commands stay silent, since their output is read by programs."""
    logging.getLogger("stoa").setLevel(logging.INFO)


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


def _exception(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    path = " > ".join(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    told = f"{type(error).__name__}: {_one_line(str(error))} at {path}"
    return f"{told} | after {type(cause).__name__}: {_one_line(str(cause))}" if cause else told


def _short(filename: str) -> str:
    return "/".join(filename.rsplit("/", 2)[-2:])


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).replace("\r", " ")
