"""What pages ask PostgreSQL past SQLAlchemy, on the gateway's connections."""

from collections.abc import Sequence
from typing import Any

import psycopg

from models.pool import NoTurn, Parameter, Pool, Turns

AT_ONCE = 3
"""Of the gateway's connections in each process, so that however many pages are drawn, calls find the others."""
PATIENCE = 20.0
"""Seconds that a page waits for its turn."""

_turns = Turns(AT_ONCE)


def read(pool: Pool, query: str, params: Sequence[Parameter] = ()) -> list[tuple[Any, ...]]:
    """The rows of one statement that only reads, outside any transaction. Waits for its turn."""
    with _turns.turn(PATIENCE):
        return read_at_once(pool, query, params)


def read_at_once(pool: Pool, query: str, params: Sequence[Parameter] = ()) -> list[tuple[Any, ...]]:
    """`read` without waiting, for what takes no time. A kept connection that died is replaced once."""
    try:
        return pool.ask(query, params)
    except (NoTurn, psycopg.errors.QueryCanceled):
        raise
    except (psycopg.OperationalError, psycopg.InterfaceError):
        return pool.ask(query, params)
