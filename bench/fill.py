"""`make fill MESSAGES=10000000`: a year of generated accounts, an organisation, runs, calls and consistent ledger entries.

Uses set-based statements, a month at a time, in one transaction: disables all indexes and foreign keys, inserts the
rows, and rebuilds the indexes. If it is interrupted, the database is unchanged.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import psycopg
from flask import Flask
from psycopg import sql

from models.core.db import db, now
from models.ledger.latency import BUCKETS, EDGES_MS
from models.usage import org_usage

CALLS_PER_RUN = 10
ACCOUNTS = 500
SHARE = 20
"""Percentage of all runs that belong to the first account."""

ORG = "fill-org"
"""Id and slug of the organisation, which the first account owns. Not created for a single account."""
ORG_SHARE = 10
"""Percentage of all runs that the organisation pays for."""
MEMBERS = 120

MONTHS = 12
SQL = [Path(__file__).parent / name for name in ("fill.sql", "fill_org.sql")]
TABLES = (
    "credit_entry",
    "credit_ledger",
    "message",
    "gateway_call",
    "agent_run",
    "agent_step",
    "usage_rollup",
)


@dataclass(frozen=True, slots=True)
class Filled:
    """Number of generated rows, and the duration."""

    messages: int
    runs: int
    seconds: float


class NotEmpty(Exception):
    """The database is not empty. The message names the table."""


def user_id(number: int) -> str:
    """The id of an account. Account 0 has the largest share."""
    return f"fill-{number:05d}"


def token(number: int) -> str:
    """The raw token of an account, for both its browser session and its API key."""
    return f"cb-pat-fill-{number:06d}"


def fill(
    connection: psycopg.Connection[tuple[object, ...]],
    messages: int,
    *,
    accounts: int = ACCOUNTS,
    report: Callable[[str], None] = lambda line: None,
) -> Filled:
    """Generate `messages` billed calls and related rows. `connection`: a superuser connection in autocommit mode.

    Creates a tenth as many runs, over the last 360 days. One of the `accounts` has a fifth of all rows, an organisation of
    up to 120 of them a tenth. Its usage is counted afterwards, by `count_calls`. Raises NotEmpty if one of the tables has rows.
    """
    began = time.monotonic()
    _require_empty(connection)
    runs = max(1, messages // CALLS_PER_RUN)
    with connection.transaction():
        for setting in ("session_replication_role = replica", "work_mem = '256MB'", "jit = off"):
            connection.execute(f"SET LOCAL {setting}")
        connection.execute("SET LOCAL maintenance_work_mem = '1GB'")
        connection.execute("SET LOCAL max_parallel_maintenance_workers = 4")
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute("SET LOCAL statement_timeout = 0")
        disable_indexes(connection, TABLES)
        connection.execute(_functions())
        connection.execute(
            "SELECT fill_accounts(%s, %s::text[])",
            (accounts, [hashlib.sha256(token(number).encode()).hexdigest() for number in range(accounts)]),
        )
        if accounts > 1:
            connection.execute("SELECT fill_org(%s)", (min(accounts, MEMBERS),))
        for month in range(MONTHS):
            first, last = runs * month // MONTHS, runs * (month + 1) // MONTHS
            connection.execute(
                "SELECT fill_month(%s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    month,
                    MONTHS,
                    first,
                    last,
                    accounts,
                    SHARE,
                    ORG_SHARE,
                    messages - runs * CALLS_PER_RUN if month == MONTHS - 1 else 0,
                ),
            )
            report(f"month {month + 1} of {MONTHS}: {time.monotonic() - began:,.0f} s")
        connection.execute("SELECT fill_weeks()")
        for table in TABLES:
            rebuild_indexes(connection, (table,))
            report(f"indexes of {table}: {time.monotonic() - began:,.0f} s")
        connection.execute("ANALYZE message, gateway_call")
        connection.execute("SELECT fill_budgets()")
        connection.execute("SELECT fill_forget()")
    connection.execute("VACUUM ANALYZE")
    if accounts > 1:
        _count_org(connection)
        report(f"usage of the organisation: {time.monotonic() - began:,.0f} s")
    connection.execute("CHECKPOINT")
    row = connection.execute(
        "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM agent_run)"
    ).fetchone()
    assert row is not None
    return Filled(int(str(row[0])), int(str(row[1])), time.monotonic() - began)


def _functions() -> str:
    counts = (f"(count(*) FILTER (WHERE c.latency_bucket = {bucket}))::int" for bucket in range(BUCKETS))
    text = "".join(path.read_text() for path in SQL).replace("{edges}", f"ARRAY{list(EDGES_MS)}")
    return text.replace("{histogram}", f"ARRAY[{', '.join(counts)}]")


def _count_org(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Count the usage of the organisation as the job does."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "creator": lambda: psycopg.connect(connection.info.dsn, password=connection.info.password)
    }
    db.init_app(app)
    with app.app_context():
        more = True
        while more:
            more = org_usage.count_calls(ORG, now())
            db.session.commit()
        db.engine.dispose()
    connection.execute("VACUUM ANALYZE org_usage")


def _require_empty(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    for table in ("user", "session", "credit_account", *TABLES):
        found = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(table))
        row = connection.execute(found).fetchone()
        if row and row[0]:
            raise NotEmpty(f"Table {table} is not empty")


def disable_indexes(connection: psycopg.Connection[tuple[object, ...]], tables: Collection[str]) -> None:
    """Disable the indexes until `rebuild_indexes`: inserting unordered keys would read and write random pages."""
    connection.execute(
        "UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid = ANY (%s::regclass[])",
        (list(tables),),
    )


def rebuild_indexes(connection: psycopg.Connection[tuple[object, ...]], tables: Collection[str]) -> None:
    """Rebuild the indexes of these tables."""
    for table in tables:
        connection.execute(sql.SQL("REINDEX TABLE {}").format(sql.Identifier(table)))


def main() -> None:
    """Fill the database of STOA_DATA_DIR or DATABASE_URL."""
    parser = argparse.ArgumentParser(prog="python -m bench.fill", description=__doc__)
    parser.add_argument("messages", type=int)
    parser.add_argument("--accounts", type=int, default=ACCOUNTS)
    options = parser.parse_args()
    if options.messages < 1 or not 1 <= options.accounts <= 100_000:
        parser.error("at least one message, and 1 to 100000 accounts")
    # imported here, because it reads the settings and starts PostgreSQL
    from flask_migrate import upgrade

    from app import create_app

    app = create_app()
    with app.app_context():
        upgrade()
        url = app.config["SQLALCHEMY_DATABASE_URI"].replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            filled = fill(
                connection,
                options.messages,
                accounts=options.accounts,
                report=lambda line: print(line, file=sys.stderr),
            )
        except NotEmpty as error:
            raise SystemExit(
                f"{error}, but only an empty database can be filled. Set a separate directory, such as\n"
                f"  STOA_DATA_DIR=/tmp/stoa-full make fill MESSAGES={options.messages}"
            ) from None
    print(f"{filled.messages:,} messages and {filled.runs:,} runs in {filled.seconds:,.0f} s.")
    print(
        f"The largest account is {user_id(0)}; its key, and the value of its session cookie, is {token(0)}."
    )


if __name__ == "__main__":
    main()
