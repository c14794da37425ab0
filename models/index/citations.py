"""Checks citations, and returns the text of documents: whole, or by pages and lines.

A chunk's id is `<document id>#<number>`. Quoted words count as found whatever their spaces, line ends, quotation marks, dashes,
ligatures and case are.
"""

import re
import unicodedata
from bisect import bisect_right
from typing import NamedTuple

from models.core.db import db
from models.index.document_sources import Chunk, DocumentSource, chunks_of
from models.index.documents import Document, document_by_id

WHOLE_TOKENS = 4_000
"""Documents with at most as many tokens may go into a prompt whole."""
MAX_QUOTE = 2_000
_CHUNK_ID = re.compile(r"(file-[0-9a-f]{32})#(0|[1-9]\d{0,8})", re.ASCII)
_ELLIPSIS = re.compile(r"(?:\[\s?)?(?:\.\.\.|…)(?:\s?\])?")
_SAME = {
    **dict.fromkeys("‘’‚‛′`´ʼ", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−", "-"),
}
_INVISIBLE = frozenset("\u00ad\u200b\u200c\u200d\u2060\ufeff")


class CitedSpot(NamedTuple):
    """Where quoted words stand: pages or lines `first` to `last`, characters `start` to `end` of the whole text, and the words there."""

    document_id: str
    chunk_id: str
    unit: str
    first: int
    last: int
    start: int
    end: int
    text: str


def check_citation(chunk_id: str, quote: str) -> CitedSpot | None:
    """Where the quoted words stand in the chunk or, cut by its edge, the next to it; None if they do not, or there is no such chunk.

    An ellipsis leaves words out. Whoever calls it checks the document's scope.
    """
    named = _CHUNK_ID.fullmatch(chunk_id)
    document = document_by_id(named[1]) if named else None
    if named is None or document is None or document.source_id is None or len(quote) > MAX_QUOTE:
        return None
    seq = int(named[2])
    around = chunks_of(document.source_id, max(seq - 1, 0), seq + 1)
    own = [chunk for chunk in around if chunk.seq == seq]
    for chunks in (own, around) if own else ():
        found = quoted_range("".join(chunk.text for chunk in chunks), quote)
        if found is not None:
            return _spot(document, chunk_id, chunks, *found)
    return None


def quoted_range(text: str, quote: str) -> tuple[int, int] | None:
    """The characters of `text` that are the quoted words, or None."""
    plain, places = _plain(text)
    begin = end = None
    at = 0
    for part in _ELLIPSIS.split(quote.strip().strip("\"'“”‘’„«»")):
        wanted = _plain(part)[0].strip()
        if not wanted:
            continue
        at = plain.find(wanted, at)
        if at < 0:
            return None
        begin = places[at] if begin is None else begin
        at += len(wanted)
        end = places[at - 1] + 1
    if begin is None or end is None or not re.search(r"\w", text[begin:end]):
        return None
    return begin, end


def whole_text(document: Document) -> str | None:
    """The text of a document that is small enough for a prompt (`WHOLE_TOKENS`), else None."""
    source = source_of_document(document)
    if source is None or source.tokens > WHOLE_TOKENS:
        return None
    return "".join(chunk.text for chunk in chunks_of(source.id))


def source_of_document(document: Document) -> DocumentSource | None:
    """The text of a document that is ready."""
    return db.session.get(DocumentSource, document.source_id) if document.source_id is not None else None


def _spot(document: Document, chunk_id: str, chunks: list[Chunk], begin: int, end: int) -> CitedSpot:
    source = source_of_document(document)
    assert source is not None
    text = "".join(chunk.text for chunk in chunks)
    start = chunks[0].start
    if source.unit == "line":
        first = chunks[0].first + text.count("\n", 0, begin)
        last = first + text.count("\n", begin, end)
    else:
        first = bisect_right(source.part_starts, start + begin)
        last = bisect_right(source.part_starts, start + end - 1)
    return CitedSpot(
        document.id, chunk_id, source.unit, first, last, start + begin, start + end, text[begin:end]
    )


def _plain(text: str) -> tuple[str, list[int]]:
    """Text in its simplest form, and the place of each of its characters in the original."""
    signs: list[str] = []
    places: list[int] = []
    for place, sign in enumerate(text):
        if sign in _INVISIBLE:
            continue
        for each in unicodedata.normalize("NFKC", _SAME.get(sign, sign)).casefold():
            each = " " if each.isspace() else _SAME.get(each, each)
            if each == " " and (not signs or signs[-1] == " "):
                continue
            signs.append(each)
            places.append(place)
    return "".join(signs), places
