"""Ids of projects, workspaces, events and operations: sortable by time, 26 characters (fastest contract 2.1)."""

import secrets
import time

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_ID = 128
"""Characters of an id that a client chooses."""


def new_id() -> str:
    """Ten base-36 digits of milliseconds, then 16 random ones."""
    return _base36(time.time_ns() // 1_000_000, 10) + _base36(secrets.randbelow(36**16), 16)


def new_snapshot_id() -> str:
    """The id of a snapshot that the server makes."""
    return f"snap-{new_id()}"


def fits(id: str) -> bool:
    """Whether a text can be an id: PostgreSQL holds no NUL."""
    return 0 < len(id) <= MAX_ID and "\0" not in id


def _base36(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
