"""Removes deleted documents for good, and the texts and files that no document has any more."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from models.core.db import db
from models.core.files import Files
from models.index.document_sources import DocumentSource, delete_sources
from models.index.documents import FOLDER, Document, blob_path
from models.index.live_sources import LIVE

Transaction = Callable[[], AbstractContextManager[None]]
KEPT_FOR = timedelta(days=7)
"""How long a deleted document's row, text and file stay."""
LOST_AFTER = timedelta(days=1)
"""A document that waits longer has lost its job."""
UNUSED_FOR = timedelta(days=1)
"""How long a file stays that no document has: its upload may not be committed yet."""
BATCH = 200
LOST = "This file could not be read: its job was lost. Upload it again."


def purge_documents(transaction: Transaction, files: Files, now: datetime) -> None:
    """Remove what was deleted `KEPT_FOR` ago, in batches, and unused files. Idempotent. Raises FilesUnavailable."""
    with transaction():
        _fail_lost(now)
    more = True
    while more:
        with transaction():
            more = _forget_deleted(now)
    more = True
    while more:
        with transaction():
            more = _forget_sources()
    _remove_files(transaction, files, now)


def forget_account(account_id: str) -> None:
    """Delete the documents of an account that is erased, and their texts; the next purge removes the files. Flushes."""
    db.session.execute(delete(Document).where(Document.account_id == account_id))
    db.session.execute(delete(DocumentSource).where(DocumentSource.account_id == account_id))


def _fail_lost(now: datetime) -> None:
    lost = Document.state.in_(("queued", "parsing")), Document.created_at < now - LOST_AFTER
    db.session.execute(
        update(Document).where(*lost).values(state="failed", report={"error": LOST, "notes": []})
    )


def _forget_deleted(now: datetime) -> bool:
    old = select(Document.id).where(Document.deleted_at < now - KEPT_FOR).limit(BATCH)
    gone = list(db.session.scalars(delete(Document).where(Document.id.in_(old)).returning(Document.id)))
    return len(gone) == BATCH


def _forget_sources() -> bool:
    used = select(Document.id).where(Document.source_id == DocumentSource.id).exists()
    unused = (
        select(DocumentSource.id)
        .where(~used, DocumentSource.version != LIVE)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    ids = list(db.session.scalars(unused))
    delete_sources(ids)
    return len(ids) == BATCH


def _remove_files(transaction: Transaction, files: Files, now: datetime) -> None:
    old = [name for name, since in files.names(FOLDER).items() if since < now - UNUSED_FOR]
    for start in range(0, len(old), BATCH):
        names = old[start : start + BATCH]
        for name in set(names) - _used(transaction, names):
            content = files.read(blob_path(name))
            files.remove(blob_path(name))
            # files and database share no lock: an upload of the same bytes may have been committed meanwhile
            if content is not None and _used(transaction, [name]):
                files.write(blob_path(name), content)


def _used(transaction: Transaction, names: Collection[str]) -> set[str]:
    with transaction():
        return set(db.session.scalars(select(Document.sha256).where(Document.sha256.in_(names)).distinct()))
