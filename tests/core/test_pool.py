"""Statements straight over libpq: what is sent, what comes back, and what becomes of the connection."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.core.pool import MOST_NAMED, Parameter, Pool
from models.core.settings import ROOT

MOMENT = datetime(2026, 11, 20, 16, 0, 0, 123456, tzinfo=UTC)


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
        ("timestamptz", MOMENT),
        ("text[]", []),
        ("text[]", ["plain", "", "NULL", "a,b", '"', "\\", "{}", " häßlich 🙂 "]),
    ],
)
def test_a_value_comes_back_as_it_was_sent(pool: Pool, kind: str, value: Parameter) -> None:
    ((seen,),) = pool.ask(f"SELECT $1::{kind}", (value,))
    assert seen == value
    assert type(seen) is type(value)


def test_rows_come_in_order_and_none_is_an_empty_list(pool: Pool) -> None:
    assert pool.ask("SELECT n, n * 2 FROM generate_series(1, 3) n") == [(1, 2), (2, 4), (3, 6)]
    assert pool.ask("SELECT 1 WHERE false") == []


def test_a_query_is_prepared_once_per_connection(pool: Pool) -> None:
    for number in range(5):
        assert pool.ask("SELECT $1::int + 1", (number,)) == [(number + 1,)]
    prepared = pool.ask("SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%$1::int + 1'")
    assert prepared == [("SELECT $1::int + 1",)]


def test_a_connection_keeps_only_so_many_prepared(pool: Pool) -> None:
    for number in [*range(MOST_NAMED + 5), 0, 1]:
        assert pool.ask(f"SELECT {number}") == [(number,)]
    ((kept,),) = pool.ask("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'stoa%'")
    assert kept == MOST_NAMED


def test_megabytes_go_both_ways(pool: Pool) -> None:
    long = "x" * (20 << 20)
    ((seen,),) = pool.ask("SELECT $1::text", (long,))
    assert seen == long


def test_a_refused_statement_raises_what_psycopg_raises_and_leaves_the_connection(pool: Pool) -> None:
    ((before,),) = pool.ask("SELECT pg_backend_pid()")
    with pytest.raises(psycopg.errors.DivisionByZero) as refused:
        pool.ask("SELECT 1 / $1::int", (0,))
    assert refused.value.sqlstate == "22012"
    with pytest.raises(psycopg.errors.UndefinedTable):
        pool.ask("SELECT * FROM nowhere")
    with pytest.raises(psycopg.DataError, match="NUL"):
        pool.ask("SELECT $1::text", ("a\0b",))
    assert pool.ask("SELECT pg_backend_pid()") == [(before,)]


def test_a_connection_that_died_is_told_and_replaced(pool: Pool, engine: Engine) -> None:
    ((pid,),) = pool.ask("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    with pytest.raises(psycopg.OperationalError):
        pool.ask("SELECT 1")
    ((after,),) = pool.ask("SELECT pg_backend_pid()")
    assert after != pid


PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from models.core.pool import Pool

pool = Pool(sys.argv[1], 4)
began = time.monotonic()
naps = [gevent.spawn(pool.ask, "SELECT pg_sleep(1), $1::int", (n,)) for n in range(8)]
killed = gevent.spawn(pool.ask, "SELECT pg_sleep(60)")
gevent.sleep(0.1)
killed.kill()
gevent.joinall(naps, raise_error=True)
assert [nap.value[0][1] for nap in naps] == list(range(8))
print(time.monotonic() - began)
long = "x" * (20 << 20)
assert pool.ask("SELECT $1::text", (long,)) == [(long,)]
pool.close()
"""


def test_under_gevent_a_statement_gives_way_to_others(postgres_url: str) -> None:
    done: Any = subprocess.run(
        [sys.executable, "-c", PROGRAM, postgres_url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 2.0 <= float(done.stdout) < 7.5  # one after the other they would take eight seconds
