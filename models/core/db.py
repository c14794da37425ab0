"""The hallway of the domain: the session, the declarative base, naming and column types every room shares."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

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
    """A `timestamp` column without zone that holds UTC. Python sees aware datetimes only.

    Raises ValueError for a naive datetime: a clock without a zone is a bug, not a default.
    """

    impl = TIMESTAMP(timezone=False)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a UTC column was given a datetime without a zone")
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

# Server defaults, written as PostgreSQL prints them, so that `flask db check` compares equal texts.
NEW_ID = text("(gen_random_uuid())::text")
UTC_NOW = text("(now() AT TIME ZONE 'utc'::text)")
NOW = text("now()")
ACCOUNT = "COALESCE(org_id, user_id)"
"""The account of a row that names a person and, where one pays, an organisation: in indexes."""

db: SQLAlchemy = SQLAlchemy(
    model_class=Base,
    session_options={"autoflush": True, "expire_on_commit": False},
)
"""The one way to the database. `db.session` is the session of the running application context (a request's, a job's, a
command's, a test's), and is removed with it. Domain code uses it without being given it, flushes, and never commits."""


def now() -> datetime:
    """The current moment, aware, UTC."""
    return datetime.now(UTC)


def engine_options(pool_size: int) -> dict[str, Any]:
    """Options of the sessions' engine, whose every connection speaks UTC and gives up on locks and slow statements, and
    whose errors name no parameters.

    No statement gets helping processes: a page reads so little that they start when it is nearly done, and while it is
    drawn the cores are others'. What reads whole tables asks for them itself.

    `pool_size` is connections per process; overflow is nil, so that processes x pools is the whole demand
    on PostgreSQL and can be checked at start.
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
    """What the database server says of one of its settings, such as `max_connections`."""
    return db.session.execute(select(func.current_setting(name, type_=Text))).scalar_one()
