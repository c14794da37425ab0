"""Documents: uploaded files, parsed apart, cut into chunks, searched by words and vectors, and cited by page and line."""

from models.index import exported_documents
from models.index.chunking import CHUNKER_VERSION
from models.index.citations import CitedSpot, check_citation, quoted_range, source_of_document, whole_text
from models.index.document_search import MAX_QUERY, MAX_TOP_K, Hit, SearchAnswer, search
from models.index.document_sources import Chunk, DocumentSource, SourceTerm, chunks_of
from models.index.document_types import MAX_BYTES, UnknownType
from models.index.documents import (
    Document,
    DocumentsFull,
    DocumentTooLarge,
    IndexScope,
    add_document,
    check_room,
    copy_documents,
    delete_document,
    delete_scope,
    document_by_id,
    document_bytes,
    documents_of,
    documents_page,
    storage_used,
)
from models.index.scope_access import (
    DocumentReader,
    readable_document,
    readable_scope,
    register_scope,
    writable_scope,
)
from models.index.vectors import enable_vectors, vector_state

__all__ = [
    "CHUNKER_VERSION",
    "MAX_BYTES",
    "MAX_QUERY",
    "MAX_TOP_K",
    "Chunk",
    "CitedSpot",
    "Document",
    "DocumentReader",
    "DocumentSource",
    "DocumentTooLarge",
    "DocumentsFull",
    "Hit",
    "IndexScope",
    "SearchAnswer",
    "SourceTerm",
    "UnknownType",
    "add_document",
    "check_citation",
    "check_room",
    "chunks_of",
    "copy_documents",
    "delete_document",
    "delete_scope",
    "document_by_id",
    "document_bytes",
    "documents_of",
    "documents_page",
    "enable_vectors",
    "exported_documents",
    "quoted_range",
    "readable_document",
    "readable_scope",
    "register_scope",
    "search",
    "source_of_document",
    "storage_used",
    "vector_state",
    "whole_text",
    "writable_scope",
]
