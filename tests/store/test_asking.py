"""What the store asks on the gateway's connections: calls always find one, and one that died is replaced."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from models import asking
from models.pool import Pool


@pytest.fixture
def pool(postgres_url: str) -> Iterator[Pool]:
    made = Pool(postgres_url, asking.AT_ONCE + 1)
    yield made
    made.close()


def test_however_many_pages_are_drawn_a_call_finds_a_connection(pool: Pool) -> None:
    with ThreadPoolExecutor(2 * asking.AT_ONCE) as pages:
        drawn = [pages.submit(asking.read, pool, "SELECT pg_sleep(1)") for _ in range(2 * asking.AT_ONCE)]
        until = time.monotonic() + 60
        while pool.in_use < asking.AT_ONCE and time.monotonic() < until:
            time.sleep(0.01)
        assert pool.in_use == asking.AT_ONCE
        assert pool.ask("SELECT 1", patience=0.5) == [(1,)]
        assert [len(each.result()) for each in drawn] == [1] * len(drawn)


def test_a_connection_that_died_is_replaced_unseen(pool: Pool, postgres_url: str) -> None:
    ((before,),) = asking.read(pool, "SELECT pg_backend_pid()")
    other = Pool(postgres_url, 1)
    assert other.ask("SELECT pg_terminate_backend($1::int, 5000)", (before,)) == [(True,)]
    other.close()
    ((after,),) = asking.read(pool, "SELECT pg_backend_pid()")
    assert after != before


def test_a_statement_that_took_too_long_is_not_repeated(pool: Pool) -> None:
    began = time.monotonic()
    pool.ask("SET statement_timeout = 200")
    with pytest.raises(psycopg.errors.QueryCanceled):
        asking.read(pool, "SELECT pg_sleep(30)")
    assert time.monotonic() - began < 20
