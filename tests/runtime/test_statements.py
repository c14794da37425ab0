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

from models.billing import gateway_engine
from models.settings import ROOT
from models.statements import Parameter, ask

MOMENT = datetime(2026, 11, 20, 16, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    made = gateway_engine(postgres_url, 1)
    yield made
    made.dispose()


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
    ],
)
def test_a_value_comes_back_as_it_was_sent(engine: Engine, kind: str, value: Parameter) -> None:
    ((seen,),) = ask(engine, f"SELECT $1::{kind}", (value,))
    assert seen == value
    assert type(seen) is type(value)


def test_rows_come_in_order_and_none_is_an_empty_list(engine: Engine) -> None:
    assert ask(engine, "SELECT n, n * 2 FROM generate_series(1, 3) n") == [(1, 2), (2, 4), (3, 6)]
    assert ask(engine, "SELECT 1 WHERE false") == []


def test_a_query_is_prepared_once_per_connection(engine: Engine) -> None:
    for number in range(5):
        assert ask(engine, "SELECT $1::int + 1", (number,)) == [(number + 1,)]
    prepared = ask(engine, "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%$1::int + 1'")
    assert prepared == [("SELECT $1::int + 1",)]


def test_megabytes_go_both_ways(engine: Engine) -> None:
    long = "x" * (20 << 20)
    ((seen,),) = ask(engine, "SELECT $1::text", (long,))
    assert seen == long


def test_a_refused_statement_raises_what_psycopg_raises_and_leaves_the_connection(engine: Engine) -> None:
    ((before,),) = ask(engine, "SELECT pg_backend_pid()")
    with pytest.raises(psycopg.errors.DivisionByZero) as refused:
        ask(engine, "SELECT 1 / $1::int", (0,))
    assert refused.value.sqlstate == "22012"
    with pytest.raises(psycopg.errors.UndefinedTable):
        ask(engine, "SELECT * FROM nowhere")
    with pytest.raises(psycopg.DataError, match="NUL"):
        ask(engine, "SELECT $1::text", ("a\0b",))
    assert ask(engine, "SELECT pg_backend_pid()") == [(before,)]


def test_a_connection_that_died_is_told_and_replaced(engine: Engine) -> None:
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with psycopg.connect(
        host=engine.url.query["host"], user=engine.url.username, dbname=engine.url.database
    ) as other:  # type: ignore[arg-type]
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    with pytest.raises(psycopg.OperationalError):
        ask(engine, "SELECT 1")
    ((after,),) = ask(engine, "SELECT pg_backend_pid()")
    assert after != pid


PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from models.billing import gateway_engine
from models.statements import ask

engine = gateway_engine(sys.argv[1], 4)
began = time.monotonic()
naps = [gevent.spawn(ask, engine, "SELECT pg_sleep(0.5), $1::int", (n,)) for n in range(8)]
killed = gevent.spawn(ask, engine, "SELECT pg_sleep(60)")
gevent.sleep(0.1)
killed.kill()
gevent.joinall(naps, raise_error=True)
assert [nap.value[0][1] for nap in naps] == list(range(8))
print(time.monotonic() - began)
long = "x" * (20 << 20)
assert ask(engine, "SELECT $1::text", (long,)) == [(long,)]
engine.dispose()
"""


def test_under_gevent_a_statement_gives_way_to_others(postgres_url: str) -> None:
    done: Any = subprocess.run(
        [sys.executable, "-c", PROGRAM, postgres_url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 1.0 <= float(done.stdout) < 3.0  # one after the other they would take four seconds
