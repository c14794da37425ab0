"""What `stoa/demo` says when it was given documents: the sentence that shares the most words with the question, cited as it was asked to."""

import re
from collections.abc import Iterator, Sequence

MAX_TEXT = 200_000
"""Characters of system text and results that are read."""
SEARCH = "file_search"
NOTHING = "The documents say nothing about this."
_PASSAGE = re.compile(r"【(file-[0-9a-f]{32}#[0-9]{1,9})】([^【]*)")
_SENTENCE = re.compile(r"[^.!?]+[.!?]?")
_WORD = re.compile(r"\w{4,40}")
SHORTEST, LONGEST = 20, 300
"""Characters of a sentence that is quoted."""


def passages(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The chunk ids in these texts, each with what it says."""
    whole = "\n".join(texts)[:MAX_TEXT]
    return [(id, _said(text)) for id, text in _PASSAGE.findall(whole)]


def cited(question: str, found: Sequence[tuple[str, str]]) -> str:
    """The answer from these passages."""
    asked = set(_WORD.findall(question.lower()))
    best, most = NOTHING, 0
    for id, text in found:
        for sentence in _sentences(text):
            shared = len(asked & set(_WORD.findall(sentence.lower())))
            if shared > most:
                best, most = f'{sentence} 【{id} "{sentence}"】', shared
    return best


def _said(text: str) -> str:
    """The text between the fences, if a result of a search names the document before it."""
    _, opened, inside = text.partition("<document-")
    if opened:
        text = inside.partition("\n")[2]
    return text.partition("</document-")[0]


def _sentences(text: str) -> Iterator[str]:
    for part in _SENTENCE.findall(text):
        sentence = " ".join(part.split())
        if SHORTEST <= len(sentence) <= LONGEST and '"' not in sentence:
            yield sentence
