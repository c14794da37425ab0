"""Sources whose chunks come and go, such as the code of a project: one text for the search, of which parts are exchanged."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import select, text

from models.core.cooperative import in_slices
from models.core.db import db
from models.index.document_sources import DocumentSource, tsvector

LIVE = 0
"""The `version` of these sources, which no document has: none is deleted because no document shows it."""


class LiveChunk(NamedTuple):
    """A chunk to add: its number, which no chunk of the source has, the lines `first` to `last`, its text, and how often it has each word."""

    seq: int
    first: int
    last: int
    text: str
    words: Mapping[str, int]


def live_source(account_id: str, name: str) -> DocumentSource:
    """The source with this name; a new one without chunks if there is none. Flushes."""
    key = hashlib.sha256(name.encode()).hexdigest()
    query = select(DocumentSource).where(
        DocumentSource.account_id == account_id, DocumentSource.sha256 == key, DocumentSource.version == LIVE
    )
    found = db.session.scalars(query).one_or_none()
    if found is None:
        numbers = dict.fromkeys(("characters", "tokens", "chunks", "term_count"), 0)
        found = DocumentSource(
            account_id=account_id,
            sha256=key,
            version=LIVE,
            unit="line",
            part_starts=[0],
            report={"unit": "line"},
            **numbers,
        )
        db.session.add(found)
        db.session.flush()
    return found


def add_chunks(source: DocumentSource, chunks: Sequence[LiveChunk]) -> None:
    """Add chunks with their words; whoever calls it has locked the source. Flushes."""
    if not chunks:
        return
    frequencies: dict[str, int] = {}
    rows = []
    for chunk in in_slices(chunks):
        for word in chunk.words:
            frequencies[word] = frequencies.get(word, 0) + 1
        length = sum(chunk.words.values())
        terms = tsvector(source.account_id, chunk.words)
        row = {"source_id": source.id, "seq": chunk.seq, "first": chunk.first, "last": chunk.last}
        rows.append(row | {"end": len(chunk.text), "length": length, "text": chunk.text, "terms": terms})
        source.term_count += length
        source.characters += len(chunk.text)
    source.chunks += len(rows)
    db.session.execute(_ADD, rows)
    words = sorted(frequencies)
    counts = [frequencies[word] for word in words]
    db.session.execute(_COUNT, {"id": source.id, "terms": words, "chunks": counts})
    db.session.flush()


def remove_chunks(source: DocumentSource, seqs: Collection[int]) -> None:
    """Remove chunks, their words and their vectors; whoever calls it has locked the source. Flushes."""
    if not seqs:
        return
    values = {"id": source.id, "seqs": list(seqs)}
    db.session.execute(_DISCOUNT, values)
    db.session.execute(_FORGET, {"id": source.id})
    gone = db.session.execute(_REMOVE, values).all()
    source.chunks -= len(gone)
    source.term_count -= sum(length for length, _ in gone)
    source.characters -= sum(size for _, size in gone)
    db.session.flush()


# places within one text, and tokens, are of no use here
_ADD = text(
    'INSERT INTO chunk (source_id, seq, start, "end", first, last, tokens, length, text, terms) VALUES'
    " (:source_id, :seq, 0, :end, :first, :last, 0, :length, :text, CAST(:terms AS tsvector))"
)
_COUNT = text(
    "INSERT INTO source_term (source_id, term, chunks) SELECT :id, term, chunks"
    " FROM unnest(CAST(:terms AS text[]), CAST(:chunks AS int[])) AS each (term, chunks)"
    " ON CONFLICT (source_id, term) DO UPDATE SET chunks = source_term.chunks + excluded.chunks"
)
_DISCOUNT = text(
    "UPDATE source_term SET chunks = source_term.chunks - gone.chunks FROM ("
    ' SELECT lexeme COLLATE "C" AS term, count(*) AS chunks FROM chunk, unnest(terms)'
    " WHERE source_id = :id AND seq = ANY(:seqs) GROUP BY 1) AS gone"
    " WHERE source_term.source_id = :id AND source_term.term = gone.term"
)
_FORGET = text("DELETE FROM source_term WHERE source_id = :id AND chunks <= 0")
_REMOVE = text("DELETE FROM chunk WHERE source_id = :id AND seq = ANY(:seqs) RETURNING length, length(text)")
