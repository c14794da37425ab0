"""Searches documents: words by BM25 and vectors, fused, then a few rules on what is shown.

PostgreSQL's own ranks are of little use (docs/performance.md), so its index only finds candidates by the rarest words of the query.
How rare a word is, is computed from what is searched.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, text, tuple_

from models.core.db import db
from models.index.document_sources import ACCOUNT_MARK, WITHOUT_TERMS, Chunk, DocumentSource, quoted
from models.index.documents import Document, IndexScope
from models.index.embedders import embedder
from models.index.query_forms import QueryTerm, terms_in
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
MIN_COVERED, MIN_WORDS, MIN_COSINE = 0.3, 0.5, 0.3
"""The best chunk has this share of the query's information, or of its words, or its vector this cosine; else nothing was found. In documents
about one thing the words for it say little, since all chunks have them, and one word that none has would outweigh them."""
NEAR_COSINE = 0.2
"""Vectors of unrelated texts have cosines up to this."""
Key = tuple[int, int]


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
    chunks: int
    mean_length: float
    accounts: tuple[str, ...]


def search(scopes: Sequence[IndexScope], query: str, top_k: int = 5) -> SearchAnswer:
    """The `top_k` (1 to 10) passages of the documents of these scopes that fit the query best. Whoever calls it checks the scopes.

    First one passage of each document, then more of the same; neighbours are joined, so there may be fewer.
    """
    query = query[:MAX_QUERY].replace("\x00", " ")
    searched = _searched(scopes)
    wanted = query_terms(query)
    if not searched.chunks or not wanted:
        return SearchAnswer()
    terms = terms_in(list(searched.documents), searched.chunks, wanted)
    ranked, covered, shared = _by_words(searched, terms)
    weights = {term.word: term.weight for term in terms}
    vector = embedder().query(query, lambda word: weights.get(word, 0.5))
    near = near_chunks(list(searched.documents), searched.chunks, vector, NEAREST)
    if covered < MIN_COVERED and shared < MIN_WORDS and (not near or near[0].cosine < MIN_COSINE):
        return SearchAnswer()
    near = [chunk for chunk in near if chunk.cosine >= NEAR_COSINE]
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


def _by_words(searched: _Searched, terms: Sequence[QueryTerm]) -> tuple[list[Key], float, float]:
    """Chunks by BM25, best first, and the largest shares of the query's information and of its words that one of them has."""
    scores: dict[Key, float] = {}
    most, words_found, total = 0.0, 0, sum(term.weight for term in terms)
    known = {form for term in terms for form in (term.word, *term.forms)}
    bonus = {id: _name_bonus(name, known) for id, (_, name, _) in searched.documents.items()}
    marks = [(term.weight, [f"{quoted(form)}:" for form in term.forms]) for term in terms if term.forms]
    for source_id, seq, length, stored in _candidates(searched, terms):
        score, covered, matched = 0.0, 0.0, 0
        norm = K1 * (1 - B + B * length / searched.mean_length)
        for weight, forms in marks:
            count = sum(_occurrences(stored, mark) for mark in forms)
            if count:
                score += weight * count * (K1 + 1) / (count + norm)
                covered += weight
                matched += 1
        scores[source_id, seq] = score * bonus[source_id]
        most, words_found = max(most, covered), max(words_found, matched)
    ranked = sorted(scores, key=lambda key: (-scores[key], key))
    return ranked, most / total if total else 0.0, words_found / max(len(terms), 1)


def _occurrences(stored: str, mark: str) -> int:
    """How often a word occurs, in the text form of `chunk.terms`; `mark` is how it stands there."""
    at = stored.find(mark)
    if at < 0:
        return 0
    end = stored.find(" ", at + len(mark))
    return int(stored[at + len(mark) : end if end >= 0 else len(stored)])


def _name_bonus(name: str, known: Collection[str]) -> float:
    return 1 + NAME_BONUS * min(2, sum(term in known for term in set(words(name))))


def _candidates(searched: _Searched, terms: Sequence[QueryTerm]) -> Iterable[tuple[int, int, int, str]]:
    """Chunks with one of the rarest words; if even the rarest is frequent, those with the next rarest too."""
    rarest = sorted((term for term in terms if term.forms), key=lambda term: (term.chunks, term.word))
    if not rarest:
        return ()
    chosen, found = rarest[:1], rarest[0].chunks
    for term in rarest[1:RAREST]:
        found += term.chunks
        if found > CANDIDATES:
            break
        chosen.append(term)
    together = " | "
    if rarest[0].chunks > CANDIDATES and len(rarest) > 1:
        together, chosen = " & ", rarest[:2]
    accounts = " | ".join(quoted(ACCOUNT_MARK + account) for account in searched.accounts)
    each = (f"({' | '.join(map(quoted, term.forms))})" for term in chosen)
    query = f"({accounts}) & ({together.join(each)})"
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


_CANDIDATES = text(
    "SELECT source_id, seq, length, terms::text FROM chunk"
    " WHERE terms @@ CAST(:query AS tsquery) AND source_id = ANY(:ids) LIMIT :limit"
)
