"""Searches documents: words and vectors, fused (`chunk_ranking`), then a few rules on what is shown."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, tuple_

from models.core.db import db
from models.index.chunk_ranking import (
    NEAR_COSINE,
    RANK_CONSTANT,
    VECTORS_WEIGHT,
    WORDS_WEIGHT,
    Key,
    SearchedSources,
    fused,
    ranked_by_words,
)
from models.index.document_sources import WITHOUT_TERMS, Chunk, DocumentSource
from models.index.documents import Document, IndexScope
from models.index.embedders import embedder
from models.index.query_forms import terms_in
from models.index.terms import query_terms, words
from models.index.vectors import near_chunks

MAX_QUERY = 1_000
"""Characters of a query that are read."""
MAX_TOP_K = 10
NEAREST = 60
NAME_BONUS = 0.15
"""Added to the score by words, as a share of it, for each word of the query in the document's name, up to two."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that fits the query, and the chunks around it.

    `chunk_id` is what a citation names (`<document id>#<number>`). `first` and `last` are pages, slides, sheets or lines of `text`, as
    `unit` says; `passage` is the text with its neighbours, unless they are in a better hit, so that a sentence that was cut is whole.
    """

    chunk_id: str
    document_id: str
    name: str
    unit: str
    first: int
    last: int
    text: str
    passage: str
    score: float


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """The hits, best first. `nothing_found`: what was searched has nothing about the query, so there are none."""

    hits: list[Hit] = field(default_factory=list)

    @property
    def nothing_found(self) -> bool:
        """Whether there are no hits."""
        return not self.hits


@dataclass(frozen=True, slots=True)
class _Searched:
    """What is searched: the first document of each source, and the figures of all chunks together."""

    documents: dict[int, tuple[str, str, str]]
    sources: SearchedSources


def search(scopes: Sequence[IndexScope], query: str, top_k: int = 5) -> SearchAnswer:
    """The `top_k` (1 to 10) passages of the documents of these scopes that fit the query best. Whoever calls it checks the scopes.

    First one passage of each document, then more of the same; neighbours are joined, so there may be fewer.
    """
    query = query[:MAX_QUERY].replace("\x00", " ")
    searched = _searched(scopes)
    wanted = query_terms(query)
    sources = searched.sources
    if not sources.chunks or not wanted:
        return SearchAnswer()
    terms = terms_in(sources.ids, sources.chunks, wanted)
    known = {form for term in terms for form in (term.word, *term.forms)}
    bonus = {id: _name_bonus(name, known) for id, (_, name, _) in searched.documents.items()}
    ranking = ranked_by_words(sources, terms, lambda key: bonus[key[0]])
    weights = {term.word: term.weight for term in terms}
    vector = embedder().query(query, lambda word: weights.get(word, 0.5))
    near = near_chunks(sources.ids, sources.chunks, vector, NEAREST)
    if ranking.says_nothing(near):
        return SearchAnswer()
    order = fused(ranking.order, [chunk for chunk in near if chunk.cosine >= NEAR_COSINE])
    return SearchAnswer(_hits(searched, order, max(1, min(top_k, MAX_TOP_K))))


def _searched(scopes: Sequence[IndexScope]) -> _Searched:
    query = (
        select(
            *(Document.id, Document.name, DocumentSource.id, DocumentSource.unit),
            *(DocumentSource.chunks, DocumentSource.term_count),
        )
        .join(DocumentSource, DocumentSource.id == Document.source_id)
        .where(
            tuple_(Document.scope_kind, Document.scope_id).in_([(scope.kind, scope.id) for scope in scopes]),
            tuple_(Document.account_id, Document.scope_kind, Document.scope_id).in_(list(scopes)),
            Document.deleted_at.is_(None),
            Document.state == "ready",
        )
        .order_by(Document.created_at, Document.id)
    )
    documents: dict[int, tuple[str, str, str]] = {}
    chunks = length = 0
    for id, name, source_id, unit, count, term_count in db.session.execute(query) if scopes else ():
        if source_id not in documents:
            documents[source_id] = (id, name, unit)
            chunks += count
            length += term_count
    accounts = tuple(dict.fromkeys(scope.account_id for scope in scopes))
    mean = length / chunks if chunks else 1.0
    return _Searched(documents, SearchedSources(list(documents), chunks, mean, accounts))


def _name_bonus(name: str, known: Collection[str]) -> float:
    return 1 + NAME_BONUS * min(2, sum(term in known for term in set(words(name))))


def _hits(searched: _Searched, order: Sequence[tuple[Key, float]], top_k: int) -> list[Hit]:
    first_of_each: dict[int, tuple[Key, float]] = {}
    for key, score in order:
        first_of_each.setdefault(key[0], (key, score))
    best = list(first_of_each.values())
    others = [item for item in order if item[0] != first_of_each[item[0][0]][0]]
    chosen: dict[Key, float] = {}
    shown: set[Key] = set()
    for (source_id, seq), score in [*best, *others]:
        if len(chosen) == top_k:
            break
        if (source_id, seq) not in shown:
            chosen[source_id, seq] = score
            shown.update(_neighbours((source_id, seq)))
    texts = _texts(chosen)
    hits, used = [], set(chosen)
    for key, score in chosen.items():
        if key in texts:
            around = [
                each for each in _neighbours(key) if each in texts and (each == key or each not in used)
            ]
            used.update(around)
            hits.append(_hit(searched, key, score, texts, around))
    return hits


def _neighbours(key: Key) -> tuple[Key, Key, Key]:
    source_id, seq = key
    return (source_id, seq - 1), key, (source_id, seq + 1)


def _hit(
    searched: _Searched, key: Key, score: float, texts: Mapping[Key, Chunk], around: Iterable[Key]
) -> Hit:
    source_id, seq = key
    document_id, name, unit = searched.documents[source_id]
    chunk = texts[key]
    return Hit(
        chunk_id=f"{document_id}#{seq}",
        document_id=document_id,
        name=name,
        unit=unit,
        first=chunk.first,
        last=chunk.last,
        text=chunk.text.strip("\n"),
        passage="".join(texts[each].text for each in around).strip("\n"),
        score=round(score * (RANK_CONSTANT + 1) / (WORDS_WEIGHT + VECTORS_WEIGHT), 4),
    )


def _texts(keys: Iterable[Key]) -> dict[Key, Chunk]:
    wanted = {each for key in keys for each in _neighbours(key)}
    rows = db.session.scalars(
        select(Chunk).options(WITHOUT_TERMS).where(tuple_(Chunk.source_id, Chunk.seq).in_(wanted))
    )
    return {(row.source_id, row.seq): row for row in rows}
