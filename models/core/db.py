"""The database session, the declarative base, constraint naming and shared column types."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from typing import Any, cast

from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import TIMESTAMP, BigInteger, MetaData, Numeric, Text, TypeDecorator, func, select, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, registry

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "%(table_name)s_%(column_0_N_name)s_unique",
    "ck": "%(table_name)s_%(constraint_name)s",
    "fk": "%(table_name)s_%(column_0_N_name)s_fk",
    "pk": "%(table_name)s_pk",
}


class UtcTimestamp(TypeDecorator[datetime]):
    """A `timestamp` column without time zone that holds UTC; Python sees aware datetimes.

    Raises ValueError for a naive datetime.
    """

    impl = TIMESTAMP(timezone=False)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a UTC column needs a datetime with a time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Declarative base of every table."""

    registry = registry(
        metadata=MetaData(naming_convention=NAMING),
        type_annotation_map={str: Text, datetime: TIMESTAMP(timezone=True), Decimal: Numeric},
    )


BigInt = BigInteger

# Server defaults, as PostgreSQL prints them, so that `flask db check` finds no difference.
NEW_ID = text("(gen_random_uuid())::text")
UTC_NOW = text("(now() AT TIME ZONE 'utc'::text)")
NOW = text("now()")
ACCOUNT = "COALESCE(org_id, user_id)"
"""SQL for the account of a row with a user and an optional paying organisation; used in indexes."""

db: SQLAlchemy = SQLAlchemy(
    model_class=Base,
    session_options={"autoflush": True, "expire_on_commit": False},
)
"""`db.session` is the session of the current application context (request, job, command or test) and is removed with it.
Domain code uses it directly, flushes, and never commits."""


def extension(name: str) -> Any:
    """What the current application registered in `app.extensions`, such as its "settings". A module's global would be shared by
    all applications of a process, and the tests make several. Raises KeyError."""
    return current_app.extensions[name]


def context_maker() -> Callable[[], AbstractContextManager[Any]]:
    """What opens application contexts of the current application, in any thread: each has a session of its own, and so transactions beside
    those of whoever calls."""
    return cast(Flask, current_app._get_current_object()).app_context  # type: ignore[attr-defined]


def now() -> datetime:
    """The current time, aware, UTC."""
    return datetime.now(UTC)


def read_snapshot() -> None:
    """Let the statements of the transaction that begins now all read one state of the database, so that figures of one page
    agree. Only right after a commit: raises an error of the database later in a transaction."""
    db.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def lock_name(name: str, *, shared: bool = False) -> None:
    """Wait for the advisory lock of this name and hold it until the transaction ends; shared with others that share it, or alone."""
    lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
    db.session.execute(select(lock(func.hashtextextended(name, 0))))


def midnight(day: date, zone: tzinfo = UTC) -> datetime:
    """The start of a day on the clock of a time zone."""
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def engine_options(pool_size: int) -> dict[str, Any]:
    """Engine options: UTC, lock and statement timeouts, no parameters in errors.

    Parallel query is off: pages read too little to gain from it. Code that scans whole tables turns it on itself.

    `pool_size` is connections per process. There is no overflow, so processes x pools is the maximum number of
    connections to PostgreSQL and is checked at start.
    """
    return {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": 20,
        "pool_pre_ping": True,
        "hide_parameters": True,
        "connect_args": {
            "options": "-c timezone=UTC -c lock_timeout=10000 -c statement_timeout=30000"
            " -c max_parallel_workers_per_gather=0",
            "connect_timeout": 10,
        },
    }


def server_setting(name: str) -> str:
    """The value of a PostgreSQL setting, such as `max_connections`."""
    return db.session.execute(select(func.current_setting(name, type_=Text))).scalar_one()
