"""Cuts the text of a document into chunks of a few hundred tokens, at paragraphs, lines and sentences where it can."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from models.gateway import tokens

CHUNKER_VERSION = 1
"""Raised when chunks, terms or parsers change so that texts must be made again."""
MOST_TOKENS, ENOUGH_TOKENS = 400, 200
MAX_PIECE = 1_000
"""Characters of the longest piece that is never cut."""
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_SENTENCE = re.compile(r"(?<=[.!?。！？;])\s+|(?<=[。！？])|\s+")
_HEADING = re.compile(
    r"#{1,6} |\d+(\.\d+)*\.? +[A-Z]|(def|class|func|function|fn|pub|export|interface|struct|impl) "
)


class TextChunk(NamedTuple):
    """Characters `start` to `end` of a text, on the parts or lines `first` to `last` (from 1)."""

    start: int
    end: int
    first: int
    last: int
    tokens: int
    text: str


def chunked(unit: str, parts: Sequence[str]) -> tuple[list[int], list[TextChunk]]:
    """Where each part begins in the whole text, and the chunks. Joined, they are the whole text; none spans two parts.

    For `line`, there is one part and chunks are numbered by lines; else by parts. A newline ends each part but the last.
    """
    texts = [part.rstrip() + ("\n" if number < len(parts) else "") for number, part in enumerate(parts, 1)]
    starts = [0, *accumulate(len(text) for text in texts)][: len(texts)]
    chunks: list[TextChunk] = []
    for number, (start, text) in enumerate(zip(starts, texts, strict=True), 1):
        by_line = unit == "line"
        breaks = [match.start() for match in re.finditer("\n", text)] if by_line else []
        for begin, end, count in _spans(text):
            first = bisect_left(breaks, begin) + 1 if by_line else number
            last = bisect_left(breaks, end - 1) + 1 if by_line else number
            chunks.append(TextChunk(start + begin, start + end, first, last, count, text[begin:end]))
    return starts, chunks


def _spans(text: str) -> Iterator[tuple[int, int, int]]:
    """Begin, end and tokens of each chunk of one part."""
    begin = at = size = 0
    blank = True  # so far; looked at piece by piece, because a text may have a million empty lines
    for piece in _pieces(text):
        count = tokens.count(piece)
        full = size + count > MOST_TOKENS and (not blank or size > MOST_TOKENS)
        if full or (not blank and size >= ENOUGH_TOKENS and _HEADING.match(piece)):
            yield begin, at, size
            begin, size, blank = at, 0, True
        blank = blank and piece.isspace()
        at += len(piece)
        size += count
    if at > begin:
        yield begin, at, size


def _pieces(text: str) -> Iterator[str]:
    """The lines of a text with their ends; long ones in sentences, or wherever."""
    for line in _LINE.findall(text):
        if len(line) <= MAX_PIECE:
            yield line
            continue
        begin = cut = 0
        for match in _SENTENCE.finditer(line):
            while match.end() - begin > MAX_PIECE:
                end = cut if cut > begin else begin + MAX_PIECE
                yield line[begin:end]
                begin = end
            cut = match.end()
        while begin < len(line):
            yield line[begin : begin + MAX_PIECE]
            begin += MAX_PIECE
