"""What goes wrong, in words for the user, with the exit code that scripts see."""

from __future__ import annotations

from typing import Any

FAILED, USAGE, SIGNED_OUT, NO_CREDITS, UNREACHABLE, CANCELLED = 1, 2, 3, 4, 5, 130


class Failure(Exception):
    """An error for the user: its message is printed without a traceback. `code` is for programs, and so are `details`."""

    def __init__(
        self, message: str, *, code: str = "FAILED", exit_code: int = FAILED, details: Any = None
    ) -> None:
        super().__init__(message)
        self.code, self.exit_code, self.details = code, exit_code, details


class Refused(Failure):
    """The server refused a request. `status` is that of HTTP."""

    def __init__(self, status: int, message: str, code: str, details: Any = None) -> None:
        exit_code = {401: SIGNED_OUT, 402: NO_CREDITS}.get(status, FAILED)
        super().__init__(message, code=code, exit_code=exit_code, details=details)
        self.status = status


class Unreachable(Failure):
    """The server did not answer, or only a proxy before it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="UNREACHABLE", exit_code=UNREACHABLE)


def misused(message: str) -> Failure:
    """The command line is wrong."""
    return Failure(message, code="USAGE", exit_code=USAGE)


def plain(text: object) -> str:
    """A text of somebody else without the characters that steer a terminal."""
    return "".join(each if each.isprintable() else " " for each in str(text))
