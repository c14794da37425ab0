"""Checks what an answer cites: quoted words must stand in the chunk that is named, or the mark is taken out of the text."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from models import index
from models.index import IndexScope

MAX_CITATIONS = 100
_MARK = re.compile(r"【([^【】]{1,2400})】")
_CHUNK = re.compile(r"file-[0-9a-f]{32}#[0-9]{1,9}")
_QUOTES = "\"'“”‘’„«»:|,;- \n\t"


class CheckedAnswer(NamedTuple):
    """The text with the marks of valid citations as numbers, `【1】`, and all citations: valid ones with where their words stand."""

    text: str
    citations: list[dict[str, Any]]


def check_answer(text: str, scopes: Sequence[IndexScope]) -> CheckedAnswer:
    """Check the citations in an answer against the documents of these scopes. Marks that name no chunk stay as they are."""
    citations: list[dict[str, Any]] = []
    numbers: dict[tuple[str, str], int] = {}

    def replace(match: re.Match[str]) -> str:
        chunk = _CHUNK.match(match[1].strip())
        if chunk is None:
            return match[0]
        chunk_id = chunk[0]
        quote = match[1].strip()[chunk.end() :].strip(_QUOTES)
        if (chunk_id, quote) in numbers:
            return f"【{numbers[chunk_id, quote]}】"
        found = _checked(chunk_id, quote, scopes) if len(citations) < MAX_CITATIONS else None
        if found is None:
            if len(citations) < MAX_CITATIONS:
                citations.append({"valid": False, "chunk_id": chunk_id, "quote": quote})
            return ""
        number = numbers[chunk_id, quote] = len(numbers) + 1
        citations.append({"valid": True, "number": number, **found})
        return f"【{number}】"

    return CheckedAnswer(_MARK.sub(replace, text), citations)


def _checked(chunk_id: str, quote: str, scopes: Sequence[IndexScope]) -> dict[str, Any] | None:
    document = index.document_by_id(chunk_id.partition("#")[0])
    if document is None or document.scope not in scopes or not quote:
        return None
    spot = index.check_citation(chunk_id, quote)
    if spot is None:
        return None
    return {
        "chunk_id": chunk_id,
        "document_id": document.id,
        "name": document.name,
        "unit": spot.unit,
        "first": spot.first,
        "last": spot.last,
        "start": spot.start,
        "end": spot.end,
        "quote": spot.text,
    }
