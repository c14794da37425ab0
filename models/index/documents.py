"""Documents: uploaded files that belong to a scope, what became of them, and their limits."""

import hashlib
import re
import unicodedata
import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core import jobs
from models.core.db import NOW, Base, BigInt, db, extension, lock_name, now
from models.core.errors import Conflict, DomainError
from models.core.files import files
from models.index.document_sources import source_of
from models.index.document_types import MAX_BYTES, sniff

DocumentState = Literal["queued", "parsing", "ready", "failed"]
FOLDER = "documents"
MAX_NAME = 200
_UNFIT = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")


class IndexScope(NamedTuple):
    """Where documents belong: an account, a thread or an assistant of one, or what a later room registers."""

    account_id: str
    kind: str
    id: str


class Document(Base):
    """One uploaded file. Its bytes are stored once for all documents with this SHA-256, its text once an account (`DocumentSource`).

    `report` says what was read: unit, parts, characters, tokens, chunks, notes, pictures, or the error. No foreign key names the
    account: it would wait for every call of the account.
    """

    __tablename__ = "document"
    __table_args__ = (
        CheckConstraint("(scope_kind ~ '^[a-z_]{1,30}$'::text)", name="scope_kind_plain"),
        CheckConstraint(
            "(state = ANY (ARRAY['queued'::text, 'parsing'::text, 'ready'::text, 'failed'::text]))",
            name="state_known",
        ),
        CheckConstraint("((bytes >= 0) AND (bytes <= 20971520))", name="bytes_limited"),
        CheckConstraint("((state <> 'ready'::text) OR (source_id IS NOT NULL))", name="ready_has_source"),
        Index("idx_document_scope", "scope_kind", "scope_id", "created_at", "id"),
        Index("idx_document_account", "account_id", "sha256"),
        Index("idx_document_user", "user_id", "id"),
        Index("idx_document_source", "source_id"),
        Index("idx_document_sha256", "sha256"),
        Index("idx_document_deleted", "deleted_at", postgresql_where=text("(deleted_at IS NOT NULL)")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    scope_kind: Mapped[str]
    scope_id: Mapped[str]
    name: Mapped[str]
    media_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInt)
    sha256: Mapped[str]
    state: Mapped[str]
    source_id: Mapped[int | None] = mapped_column(ForeignKey("document_source.id", ondelete="RESTRICT"))
    report: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]

    @property
    def scope(self) -> IndexScope:
        """Where it belongs."""
        return IndexScope(self.account_id, self.scope_kind, self.scope_id)


class DocumentTooLarge(DomainError):
    """The file has more than `MAX_BYTES`."""

    status = 413
    code = "file_too_large"


class DocumentsFull(Conflict):
    """The account has as many documents, or as many bytes of them, as it may."""

    code = "document_limit_reached"


def add_document(
    account_id: str, user_id: str | None, scope_kind: str, scope_id: str, name: str, data: bytes
) -> Document:
    """Store a file and enqueue its parsing in the current transaction. A file whose text is known already is ready at once.

    Takes an advisory lock of the account's documents until the commit. Raises UnknownType (415), DocumentTooLarge (413),
    DocumentsFull (409), FilesUnavailable (503).
    """
    if len(data) > MAX_BYTES:
        raise DocumentTooLarge(
            f"The file is larger than {MAX_BYTES >> 20} MB. Split it, and upload the parts."
        )
    media_type = sniff(data, name).media_type
    sha256 = hashlib.sha256(data).hexdigest()
    files(extension("settings")).write(blob_path(sha256), data)
    scope = IndexScope(account_id, scope_kind, scope_id)
    _check_limits(account_id, 1, len(data))
    return _insert(scope, user_id, plain_name(name), media_type, len(data), sha256)


def check_room(account_id: str, sizes: Collection[int]) -> None:
    """Raise DocumentsFull (409) if files of these sizes do not fit into the account's limits. Ask before `add_document`, which stores the file
    before it asks under its lock: else a full account fills the storage with files that no document has."""
    _check_used(account_id, len(sizes), sum(sizes))


def documents_of(scope_kind: str, scope_id: str) -> list[Document]:
    """The documents of a scope that are not deleted, oldest first."""
    query = select(Document).where(Document.scope_kind == scope_kind, Document.scope_id == scope_id)
    query = query.where(Document.deleted_at.is_(None)).order_by(Document.created_at, Document.id)
    return list(db.session.scalars(query))


def documents_page(scope: IndexScope, before: tuple[datetime, str] | None, limit: int) -> list[Document]:
    """At most `limit` documents of a scope, newest first, before the one with this time and id."""
    query = select(Document).where(
        Document.scope_kind == scope.kind,
        Document.scope_id == scope.id,
        Document.account_id == scope.account_id,
        Document.deleted_at.is_(None),
    )
    if before is not None:
        query = query.where(tuple_(Document.created_at, Document.id) < tuple_(*before))
    return list(
        db.session.scalars(query.order_by(Document.created_at.desc(), Document.id.desc()).limit(limit))
    )


def document_by_id(id: str) -> Document | None:
    """A document that is not deleted. Whoever calls it checks the scope."""
    row = db.session.get(Document, id) if len(id) <= 60 and "\x00" not in id else None
    return row if row is not None and row.deleted_at is None else None


def delete_document(document: Document) -> None:
    """Take a document out of lists and searches at once; a job removes its bytes and text later. Idempotent."""
    if document.deleted_at is None:
        document.deleted_at = now()
        db.session.flush()


def delete_scope(kind: str, id: str) -> None:
    """Delete all documents of a scope, as `delete_document` does. Idempotent."""
    for document in documents_of(kind, id):
        document.deleted_at = now()
    db.session.flush()


def copy_documents(
    from_scope: IndexScope,
    to_scope: IndexScope,
    user_id: str | None = None,
    *,
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Add the documents of one scope, or `only` those with these ids, to another, also of another account; returns the new id of each old one.

    Bytes are shared; in another account the text is made again. Raises DocumentsFull (409).
    """
    found = [
        each
        for each in documents_of(from_scope.kind, from_scope.id)
        if each.account_id == from_scope.account_id and (only is None or each.id in only)
    ]
    if not found:
        return {}
    _check_limits(to_scope.account_id, len(found), sum(each.bytes for each in found))
    return {
        each.id: _insert(to_scope, user_id, each.name, each.media_type, each.bytes, each.sha256).id
        for each in found
    }


def document_bytes(document: Document) -> bytes | None:
    """The file as it was uploaded. Raises FilesUnavailable."""
    return files(extension("settings")).read(blob_path(document.sha256))


def storage_used(account_id: str) -> tuple[int, int]:
    """Number and bytes of an account's documents."""
    query = select(func.count(), func.coalesce(func.sum(Document.bytes), 0))
    row = db.session.execute(
        query.where(Document.account_id == account_id, Document.deleted_at.is_(None))
    ).one()
    return row[0], int(row[1])


def blob_path(sha256: str) -> str:
    """Where the bytes are stored."""
    return f"{FOLDER}/{sha256}"


def plain_name(name: str) -> str:
    """A file's name without folders and control characters, at most `MAX_NAME` characters."""
    base = re.split(r"[/\\]", unicodedata.normalize("NFC", _UNFIT.sub("", name)))[-1].strip()
    if len(base) > MAX_NAME:
        stem, _, ending = base.rpartition(".")
        base = f"{stem[: MAX_NAME - 12]}….{ending}" if stem and len(ending) <= 10 else base[:MAX_NAME]
    return base if base.strip(".") else "document"


def _check_limits(account_id: str, count: int, size: int) -> None:
    lock_name(f"documents {account_id}")
    _check_used(account_id, count, size)


def _check_used(account_id: str, count: int, size: int) -> None:
    settings = extension("settings")
    had, used = storage_used(account_id)
    if had + count > settings.stoa_documents_per_account:
        limit = f"{settings.stoa_documents_per_account:,} documents"
        raise DocumentsFull(f"This account may have {limit}. Delete some, then upload again.")
    if used + size > settings.stoa_document_bytes_per_account:
        limit = f"{settings.stoa_document_bytes_per_account // 1_000_000:,} MB of documents"
        raise DocumentsFull(f"This account may have {limit}. Delete some, then upload again.")


def _insert(
    scope: IndexScope, user_id: str | None, name: str, media_type: str, size: int, sha256: str
) -> Document:
    source = source_of(scope.account_id, sha256)
    document = Document(
        id=f"file-{uuid.uuid4().hex}",
        account_id=scope.account_id,
        user_id=user_id,
        scope_kind=scope.kind,
        scope_id=scope.id,
        name=name,
        media_type=media_type,
        bytes=size,
        sha256=sha256,
        state="ready" if source else "queued",
        source_id=source.id if source else None,
        report=source.report if source else {},
        created_at=now(),
    )
    db.session.add(document)
    db.session.flush()
    if source is None:
        lock = f"index.parse {scope.account_id}"
        jobs.enqueue(jobs.parse_document, lock=lock, document_id=document.id)
    return document
