"""The files of a tree as one compressed archive, for providers that build them."""

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO

from models.core import jobs
from models.projects.snapshots.blob_packs import MAX_BLOB, BlobDamaged, blob_stream, read_blobs
from models.projects.snapshots.manifest_store import tree_entries
from models.projects.snapshots.manifest_text import Entry

BATCH = 16 << 20
"""Bytes of small files that are read at once."""


def write_archive(account_id: str, tree: str, file: IO[bytes]) -> int:
    """Write the files and links of a tree as a `.tar.gz`, the same bytes for the same tree, and return how many it has. Reads in short
    transactions. Raises BlobDamaged."""
    with jobs.transaction():
        entries = [each for each in tree_entries(account_id, tree) if each.kind != "dir"]
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for batch in _batches(entries):
            with jobs.transaction():
                _add(account_id, archive, batch)
    return len(entries)


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for each in entries:
        if batch and size + each.size > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.size
    if batch:
        yield batch


def _add(account_id: str, archive: tarfile.TarFile, entries: Sequence[Entry]) -> None:
    small = {each.hash for each in entries if each.hash and each.size <= MAX_BLOB}
    read = dict(read_blobs(account_id, small))
    for each in entries:
        about = tarfile.TarInfo(each.path)
        if each.kind == "symlink":
            about.type, about.linkname = tarfile.SYMTYPE, each.target or ""
            archive.addfile(about)
            continue
        about.mode, about.size = each.mode or 0o644, each.size
        archive.addfile(about, _content(account_id, each, read.get(each.hash or "")))


def _content(account_id: str, entry: Entry, data: bytes | None) -> IO[bytes]:
    if data is None and entry.size > MAX_BLOB and entry.hash:
        found = blob_stream(account_id, entry.hash)
        if found is not None:
            return io.BufferedReader(_Pieces(found[1]))
    if data is None or len(data) != entry.size:
        raise BlobDamaged(f"blob {entry.hash} of account {account_id}, which is deployed, is missing")
    return io.BytesIO(data)


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file to read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        if not self._left:
            self._left = next(self._pieces, b"")
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
