"""Ranks chunks of what is searched by the words of a query (BM25), and fuses that order with the one by vectors.

PostgreSQL's own ranks are of little use (docs/performance.md), so its index only finds candidates by the rarest words of the query.
How rare a word is, is computed from what is searched.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import text

from models.core.db import db
from models.index.document_sources import ACCOUNT_MARK, quoted
from models.index.query_forms import QueryTerm
from models.index.vectors import NearChunk

RAREST = 8
CANDIDATES = 1_000
"""Chunks that are ranked by words. A word that occurs in more of them than this adds no candidates, unless it is the rarest."""
K1, B = 1.2, 0.75
RANK_CONSTANT = 60
WORDS_WEIGHT, VECTORS_WEIGHT = 1.0, 0.5
MIN_COVERED, MIN_WORDS, MIN_COSINE = 0.3, 0.5, 0.3
"""The best chunk has this share of the query's information, or of its words, or its vector this cosine; else nothing was found. In documents
about one thing the words for it say little, since all chunks have them, and one word that none has would outweigh them."""
NEAR_COSINE = 0.2
"""Vectors of unrelated texts have cosines up to this."""
Key = tuple[int, int]
"""The source and the number of a chunk."""


@dataclass(frozen=True, slots=True)
class SearchedSources:
    """What is searched, and the figures of all its chunks together."""

    ids: Sequence[int]
    chunks: int
    mean_length: float
    accounts: Sequence[str]


@dataclass(frozen=True, slots=True)
class WordRanking:
    """The scores of chunks by words, and the largest shares of the query's information and of its words that one of them has."""

    scores: dict[Key, float]
    covered: float
    shared: float

    @property
    def order(self) -> list[Key]:
        """The chunks, best first."""
        return sorted(self.scores, key=lambda key: (-self.scores[key], key))

    def says_nothing(self, near: Sequence[NearChunk]) -> bool:
        """Whether what was searched has nothing about the query, neither by words nor by vectors."""
        by_words = self.covered >= MIN_COVERED or self.shared >= MIN_WORDS
        return not by_words and (not near or near[0].cosine < MIN_COSINE)


def ranked_by_words(
    searched: SearchedSources, terms: Sequence[QueryTerm], bonus: Callable[[Key], float]
) -> WordRanking:
    """Chunks with the words, by BM25; `bonus` is a factor for each."""
    scores: dict[Key, float] = {}
    most, words_found, total = 0.0, 0, sum(term.weight for term in terms)
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
        scores[source_id, seq] = score * bonus((source_id, seq))
        most, words_found = max(most, covered), max(words_found, matched)
    return WordRanking(scores, most / total if total else 0.0, words_found / max(len(terms), 1))


def fused(ranked: Sequence[Key], near: Sequence[NearChunk]) -> list[tuple[Key, float]]:
    """Reciprocal rank fusion of the orders by words and by vectors, best first."""
    scores: defaultdict[Key, float] = defaultdict(float)
    for place, key in enumerate(ranked):
        scores[key] += WORDS_WEIGHT / (RANK_CONSTANT + place + 1)
    for place, chunk in enumerate(near):
        scores[chunk.source_id, chunk.seq] += VECTORS_WEIGHT / (RANK_CONSTANT + place + 1)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def _occurrences(stored: str, mark: str) -> int:
    """How often a word occurs, in the text form of `chunk.terms`; `mark` is how it stands there."""
    at = stored.find(mark)
    if at < 0:
        return 0
    end = stored.find(" ", at + len(mark))
    return int(stored[at + len(mark) : end if end >= 0 else len(stored)])


def _candidates(searched: SearchedSources, terms: Sequence[QueryTerm]) -> Iterable[tuple[int, int, int, str]]:
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
    values = {"query": query, "ids": list(searched.ids), "limit": CANDIDATES}
    return [tuple(row) for row in db.session.execute(_CANDIDATES, values)]


_CANDIDATES = text(
    "SELECT source_id, seq, length, terms::text FROM chunk"
    " WHERE terms @@ CAST(:query AS tsquery) AND source_id = ANY(:ids) LIMIT :limit"
)
