"""Turns texts into vectors. The default needs no model and no download: words and their pieces are hashed to 256 dimensions.

Texts about the same words get near vectors, also in other forms of them (invoice, invoices, invoicing), with typing errors and in
compounds, which the search for words misses. It knows no synonyms; an embedder with a trained model may replace it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from models.index.terms import STOP_WORDS, term_counts

DIMENSIONS = 256
Weight = Callable[[str], float]


class Embedder(Protocol):
    """Makes vectors of `DIMENSIONS` numbers with length 1 (or all 0, if there is nothing to tell)."""

    name: str
    """Stored with each vector; vectors of other embedders are not compared."""

    def texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of texts that are searched."""

    def query(self, query: str, weight: Weight) -> list[float]:
        """The vector of a query; `weight` says how rare a word is in what is searched."""


class HashingEmbedder:
    """Random projections of words and their pieces of three to five letters."""

    name = "hash-1"

    def texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Frequent words count by the logarithm, those that say little a tenth."""
        return [
            _combined(
                {term: (1 + math.log(count)) * _plain(term) for term, count in term_counts(text).items()}
            )
            for text in texts
        ]

    def query(self, query: str, weight: Weight) -> list[float]:
        """Words count by their rarity."""
        return _combined({term: weight(term) * _plain(term) for term in term_counts(query)})


def embedder() -> Embedder:
    """The embedder in use."""
    return _DEFAULT


def _plain(term: str) -> float:
    return 0.1 if term in STOP_WORDS else 1.0


def _combined(weights: Mapping[str, float]) -> list[float]:
    vector = [0.0] * DIMENSIONS
    for term, weight in weights.items():
        for index, value in _projected(term):
            vector[index] += weight * value
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else vector


@lru_cache(maxsize=50_000)
def _projected(term: str) -> tuple[tuple[int, float], ...]:
    """A word's dimensions and their values; the whole word counts as much as its pieces together."""
    framed = f"<{term}>"
    pieces = [framed[at : at + size] for size in (3, 4, 5) for at in range(len(framed) - size + 1)]
    found: dict[int, float] = {}
    each = 1 / math.sqrt(len(pieces)) if pieces else 0.0
    for piece, value in ((f"\x00{term}", 1.0), *((piece, each) for piece in pieces)):
        digest = blake2b(piece.encode(), digest_size=8).digest()
        for place in range(4):
            index, sign = digest[place], 1 if digest[4 + place] & 1 else -1
            found[index] = found.get(index, 0.0) + sign * value
    return tuple(found.items())


_DEFAULT = HashingEmbedder()
