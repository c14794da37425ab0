"""`make fill`: the filled database passes the ledger proof; a database with data is rejected."""

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.orm import Session

from bench.fill import NotEmpty, fill
from models import ledger


@pytest.fixture
def connection(engine: Engine, postgres_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    url = make_url(postgres_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection


def test_a_filled_database_proves_clean_and_is_filled_once(
    connection: psycopg.Connection[tuple[object, ...]], session: Session
) -> None:
    before = _indexes(connection)
    made = fill(connection, 2_013, accounts=7)
    assert (made.messages, made.runs) == (2_013, 201)
    assert _indexes(connection) == before
    proof = ledger.prove()
    assert proof.clean, [check for check in proof.checks if check.count]
    assert proof.messages == 2_013
    with pytest.raises(NotEmpty):
        fill(connection, 10)


def _indexes(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT pg_get_indexdef(indexrelid), indisvalid, indisready, indisunique FROM pg_index ORDER BY 1"
    ).fetchall()
