"""Large files sent in parts: each part is cut into chunks and stored when it comes, so that a client goes on where it stopped."""

import hashlib
import re
from typing import NamedTuple

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.selectable import TypedReturnsRows

from models.core.cooperative import in_slices
from models.core.db import db, extension
from models.core.errors import Conflict, Invalid
from models.projects.snapshots.blob_packs import (
    BlobTooLarge,
    blob_row,
    existing_blobs,
    put_blobs,
    put_chunked,
    stream_of_chunks,
)
from models.projects.snapshots.content_chunks import cut
from models.projects.snapshots.stored_objects import PartUpload

MOST_OPEN = 20
"""Files that an account may be sending in parts."""
_HASH = re.compile(r"[0-9a-f]{64}")


class PartState(NamedTuple):
    """How much of a file was received. `complete`: it is stored, `created` now. `mismatch`: all parts came, and have another hash; they
    are forgotten."""

    received: int
    complete: bool = False
    created: bool = False
    mismatch: bool = False


class OtherPart(Conflict):
    """The next part must begin elsewhere."""

    code = "other_part"

    def __init__(self, received: int) -> None:
        super().__init__(f"The next part must begin at byte {received}.")
        self.received = received


def part_state(account_id: str, sha256: str) -> PartState:
    """Where to go on sending a file; zero bytes were received if it is unknown."""
    if (stored := _stored(account_id, sha256)) is not None:
        return stored
    upload = _upload(account_id, sha256)
    return PartState(upload.received if upload else 0)


def put_part(account_id: str, sha256: str, size: int, offset: int, data: bytes) -> PartState:
    """Store a part of a file of `size` bytes; the last one completes it. Flushes; commit also a mismatch. Raises Invalid (422), OtherPart
    (409), Conflict for too many files at once, BlobTooLarge and QuotaExceeded (413), FilesUnavailable (503)."""
    _check(sha256, size, offset, data)
    if (stored := _stored(account_id, sha256)) is not None:
        return stored
    upload = _upload(account_id, sha256)
    received = upload.received if upload and upload.size == size else 0
    if offset != received:
        raise OtherPart(received)
    pieces = cut((upload.tail if upload and received else b"") + data)
    last = received + len(data) == size
    tail = b"" if last else pieces.pop()
    hashed = [(hashlib.sha256(piece).hexdigest(), piece) for piece in in_slices(pieces)]
    put_blobs(account_id, hashed)
    chunks = (upload.chunks if upload and received else []) + [hash for hash, _ in hashed]
    _advance(account_id, sha256, size, received, len(data), chunks, tail)
    return _complete(account_id, sha256, size, chunks) if last else PartState(received + len(data))


def _check(sha256: str, size: int, offset: int, data: bytes) -> None:
    most = extension("settings").stoa_project_file_bytes
    if not _HASH.fullmatch(sha256):
        raise Invalid("The address must end in the SHA-256 of the file, in 64 lower-case hexadecimal digits.")
    if size > most:
        raise BlobTooLarge(f"The file is larger than {most // 1_000_000:,} MB. Ignore it, or split it.")
    if not data or offset + len(data) > size:
        raise Invalid("A part has at least one byte, and does not go beyond 'size'.")


def _stored(account_id: str, sha256: str) -> PartState | None:
    """The state of a file that is stored, which stays for another day."""
    row = blob_row(account_id, sha256)
    if row is None or not existing_blobs(account_id, [sha256]):
        return None
    return PartState(row.size, complete=True)


def _upload(account_id: str, sha256: str) -> PartUpload | None:
    if not _HASH.fullmatch(sha256):
        return None
    return db.session.get(PartUpload, (account_id, sha256), populate_existing=True)


def _advance(
    account_id: str, sha256: str, size: int, received: int, more: int, chunks: list[str], tail: bytes
) -> None:
    """Note the part, unless another request did. Raises OtherPart, Conflict."""
    values = {
        "size": size,
        "received": received + more,
        "chunks": chunks,
        "tail": tail,
        "updated_at": func.now(),
    }
    mine = PartUpload.account_id == account_id, PartUpload.sha256 == sha256
    statement: TypedReturnsRows[tuple[str]]
    if received:
        same = PartUpload.received == received, PartUpload.size == size
        statement = update(PartUpload).where(*mine, *same).values(values).returning(PartUpload.sha256)
    else:
        count = select(func.count()).where(PartUpload.account_id == account_id, PartUpload.sha256 != sha256)
        if (db.session.scalar(count) or 0) >= MOST_OPEN:
            raise Conflict(
                f"This account is sending {MOST_OPEN} large files already. Finish one first.",
                code="too_many_parts",
            )
        # one with another size was begun for other bytes
        begun = insert(PartUpload).values(account_id=account_id, sha256=sha256, **values)
        statement = begun.on_conflict_do_update(
            index_elements=["account_id", "sha256"], set_=values, where=PartUpload.size != size
        ).returning(PartUpload.sha256)
    noted = db.session.scalars(statement, execution_options={"synchronize_session": False}).one_or_none()
    if noted is None:
        found = _upload(account_id, sha256)
        raise OtherPart(found.received if found and found.size == size else 0)


def _complete(account_id: str, sha256: str, size: int, chunks: list[str]) -> PartState:
    """Store the file of these chunks, if they make it, and forget its parts."""
    gone = delete(PartUpload).where(PartUpload.account_id == account_id, PartUpload.sha256 == sha256)
    db.session.execute(gone.execution_options(synchronize_session=False))
    if existing_blobs(account_id, chunks) != set(chunks):
        return PartState(0)
    hashed = hashlib.sha256()
    for piece in in_slices(stream_of_chunks(account_id, chunks)):
        hashed.update(piece)
    if hashed.hexdigest() != sha256:
        return PartState(0, mismatch=True)
    created = chunks == [sha256] or put_chunked(account_id, sha256, size, chunks)
    return PartState(size, complete=True, created=created)
