"""Makes the text of an uploaded document: parsed in a process of its own, cut into chunks, indexed by words and vectors."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import func, select, update

from models.core.db import db, extension
from models.core.files import files
from models.index.chunking import chunked
from models.index.document_sources import DocumentSource, chunks_of, source_of, write_source
from models.index.document_types import sniff
from models.index.documents import Document, blob_path
from models.index.parser_runner import ParserOutput, run_parser
from models.index.vectors import sources_without_vectors, write_vectors

Transaction = Callable[[], AbstractContextManager[None]]
EMPTY = "No text was found in this file."
EMBEDDED_AT_ONCE = 20


def parse_document(transaction: Transaction, document_id: str) -> None:
    """Parse a document that waits for it; others like it, in its account, become ready with it. Idempotent.

    No transaction is open while the file is read and parsed. Raises FilesUnavailable.
    """
    with transaction():
        document = db.session.get(Document, document_id)
        if document is None or document.deleted_at or document.state not in ("queued", "parsing"):
            return
        document.state = "parsing"
        account_id, sha256, name = document.account_id, document.sha256, document.name
    data = files(extension("settings")).read(blob_path(sha256))
    if data is None:
        output = ParserOutput(error="The file is gone from the storage. Upload it again.")
    else:
        output = run_parser(sniff(data, name).kind, data)
        if output.error is None and not any(part.strip() for part in output.parts):
            output.error = " ".join((*output.notes, EMPTY))
    if output.error:
        with transaction():
            _update(account_id, sha256, state="failed", report=_report(output, 0, 0))
        return
    starts, chunks = chunked(output.unit, output.parts)
    report = _report(output, sum(chunk.tokens for chunk in chunks), len(chunks))
    with transaction():
        lock = func.hashtextextended(f"document {account_id} {sha256}", 0)
        db.session.execute(select(func.pg_advisory_xact_lock(lock)))
        source = source_of(account_id, sha256)
        if source is None:
            source = write_source(
                account_id, sha256, unit=output.unit, part_starts=starts, chunks=chunks, report=report
            )
            write_vectors(source.id, [chunk.text for chunk in chunks])
        _update(account_id, sha256, state="ready", report=source.report, source_id=source.id)


def embed_missing(transaction: Transaction) -> None:
    """Make the vectors of texts that have none, after the extension was installed or the embedder changed. Idempotent."""
    while True:
        with transaction():
            ids = sources_without_vectors(EMBEDDED_AT_ONCE)
        if not ids:
            return
        for id in ids:
            with transaction():
                if db.session.get(DocumentSource, id, with_for_update={"key_share": True}) is not None:
                    write_vectors(id, [chunk.text for chunk in chunks_of(id)])


def _report(output: ParserOutput, tokens: int, chunks: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "unit": output.unit,
        "parts": len(output.parts),
        "characters": sum(len(part) for part in output.parts),
        "tokens": tokens,
        "chunks": chunks,
        "notes": output.notes,
        "pictures": output.pictures,
    }
    return {**found, "error": output.error} if output.error else found


def _update(account_id: str, sha256: str, **values: Any) -> None:
    waiting = (
        Document.account_id == account_id,
        Document.sha256 == sha256,
        Document.state.in_(("queued", "parsing")),
    )
    db.session.execute(update(Document).where(*waiting).values(values))
