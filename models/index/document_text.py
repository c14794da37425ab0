"""The extracted text of a document as a page shows it: by pages or lines, a window at a time, with cited words marked."""

from dataclasses import dataclass, field

from sqlalchemy import select

from models.core.db import db
from models.index.citations import CitedSpot
from models.index.document_sources import Chunk, DocumentSource, chunks_of
from models.index.documents import Document

WINDOW = 40
"""Chunks of a window."""


@dataclass
class TextSection:
    """A page, slide or sheet, or some lines; `pieces` are texts and whether they are cited."""

    anchor: str
    title: str
    pieces: list[tuple[str, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class DocumentText:
    """A window of a document's text. `before` and `after` are the numbers of a chunk in the window before and after it."""

    sections: list[TextSection]
    before: int | None
    after: int | None


def document_text(document: Document, *, at: int = 0, spot: CitedSpot | None = None) -> DocumentText:
    """The window with the chunk `at`, or with the cited words. Empty unless the document is ready."""
    if document.source_id is None:
        return DocumentText([], None, None)
    source = db.session.get_one(DocumentSource, document.source_id)
    if spot is not None:
        at = _chunk_at(source.id, spot.start)
    start = min(at, max(source.chunks - 1, 0)) // WINDOW * WINDOW
    sections: list[TextSection] = []
    for chunk in chunks_of(source.id, start, start + WINDOW - 1):
        title = _title(source.unit, chunk)
        if not sections or sections[-1].title != title:
            anchor = title.lower().replace(" ", "-")
            sections.append(TextSection(anchor, title))
        sections[-1].pieces += _pieces(chunk, spot)
    following = start + WINDOW
    return DocumentText(
        sections, start - WINDOW if start else None, following if following < source.chunks else None
    )


def chunk_spot(document: Document, seq: int) -> CitedSpot | None:
    """A whole chunk as if it were cited, or None if there is none with this number."""
    chunk = db.session.get(Chunk, (document.source_id, seq)) if document.source_id is not None else None
    if chunk is None:
        return None
    unit = str(document.report.get("unit", "line"))
    return CitedSpot(
        document.id, f"{document.id}#{seq}", unit, chunk.first, chunk.last, chunk.start, chunk.end, chunk.text
    )


def _chunk_at(source_id: int, start: int) -> int:
    query = select(Chunk.seq).where(Chunk.source_id == source_id, Chunk.start <= start)
    return db.session.scalar(query.order_by(Chunk.start.desc(), Chunk.seq.desc()).limit(1)) or 0


def _title(unit: str, chunk: Chunk) -> str:
    if unit != "line":
        return f"{unit.capitalize()} {chunk.first}"
    return f"Lines {chunk.first}-{chunk.last}" if chunk.first != chunk.last else f"Line {chunk.first}"


def _pieces(chunk: Chunk, spot: CitedSpot | None) -> list[tuple[str, bool]]:
    if spot is None or spot.end <= chunk.start or spot.start >= chunk.end:
        return [(chunk.text, False)]
    begin, end = max(spot.start - chunk.start, 0), min(spot.end, chunk.end) - chunk.start
    parts = ((chunk.text[:begin], False), (chunk.text[begin:end], True), (chunk.text[end:], False))
    return [(text, cited) for text, cited in parts if text]
