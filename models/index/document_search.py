"""Searches documents: words by BM25 and vectors, fused, then a few rules on what is shown.

PostgreSQL's own ranks are of little use (docs/performance.md), so its index only finds candidates by the rarest words of the query.
How rare a word is, is computed from what is searched.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, text, tuple_

from models.core.db import db
from models.index.document_sources import ACCOUNT_MARK, WITHOUT_TERMS, Chunk, DocumentSource, quoted
from models.index.documents import Document, IndexScope
from models.index.embedders import embedder
from models.index.terms import query_terms, words
from models.index.vectors import NearChunk, near_chunks

MAX_QUERY = 1_000
"""Characters of a query that are read."""
MAX_TOP_K = 10
RAREST = 8
CANDIDATES = 1_000
"""Chunks that are ranked by words. A word that occurs in more of them than this adds no candidates, unless it is the rarest."""
NEAREST = 60
K1, B = 1.2, 0.75
RANK_CONSTANT = 60
WORDS_WEIGHT, VECTORS_WEIGHT = 1.0, 0.5
NAME_BONUS = 0.15
"""Added to the score by words, as a share of it, for each word of the query in the document's name, up to two."""
MIN_COVERED, MIN_COSINE = 0.3, 0.3
"""The best chunk has this share of the query's information, or its vector this cosine; else nothing was found."""
Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that fits the query, and the chunks around it.

    `chunk_id` is what a citation names (`<document id>#<number>`). `first` and `last` are pages, slides, sheets or lines of `text`, as
    `unit` says; `passage` is the text with its neighbours, so that a sentence that was cut is whole.
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
    chunks: int
    mean_length: float
    accounts: tuple[str, ...]


def search(scopes: Sequence[IndexScope], query: str, top_k: int = 5) -> SearchAnswer:
    """The `top_k` (1 to 10) passages of the documents of these scopes that fit the query best. Whoever calls it checks the scopes.

    First one passage of each document, then more of the same; neighbours are joined, so there may be fewer.
    """
    query = query[:MAX_QUERY].replace("\x00", " ")
    searched = _searched(scopes)
    terms = query_terms(query)
    if not searched.chunks or not terms:
        return SearchAnswer()
    frequencies = _frequencies(searched, terms)
    weights = {term: _idf(frequencies.get(term, 0), searched.chunks) for term in terms}
    ranked, covered = _by_words(searched, frequencies, weights)
    vector = embedder().query(query, lambda term: weights.get(term, 0.5))
    near = near_chunks(list(searched.documents), searched.chunks, vector, NEAREST)
    if covered < MIN_COVERED and (not near or near[0].cosine < MIN_COSINE):
        return SearchAnswer()
    order = _fused(ranked, near)
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
    return _Searched(documents, chunks, length / chunks if chunks else 1.0, accounts)


def _idf(chunks_with: int, chunks: int) -> float:
    return math.log(1 + (chunks - chunks_with + 0.5) / (chunks_with + 0.5))


def _frequencies(searched: _Searched, terms: Sequence[str]) -> dict[str, int]:
    """In how many chunks each word occurs."""
    values = {"ids": list(searched.documents), "terms": list(terms)}
    return {term: int(count) for term, count in db.session.execute(_FREQUENCIES, values)}


def _by_words(
    searched: _Searched, frequencies: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[list[Key], float]:
    """Chunks by BM25, best first, and the largest share of the query's information that one of them has."""
    rows = _candidates(searched, frequencies)
    scores: dict[Key, float] = {}
    most, total = 0.0, sum(weights.values())
    bonus = {id: _name_bonus(name, weights) for id, (_, name, _) in searched.documents.items()}
    finders = [(weights[term], re.compile(re.escape(quoted(term)) + r"(?::(\d+))?")) for term in frequencies]
    for source_id, seq, length, stored in rows:
        score = covered = 0.0
        norm = K1 * (1 - B + B * length / searched.mean_length)
        for weight, finder in finders:
            if (match := finder.search(stored)) is not None:
                count = int(match[1] or 1)
                score += weight * count * (K1 + 1) / (count + norm)
                covered += weight
        scores[source_id, seq] = score * bonus[source_id]
        most = max(most, covered)
    return sorted(scores, key=lambda key: (-scores[key], key)), most / total if total else 0.0


def _name_bonus(name: str, weights: Mapping[str, float]) -> float:
    return 1 + NAME_BONUS * min(2, sum(term in weights for term in set(words(name))))


def _candidates(searched: _Searched, frequencies: Mapping[str, int]) -> Iterable[tuple[int, int, int, str]]:
    """Chunks with one of the rarest words; if even the rarest is frequent, those with the next rarest too."""
    rarest = sorted(frequencies, key=lambda term: (frequencies[term], term))
    if not rarest:
        return ()
    chosen: list[str] = []
    for term in rarest[:RAREST]:
        if chosen and sum(frequencies[each] for each in chosen) + frequencies[term] > CANDIDATES:
            break
        chosen.append(term)
    together = " & " if frequencies[rarest[0]] > CANDIDATES and len(rarest) > 1 else " | "
    if together == " & ":
        chosen = rarest[:2]
    accounts = " | ".join(quoted(ACCOUNT_MARK + account) for account in searched.accounts)
    query = f"({accounts}) & ({together.join(map(quoted, chosen))})"
    values = {"query": query, "ids": list(searched.documents), "limit": CANDIDATES}
    return [tuple(row) for row in db.session.execute(_CANDIDATES, values)]


def _fused(ranked: Sequence[Key], near: Sequence[NearChunk]) -> list[tuple[Key, float]]:
    """Reciprocal rank fusion, best first."""
    scores: defaultdict[Key, float] = defaultdict(float)
    for place, key in enumerate(ranked):
        scores[key] += WORDS_WEIGHT / (RANK_CONSTANT + place + 1)
    for place, chunk in enumerate(near):
        scores[chunk.source_id, chunk.seq] += VECTORS_WEIGHT / (RANK_CONSTANT + place + 1)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


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
            shown.update((source_id, each) for each in (seq - 1, seq, seq + 1))
    texts = _texts(chosen)
    return [_hit(searched, key, score, texts) for key, score in chosen.items() if key in texts]


def _hit(searched: _Searched, key: Key, score: float, texts: Mapping[Key, Chunk]) -> Hit:
    source_id, seq = key
    document_id, name, unit = searched.documents[source_id]
    chunk = texts[key]
    around = [texts[each] for each in ((source_id, seq - 1), key, (source_id, seq + 1)) if each in texts]
    return Hit(
        chunk_id=f"{document_id}#{seq}",
        document_id=document_id,
        name=name,
        unit=unit,
        first=chunk.first,
        last=chunk.last,
        text=chunk.text.strip("\n"),
        passage="".join(each.text for each in around).strip("\n"),
        score=round(score * (RANK_CONSTANT + 1) / (WORDS_WEIGHT + VECTORS_WEIGHT), 4),
    )


def _texts(keys: Iterable[Key]) -> dict[Key, Chunk]:
    wanted = {(source_id, each) for source_id, seq in keys for each in (seq - 1, seq, seq + 1)}
    rows = db.session.scalars(
        select(Chunk).options(WITHOUT_TERMS).where(tuple_(Chunk.source_id, Chunk.seq).in_(wanted))
    )
    return {(row.source_id, row.seq): row for row in rows}


_FREQUENCIES = text(
    "SELECT term, sum(chunks) FROM source_term"
    " WHERE source_id = ANY(:ids) AND term = ANY(:terms) GROUP BY term"
)
_CANDIDATES = text(
    "SELECT source_id, seq, length, terms::text FROM chunk"
    " WHERE terms @@ CAST(:query AS tsquery) AND source_id = ANY(:ids) LIMIT :limit"
)
