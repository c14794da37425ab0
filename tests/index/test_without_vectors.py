"""PostgreSQL without pgvector: documents are searched by words alone, and operators are told so."""

from collections.abc import Iterator

import flask_migrate
import pytest
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from app import create_app
from models import index
from models.core.db import db
from models.core.settings import Settings
from models.index import IndexScope
from models.index.chunking import chunked
from models.index.document_sources import write_source
from models.index.documents import Document
from models.index.vectors import near_chunks, sources_without_vectors, write_vectors


@pytest.fixture
def without(app: Flask, postgres_url: str, settings: Settings) -> Iterator[Flask]:
    """The application on a database of its own, from which extension and table are gone."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS stoa_no_vectors WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE stoa_no_vectors"))
    url = make_url(postgres_url).set(database="stoa_no_vectors").render_as_string(hide_password=False)
    other = create_app(settings, database_url=url)
    with other.app_context():
        flask_migrate.upgrade()
        db.session.execute(text("DROP TABLE IF EXISTS chunk_vector"))
        db.session.execute(text("DROP EXTENSION IF EXISTS vector"))
        db.session.commit()
        yield other
        db.session.remove()
        db.engine.dispose()
    other.extensions["gateway"].pool.close()
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE stoa_no_vectors WITH (FORCE)"))


def test_everything_works_by_words_and_vectors_can_be_enabled(without: Flask) -> None:
    starts, chunks = chunked("page", ["Water pipes of copper", "The committee meets"])
    report = {"unit": "page", "notes": []}
    source = write_source("a", "0" * 64, unit="page", part_starts=starts, chunks=chunks, report=report)
    write_vectors(source.id, [chunk.text for chunk in chunks])
    row = Document(
        id=f"file-{'0' * 32}", account_id="a", scope_kind="account", scope_id="a", name="a.pdf", report=report,
        media_type="application/pdf", bytes=9, sha256="0" * 64, state="ready", source_id=source.id,
    )  # fmt: skip
    db.session.add(row)
    db.session.commit()
    scope = IndexScope("a", "account", "a")
    assert [hit.first for hit in index.search([scope], "when does the committee meet").hits] == [2]
    assert near_chunks([source.id], 2, [1.0] * 256, 5) == []
    assert sources_without_vectors(5) == []
    assert index.vector_state().startswith("words only")
    runner = without.test_cli_runner()
    said = runner.invoke(args=["documents", "enable-vectors"]).output
    if "vectors (pgvector)" in said:
        assert sources_without_vectors(5) == [source.id]
        write_vectors(source.id, [chunk.text for chunk in chunks])
        assert [hit.first for hit in index.search([scope], "comitee").hits] == [2]
