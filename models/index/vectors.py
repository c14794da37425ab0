"""The table of vectors, which exists only where PostgreSQL has the extension `vector`; without it, search is by words alone.

It is in no model: its type is the extension's. The schema of the extension is part of every statement, because its operators are
found by it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import TextClause, text

from models.core.db import db
from models.index.embedders import embedder

EXACT_CHUNKS = 20_000
"""Up to as many chunks all vectors are compared; above, an approximate index is read until it found enough of the scope."""
BATCH = 500


class NearChunk(NamedTuple):
    """A chunk and the cosine of its vector and the query's."""

    source_id: int
    seq: int
    cosine: float


def vector_schema() -> str | None:
    """The quoted schema of the extension if there is a table of vectors, else None."""
    return db.session.execute(_SCHEMA).scalar()


def vector_state() -> str:
    """For operators: whether documents are searched by vectors too, and if not, what is missing."""
    if vector_schema() is not None:
        return "words and vectors (pgvector)"
    if db.session.scalar(text("SELECT true FROM pg_available_extensions WHERE name = 'vector'")):
        return "words only; run `flask documents enable-vectors` as a role that may create extensions"
    return (
        "words only; install pgvector 0.7 or newer for PostgreSQL, then run `flask documents enable-vectors`"
    )


def enable_vectors() -> bool:
    """Create the extension and the table if possible; returns whether they are there. Idempotent."""
    return bool(db.session.scalar(text("SELECT index_enable_vectors()")))


def write_vectors(source_id: int, texts: Sequence[str]) -> None:
    """Write the vectors of a source's chunks, in order; does nothing without the table."""
    for start in range(0, len(texts), BATCH):
        write_chunk_vectors(source_id, dict(enumerate(texts[start : start + BATCH], start)))


def write_chunk_vectors(source_id: int, texts: Mapping[int, str]) -> None:
    """Write the vectors of some chunks of a source, by number; does nothing without the table."""
    schema = vector_schema()
    if schema is None or not texts:
        return
    model = embedder()
    vectors = model.texts(list(texts.values()))
    rows = [
        {"source_id": source_id, "seq": seq, "model": model.name, "vector": _literal(vector)}
        for seq, vector in zip(texts, vectors, strict=True)
    ]
    db.session.execute(_within(schema, _INSERT), rows)


def vector_count(source_id: int) -> int:
    """How many chunks of a source have a vector of the embedder in use; 0 without the table."""
    if vector_schema() is None:
        return 0
    query = text("SELECT count(*) FROM chunk_vector WHERE source_id = :id AND model = :model")
    return int(db.session.scalar(query, {"id": source_id, "model": embedder().name}) or 0)


def chunks_without_vectors(source_id: int, limit: int) -> dict[int, str]:
    """Numbers and texts of chunks of a source that have no vector of the embedder in use; none without the table."""
    if vector_schema() is None:
        return {}
    query = text(
        "SELECT seq, text FROM chunk WHERE source_id = :id AND NOT EXISTS (SELECT FROM chunk_vector AS made"
        " WHERE made.source_id = chunk.source_id AND made.seq = chunk.seq AND made.model = :model)"
        " ORDER BY seq LIMIT :limit"
    )
    values = {"id": source_id, "model": embedder().name, "limit": limit}
    return dict(db.session.execute(query, values).all())


def near_chunks(
    source_ids: Sequence[int], chunks: int, vector: Sequence[float], limit: int
) -> list[NearChunk]:
    """The chunks of these sources with the nearest vectors, nearest first; `chunks` is how many the sources have."""
    schema = vector_schema()
    if schema is None or not any(vector):
        return []
    values = {"ids": list(source_ids), "vector": _literal(vector), "limit": limit, "model": embedder().name}
    exact = chunks <= EXACT_CHUNKS
    if not exact:
        db.session.execute(text("SET LOCAL hnsw.iterative_scan = relaxed_order"))
    rows = db.session.execute(_within(schema, _EXACT if exact else _APPROXIMATE), values)
    return [NearChunk(*row) for row in rows]


def sources_without_vectors(limit: int) -> list[int]:
    """Sources of documents whose chunks have no vectors of the embedder in use; none without the table."""
    if vector_schema() is None:
        return []
    query = text(
        "SELECT id FROM document_source WHERE chunks > 0 AND version > 0 AND NOT EXISTS (SELECT FROM chunk_vector"
        " WHERE source_id = document_source.id AND model = :model) ORDER BY id LIMIT :limit"
    )
    return list(db.session.scalars(query, {"model": embedder().name, "limit": limit}))


def _within(schema: str, query: str) -> TextClause:
    return text(query.replace("extensions.", f"{schema}."))


def _literal(vector: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:.5g}" for value in vector) + "]"


_SCHEMA = text(
    "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace"
    " WHERE extname = 'vector' AND to_regclass('chunk_vector') IS NOT NULL"
)
_INSERT = """
    INSERT INTO chunk_vector (source_id, seq, model, embedding)
    VALUES (:source_id, :seq, :model, CAST(:vector AS extensions.halfvec))
    ON CONFLICT (source_id, seq) DO UPDATE SET model = excluded.model, embedding = excluded.embedding
"""
# plus zero: else the planner may take the approximate index, which finds a tenth of a filtered scope
_EXACT = """
    SELECT source_id, seq, 1 - distance FROM (
        SELECT source_id, seq, embedding OPERATOR(extensions.<=>) CAST(:vector AS extensions.halfvec) AS distance
        FROM chunk_vector WHERE source_id = ANY(:ids) AND model = :model
    ) AS each ORDER BY distance + 0 LIMIT :limit
"""
# the index returns nearly ordered rows with this setting; the outer query orders them
_APPROXIMATE = """
    WITH near AS MATERIALIZED (
        SELECT source_id, seq, embedding OPERATOR(extensions.<=>) CAST(:vector AS extensions.halfvec) AS distance
        FROM chunk_vector WHERE source_id = ANY(:ids) AND model = :model ORDER BY distance LIMIT :limit
    )
    SELECT source_id, seq, 1 - distance FROM near ORDER BY distance
"""
