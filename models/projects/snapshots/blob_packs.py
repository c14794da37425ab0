"""Blobs: the bytes of files, stored once an account in packs of the file storage, and read back checked against their hash."""

import hashlib
import sys
import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Text, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from models.core.cooperative import heavy
from models.core.db import BigInt, db, extension
from models.core.errors import DomainError, Invalid
from models.core.files import files
from models.projects.snapshots.content_chunks import LARGE, cut
from models.projects.snapshots.stored_objects import Blob, Pack, ProjectStorage, among_hashes, rows_of_json

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FOLDER = "projects"
MAX_BLOB = 25 << 20
"""Bytes of a file that is sent or read whole; larger ones are sent in parts, and read as a stream."""
PACK_BYTES = 12 << 20
"""Bytes after which a pack is full; one file more may make it larger."""
AHEAD = 4
"""Chunks of a large file that are read at once."""
TOUCH_AFTER = timedelta(hours=1)
_LEVEL = 3
_COLUMNS: dict[str, TypeEngine[Any]] = {
    **{name: Text() for name in ("account_id", "sha256", "codec", "pack_id")},
    **{name: BigInt() for name in ("size", "start", "length")},
}


class BlobDamaged(Exception):
    """The storage no longer has the bytes of a blob: the file of its pack is gone, or does not match its hash."""


class HashMismatch(Invalid):
    """The bytes do not have the SHA-256 that the client says."""

    status = 400
    code = "hash_mismatch"


class BlobTooLarge(DomainError):
    """The file has more bytes than a request may have, or than any file may have."""

    status = 413
    code = "payload_too_large"

    def __init__(
        self, message: str = f"The file is larger than {MAX_BLOB >> 20} MB. Send it in parts."
    ) -> None:
        super().__init__(message)


class QuotaExceeded(DomainError):
    """The account stores as many bytes as it may."""

    status = 413
    code = "quota_exceeded"


class PutBlobs(NamedTuple):
    """The hashes of a batch: those stored now, and those that were there already."""

    stored: list[str]
    existing: list[str]


def existing_blobs(account_id: str, hashes: Collection[str]) -> set[str]:
    """Those of these hashes that the account has stored. They stay for another day, whether or not a snapshot names them."""
    mine = Blob.account_id == account_id, among_hashes(Blob.sha256, hashes)
    old = Blob.used_at < func.now() - TOUCH_AFTER
    # in one order, so that two requests wait for each other at most one way
    locked = select(Blob.sha256).where(*mine, old).order_by(Blob.sha256).with_for_update().cte("locked")
    touched = (
        update(Blob)
        .where(Blob.account_id == account_id, Blob.sha256.in_(select(locked.c.sha256)))
        .values(used_at=func.now())
        .returning(Blob.sha256)
        .execution_options(synchronize_session=False)
    )
    found = set(db.session.scalars(touched))
    # afterwards: another request may have touched one that this one waited for
    return found | set(db.session.scalars(select(Blob.sha256).where(*mine, ~old)))


def put_blob(account_id: str, sha256: str, data: bytes) -> bool:
    """Store a file's bytes; whether they were new. Flushes. Raises HashMismatch (400), BlobTooLarge and QuotaExceeded (413),
    FilesUnavailable (503)."""
    return bool(put_blobs(account_id, [(sha256, data)]).stored)


def put_blobs(account_id: str, blobs: Sequence[tuple[str, bytes]]) -> PutBlobs:
    """Store several files in as few packs as hold them, large ones in chunks. Flushes; what is committed can be read. Raises as
    `put_blob`, and then stores none."""
    for sha256, data in blobs:
        if len(data) > MAX_BLOB:
            raise BlobTooLarge
        if _sha256(data) != sha256:
            raise HashMismatch(f"The bytes do not have the SHA-256 {sha256[:64]}. Send them unchanged.")
    whole, chunks = _in_chunks(blobs)
    existing = existing_blobs(account_id, whole.keys() | chunks.keys())
    large = {sha256: hashes for sha256, hashes in chunks.items() if sha256 not in existing}
    needed = {hash for hashes in large.values() for hash in hashes} | {sha256 for sha256, _ in blobs}
    new = {hash: data for hash, data in sorted(whole.items()) if hash in needed - existing}
    check_quota(account_id, sum(map(len, new.values())))
    stored = _insert(account_id, _write(account_id, new)) if new else set()
    sizes = {sha256: len(data) for sha256, data in blobs}
    stored |= {
        sha256 for sha256, hashes in large.items() if put_chunked(account_id, sha256, sizes[sha256], hashes)
    }
    order = dict.fromkeys(sha256 for sha256, _ in blobs)
    return PutBlobs(
        [each for each in order if each in stored], [each for each in order if each not in stored]
    )


def put_chunked(account_id: str, sha256: str, size: int, chunks: Sequence[str]) -> bool:
    """Store a large file that consists of these stored blobs, which stay for a day; whether it was new. Flushes."""
    row = {
        "account_id": account_id,
        "sha256": sha256,
        "size": size,
        "codec": "chunks",
        "start": 0,
        "length": 0,
    }
    added = insert(Blob).values({**row, "chunks": list(chunks)}).on_conflict_do_nothing()
    stored = db.session.scalars(added.returning(Blob.sha256)).one_or_none()
    if stored:
        # its bytes are counted as those of its chunks
        add_to_storage(account_id, blobs=1)
    return stored is not None


def check_quota(account_id: str, more: int) -> None:
    """Raise QuotaExceeded (413) if the account may not store so many more bytes."""
    used = storage_of(account_id)
    most = extension("settings").stoa_project_bytes_per_account
    if more and used.blob_bytes + used.manifest_bytes + more > most:
        raise QuotaExceeded(
            f"This account may store {most // 1_000_000:,} MB in projects. Delete projects, or ask the operator for more."
        )


def storage_of(account_id: str) -> ProjectStorage:
    """What the account stores; zeros if nothing."""
    row = db.session.get(ProjectStorage, account_id, populate_existing=True)
    return row or ProjectStorage(account_id=account_id, blobs=0, blob_bytes=0, manifests=0, manifest_bytes=0)


def add_to_storage(account_id: str, **more: int) -> None:
    """Count what was stored, or with negative numbers removed, until the commit under a lock of the account's row."""
    columns = {name: getattr(ProjectStorage, name) + number for name, number in more.items()}
    statement = insert(ProjectStorage).values(
        account_id=account_id, **{name: max(0, n) for name, n in more.items()}
    )
    db.session.execute(statement.on_conflict_do_update(index_elements=["account_id"], set_=columns))


def sizes_of(account_id: str, hashes: Collection[str]) -> list[tuple[str, int]]:
    """The hashes and sizes of those of these files that the account has, pack by pack."""
    query = select(Blob.sha256, Blob.size).where(
        Blob.account_id == account_id, among_hashes(Blob.sha256, hashes)
    )
    return [(sha256, size) for sha256, size in db.session.execute(query.order_by(Blob.pack_id, Blob.start))]


def blob_row(account_id: str, sha256: str) -> Blob | None:
    """Where the account's blob is stored, or None."""
    return db.session.get(Blob, (account_id, sha256), populate_existing=True)


def blob_bytes(account_id: str, sha256: str) -> bytes | None:
    """The bytes of a file, or None if the account has none with this hash. Raises FilesUnavailable (503), BlobDamaged."""
    return dict(read_blobs(account_id, [sha256])).get(sha256)


def read_blobs(account_id: str, hashes: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The hashes and bytes of those of these files that the account has, pack by pack. Those larger than `MAX_BLOB` are left out: read
    `blob_stream`. Raises FilesUnavailable (503), BlobDamaged."""
    query = select(Blob.sha256, Blob.size, Blob.chunks).where(
        Blob.account_id == account_id, among_hashes(Blob.sha256, hashes), Blob.codec == "chunks"
    )
    for sha256, size, chunks in db.session.execute(query).all():
        if size <= MAX_BLOB:
            yield sha256, b"".join(_pieces(account_id, sha256, chunks or ()))
    yield from _read_packed(account_id, hashes)


def blob_stream(account_id: str, sha256: str) -> tuple[int, Iterator[bytes]] | None:
    """The size of a file, and its bytes in pieces of a few megabytes, each checked against its hash; None if the account has none with
    this hash. A few pieces are read at a time, by the session of that moment. Raises as `read_blobs`."""
    row = blob_row(account_id, sha256)
    if row is None:
        return None
    size, chunks = row.size, row.chunks
    if chunks is None:
        return size, iter([data for _, data in _read_packed(account_id, [sha256])])
    return size, _pieces(account_id, sha256, chunks)


def stream_of_chunks(account_id: str, chunks: Sequence[str]) -> Iterator[bytes]:
    """The bytes of these blobs, one after another. Raises as `read_blobs`."""
    return _pieces(account_id, "of chunks", chunks)


def _pieces(account_id: str, sha256: str, chunks: Sequence[str]) -> Iterator[bytes]:
    for start in range(0, len(chunks), AHEAD):
        group = chunks[start : start + AHEAD]
        found = dict(_read_packed(account_id, set(group)))
        for each in group:
            if each not in found:
                raise BlobDamaged(f"blob {sha256} of account {account_id}: its chunk {each} is missing")
            yield found[each]


def _read_packed(account_id: str, hashes: Collection[str]) -> Iterator[tuple[str, bytes]]:
    for attempt in (1, 2):
        moved: list[str] = []
        for pack_id, rows in _by_pack(account_id, hashes).items():
            parts = _parts(account_id, pack_id, rows)
            if parts is None:
                # repacked since the rows were read
                moved += [row.sha256 for row in rows]
                continue
            for row, part in zip(rows, parts, strict=True):
                yield row.sha256, opened_blob(row, part)
        if not moved:
            return
        if attempt == 2:
            raise BlobDamaged(f"{len(moved)} blobs of account {account_id}, such as {moved[0]}: no pack")
        hashes = moved


def opened_blob(row: Blob, part: bytes) -> bytes:
    """The bytes of a file from its part of a pack. Raises BlobDamaged."""
    try:
        with heavy(row.size):
            data = zstd.decompress(part) if row.codec == "zstd" else part
    except zstd.ZstdError:
        data = b""
    if len(data) != row.size or _sha256(data) != row.sha256:
        raise BlobDamaged(f"blob {row.sha256} of account {row.account_id}: wrong bytes in pack {row.pack_id}")
    return data


def pack_path(account_id: str, pack_id: str) -> str:
    """Where the file of a pack is stored."""
    return f"{FOLDER}/{account_id}/{pack_id}"


def write_pack(account_id: str, parts: Sequence[bytes]) -> Pack:
    """Write a pack of these parts to the storage, and its row. Flushes."""
    pack = Pack(id=uuid.uuid4().hex, account_id=account_id, bytes=sum(map(len, parts)))
    files(extension("settings")).write_durably(pack_path(account_id, pack.id), b"".join(parts))
    db.session.add(pack)
    db.session.flush()
    return pack


def _in_chunks(blobs: Sequence[tuple[str, bytes]]) -> tuple[dict[str, bytes], dict[str, list[str]]]:
    """The bytes that are stored, by hash: those of small files, and the chunks of large ones; and the chunks of each large one."""
    whole: dict[str, bytes] = {}
    chunks: dict[str, list[str]] = {}
    for sha256, data in blobs:
        pieces = cut(data) if len(data) >= LARGE else [data]
        if len(pieces) == 1:
            whole[sha256] = data
            continue
        hashed = [(_sha256(piece), piece) for piece in pieces]
        whole.update(hashed)
        chunks[sha256] = [hash for hash, _ in hashed]
    return whole, chunks


def _write(account_id: str, blobs: dict[str, bytes]) -> list[dict[str, Any]]:
    """Write the blobs into packs; returns their rows."""
    rows: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    parts: list[bytes] = []
    size = 0
    for index, (sha256, data) in enumerate(blobs.items()):
        codec, part = _compressed(data)
        row = {"account_id": account_id, "sha256": sha256, "size": len(data)}
        waiting.append({**row, "codec": codec, "start": size, "length": len(part)})
        parts.append(part)
        size += len(part)
        if size >= PACK_BYTES or index == len(blobs) - 1:
            pack = write_pack(account_id, parts)
            rows += ({**each, "pack_id": pack.id} for each in waiting)
            waiting, parts, size = [], [], 0
    return rows


def _insert(account_id: str, rows: list[dict[str, Any]]) -> set[str]:
    """Insert the rows of blobs that no other request stored meanwhile; returns their hashes."""
    sent = rows_of_json(rows, _COLUMNS)
    added = (
        insert(Blob)
        .from_select([*_COLUMNS], select(*sent.c).order_by(sent.c.sha256))
        .on_conflict_do_nothing()
        .returning(Blob.sha256, Blob.size, Blob.pack_id)
    )
    stored = db.session.execute(added).all()
    used = {row.pack_id for row in stored}
    unused = {row["pack_id"] for row in rows} - used
    if unused:
        db.session.execute(delete(Pack).where(Pack.id.in_(unused)))
    if stored:
        add_to_storage(account_id, blobs=len(stored), blob_bytes=sum(row.size for row in stored))
    return {row.sha256 for row in stored}


def _compressed(data: bytes) -> tuple[str, bytes]:
    with heavy(len(data)):
        part = zstd.compress(data, level=_LEVEL) if len(data) > 64 else data
    return ("zstd", part) if len(part) < len(data) * 15 // 16 else ("raw", data)


def _sha256(data: bytes) -> str:
    with heavy(len(data), 4 << 20):
        return hashlib.sha256(data).hexdigest()


def _parts(account_id: str, pack_id: str, rows: Sequence[Blob]) -> list[bytes] | None:
    """The parts of a pack that these blobs are; None if it is gone. Empty ones are not read: a range has a byte at least."""
    ranges = [(row.start, row.length) for row in rows if row.length]
    read = files(extension("settings")).read_ranges(pack_path(account_id, pack_id), ranges) if ranges else []
    if read is None:
        return None
    parts = iter(read)
    return [next(parts) if row.length else b"" for row in rows]


def _by_pack(account_id: str, hashes: Collection[str]) -> dict[str, list[Blob]]:
    query = select(Blob).where(
        Blob.account_id == account_id, among_hashes(Blob.sha256, hashes), Blob.pack_id.is_not(None)
    )
    rows = db.session.scalars(
        query.order_by(Blob.pack_id, Blob.start).execution_options(populate_existing=True)
    )
    found: dict[str, list[Blob]] = {}
    for row in rows:
        found.setdefault(row.pack_id or "", []).append(row)
    return found
