"""The text of a file, once an account: its parts, chunks and terms, whichever documents show it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, Integer, Text, UniqueConstraint, delete, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, defer, mapped_column

from models.core.db import NOW, Base, BigInt, db
from models.index.chunking import CHUNKER_VERSION, TextChunk
from models.index.terms import term_counts

ACCOUNT_MARK = "@"
"""Begins the lexeme that names the account of a chunk: words have no such sign. It keeps a search of the index of all accounts within
one account."""


class DocumentSource(Base):
    """The text of a file for one account, keyed by its bytes and the version of the chunker.

    `part_starts` are the offsets (characters) at which its pages, slides, sheets or, for lines, the whole text begin.
    """

    __tablename__ = "document_source"
    __table_args__ = (
        UniqueConstraint("account_id", "sha256", "version", name="document_source_content_unique"),
    )

    id: Mapped[int] = mapped_column(BigInt, Identity(always=True), primary_key=True)
    account_id: Mapped[str]
    sha256: Mapped[str]
    version: Mapped[int]
    unit: Mapped[str]
    part_starts: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    characters: Mapped[int]
    tokens: Mapped[int]
    chunks: Mapped[int]
    term_count: Mapped[int] = mapped_column(BigInt)
    report: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Chunk(Base):
    """A piece of a text: its characters from `start` to `end`, on the pages or lines `first` to `last`.

    The chunks of a source, in order, are its whole text. `terms` has one position a word: how often it occurs; `length` is the number of
    words, repetitions included.
    """

    __tablename__ = "chunk"
    __table_args__ = (
        Index("idx_chunk_terms", "terms", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    )

    source_id: Mapped[int] = mapped_column(
        BigInt, ForeignKey("document_source.id", ondelete="CASCADE"), primary_key=True
    )
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    start: Mapped[int]
    end: Mapped[int]
    first: Mapped[int]
    last: Mapped[int]
    tokens: Mapped[int]
    length: Mapped[int]
    text: Mapped[str]
    terms: Mapped[Any] = mapped_column(TSVECTOR)


class SourceTerm(Base):
    """In how many chunks of a source a word occurs."""

    __tablename__ = "source_term"

    source_id: Mapped[int] = mapped_column(
        BigInt, ForeignKey("document_source.id", ondelete="CASCADE"), primary_key=True
    )
    term: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    chunks: Mapped[int]


def source_of(account_id: str, sha256: str) -> DocumentSource | None:
    """The text of these bytes, if the account has it in the current version."""
    return db.session.scalar(
        select(DocumentSource).where(
            DocumentSource.account_id == account_id,
            DocumentSource.sha256 == sha256,
            DocumentSource.version == CHUNKER_VERSION,
        )
    )


def write_source(
    account_id: str,
    sha256: str,
    *,
    unit: str,
    part_starts: Sequence[int],
    chunks: Sequence[TextChunk],
    report: Mapping[str, Any],
) -> DocumentSource:
    """Write a text with its chunks and terms. Flushes."""
    counts = [term_counts(chunk.text) for chunk in chunks]
    source = DocumentSource(
        account_id=account_id,
        sha256=sha256,
        version=CHUNKER_VERSION,
        unit=unit,
        part_starts=list(part_starts),
        characters=chunks[-1].end if chunks else 0,
        tokens=sum(chunk.tokens for chunk in chunks),
        chunks=len(chunks),
        term_count=sum(sum(count.values()) for count in counts),
        report=dict(report),
    )
    db.session.add(source)
    db.session.flush()
    frequencies: dict[str, int] = {}
    rows = []
    for seq, (chunk, count) in enumerate(zip(chunks, counts, strict=True)):
        for term in count:
            frequencies[term] = frequencies.get(term, 0) + 1
        rows.append(
            {
                "source_id": source.id,
                "seq": seq,
                "start": chunk.start,
                "end": chunk.end,
                "first": chunk.first,
                "last": chunk.last,
                "tokens": chunk.tokens,
                "length": sum(count.values()),
                "text": chunk.text,
                "terms": tsvector(account_id, count),
            }
        )
    if rows:
        db.session.execute(_INSERT_CHUNKS, rows)
        terms = sorted(frequencies)
        db.session.execute(
            _INSERT_TERMS,
            {"source_id": source.id, "terms": terms, "chunks": [frequencies[term] for term in terms]},
        )
    return source


def tsvector(account_id: str, counts: Mapping[str, int]) -> str:
    """The text form of a chunk's `terms`."""
    words = [f"{quoted(term)}:{min(count, 16_383)}" for term, count in counts.items()]
    return " ".join((quoted(ACCOUNT_MARK + account_id), *words))


def quoted(lexeme: str) -> str:
    """A lexeme in the text form of a tsvector or tsquery."""
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


def chunks_of(source_id: int, first_seq: int = 0, last_seq: int | None = None) -> list[Chunk]:
    """The chunks of a source, in order, without their terms."""
    query = select(Chunk).where(Chunk.source_id == source_id, Chunk.seq >= first_seq)
    if last_seq is not None:
        query = query.where(Chunk.seq <= last_seq)
    return list(db.session.scalars(query.options(WITHOUT_TERMS).order_by(Chunk.seq)))


def delete_sources(ids: Iterable[int]) -> None:
    """Delete texts with all that was made of them."""
    db.session.execute(delete(DocumentSource).where(DocumentSource.id.in_(list(ids))))


WITHOUT_TERMS = defer(Chunk.terms, raiseload=True)
_INSERT_CHUNKS = text(
    'INSERT INTO chunk (source_id, seq, start, "end", first, last, tokens, length, text, terms) VALUES'
    " (:source_id, :seq, :start, :end, :first, :last, :tokens, :length, :text, CAST(:terms AS tsvector))"
)
_INSERT_TERMS = text(
    "INSERT INTO source_term (source_id, term, chunks) SELECT :source_id, term, chunks"
    " FROM unnest(CAST(:terms AS text[]), CAST(:chunks AS int[])) AS each (term, chunks)"
)
