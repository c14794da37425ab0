"""The words of a text, as they are searched: lower case, identifiers also split, pairs of signs where a script has no spaces."""

import re
import unicodedata
from collections import Counter

MAX_TERM = 60
MAX_QUERY_TERMS = 32
_WORD = re.compile(r"\w+")
_PIECE = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_SPACELESS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "me",
        "my",
        "no",
        "not",
        "of",
        "on",
        "or",
        "our",
        "she",
        "so",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
        "der",
        "die",
        "das",
        "und",
        "ist",
        "ein",
        "eine",
        "zu",
        "den",
        "von",
        "mit",
        "im",
        "auf",
        "für",
        "nicht",
        "le",
        "la",
        "les",
        "de",
        "des",
        "du",
        "et",
        "est",
        "un",
        "une",
        "en",
        "que",
        "pour",
        "dans",
        "el",
        "los",
        "las",
        "una",
        "y",
        "es",
        "por",
        "con",
        "para",
        "o",
        "e",
        "il",
        "di",
        "che",
        "non",
        "per",
        "um",
        "uma",
        "não",
        "com",
    ]
)
"""Words that say little, in the languages that Stoa meets most."""


def words(text: str) -> list[str]:
    """All terms of a text, in order, with repetitions."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text)):
        if not word.isascii() and _SPACELESS.search(word):
            found += _spaceless(word)
            continue
        whole = word.strip("_").casefold()
        if not whole:
            continue
        found.append(whole[:MAX_TERM])
        if len(word) > 3 and ("_" in word or not (word.islower() or word.istitle() or word.isdigit())):
            pieces = [piece.casefold() for piece in _PIECE.findall(word)]
            if len(pieces) > 1:
                found += [piece[:MAX_TERM] for piece in pieces if len(piece) > 1]
    return found


def term_counts(text: str) -> Counter[str]:
    """How often each term occurs."""
    return Counter(words(text))


def query_terms(query: str) -> list[str]:
    """The different terms of a query, at most `MAX_QUERY_TERMS`; without words that say little, if others remain."""
    found = list(dict.fromkeys(words(query)))
    meaningful = [term for term in found if term not in STOP_WORDS]
    return (meaningful or found)[:MAX_QUERY_TERMS]


def _spaceless(word: str) -> list[str]:
    """Pairs of neighbouring signs, and what stands between in other scripts."""
    found: list[str] = []
    end = 0
    for run in _SPACELESS.finditer(word):
        if run.start() > end:
            found.append(word[end : run.start()].casefold()[:MAX_TERM])
        signs = run.group()
        found += [signs[index : index + 2] for index in range(len(signs) - 1)] if len(signs) > 1 else [signs]
        end = run.end()
    if end < len(word):
        found.append(word[end:].casefold()[:MAX_TERM])
    return found
