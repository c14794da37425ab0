"""The libpq pool: parameters, results, prepared statements and connections."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.core.pool import MAX_PREPARED, Parameter, Pool
from models.core.settings import ROOT

TIMESTAMP = datetime(2026, 11, 20, 16, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def pool(postgres_url: str) -> Iterator[Pool]:
    made = Pool(postgres_url, 1)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", ""),
        ("text", "häßlich 🙂 '\"\\ {a,b}"),
        ("text", None),
        ("bigint", -(2**63)),
        ("bigint", 2**63 - 1),
        ("int", 0),
        ("boolean", True),
        ("boolean", False),
        ("boolean", None),
        ("timestamptz", TIMESTAMP),
        ("text[]", []),
        ("text[]", ["plain", "", "NULL", "a,b", '"', "\\", "{}", " häßlich 🙂 "]),
    ],
)
def test_a_value_comes_back_as_it_was_sent(pool: Pool, kind: str, value: Parameter) -> None:
    ((seen,),) = pool.execute(f"SELECT $1::{kind}", (value,))
    assert seen == value
    assert type(seen) is type(value)


def test_rows_come_in_order_and_none_is_an_empty_list(pool: Pool) -> None:
    assert pool.execute("SELECT n, n * 2 FROM generate_series(1, 3) n") == [(1, 2), (2, 4), (3, 6)]
    assert pool.execute("SELECT 1 WHERE false") == []


def test_a_query_is_prepared_once_per_connection(pool: Pool) -> None:
    for number in range(5):
        assert pool.execute("SELECT $1::int + 1", (number,)) == [(number + 1,)]
    prepared = pool.execute(
        "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%$1::int + 1'"
    )
    assert prepared == [("SELECT $1::int + 1",)]


def test_prepared_statements_per_connection_are_limited(pool: Pool) -> None:
    for number in [*range(MAX_PREPARED + 5), 0, 1]:
        assert pool.execute(f"SELECT {number}") == [(number,)]
    ((count,),) = pool.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'stoa%'")
    assert count == MAX_PREPARED


def test_large_values_are_sent_and_received(pool: Pool) -> None:
    long = "x" * (20 << 20)
    ((seen,),) = pool.execute("SELECT $1::text", (long,))
    assert seen == long


def test_a_failed_statement_raises_psycopg_errors_and_keeps_the_connection(pool: Pool) -> None:
    ((before,),) = pool.execute("SELECT pg_backend_pid()")
    with pytest.raises(psycopg.errors.DivisionByZero) as refused:
        pool.execute("SELECT 1 / $1::int", (0,))
    assert refused.value.sqlstate == "22012"
    with pytest.raises(psycopg.errors.UndefinedTable):
        pool.execute("SELECT * FROM nowhere")
    with pytest.raises(psycopg.DataError, match="NUL"):
        pool.execute("SELECT $1::text", ("a\0b",))
    assert pool.execute("SELECT pg_backend_pid()") == [(before,)]


def test_a_dead_connection_raises_and_is_replaced(pool: Pool, engine: Engine) -> None:
    ((pid,),) = pool.execute("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with pytest.raises(psycopg.OperationalError):
        pool.execute("SELECT 1")
    ((after,),) = pool.execute("SELECT pg_backend_pid()")
    assert after != pid


PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from models.core.pool import Pool

pool = Pool(sys.argv[1], 4)
began = time.monotonic()
sleeps = [gevent.spawn(pool.execute, "SELECT pg_sleep(1), $1::int", (n,)) for n in range(8)]
killed = gevent.spawn(pool.execute, "SELECT pg_sleep(60)")
gevent.sleep(0.1)
killed.kill()
gevent.joinall(sleeps, raise_error=True)
assert [sleep.value[0][1] for sleep in sleeps] == list(range(8))
print(time.monotonic() - began)
long = "x" * (20 << 20)
assert pool.execute("SELECT $1::text", (long,)) == [(long,)]
pool.close()
"""


def test_under_gevent_a_statement_does_not_block_others(postgres_url: str) -> None:
    done: Any = subprocess.run(
        [sys.executable, "-c", PROGRAM, postgres_url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 2.0 <= float(done.stdout) < 7.5  # sequentially they would take eight seconds
