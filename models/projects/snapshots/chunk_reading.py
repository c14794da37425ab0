"""Reading a stored file from any of its bytes on, without what comes before."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from models.projects.snapshots.blob_packs import BlobDamaged, blob_row, sizes_of, stream_of_chunks


class StoredFile(NamedTuple):
    """A file of an account, in the chunks that it is stored in, each with its size; a small one is one chunk."""

    account_id: str
    size: int
    chunks: Sequence[tuple[str, int]]

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from this one on, in pieces of a few megabytes. Raises FilesUnavailable (503), BlobDamaged."""
        wanted: list[str] = []
        skipped = 0
        for hash, size in self.chunks:
            if wanted or skipped + size > start:
                wanted.append(hash)
            else:
                skipped += size
        for number, piece in enumerate(stream_of_chunks(self.account_id, wanted)):
            yield piece[start - skipped :] if number == 0 else piece


def stored_file(account_id: str, sha256: str) -> StoredFile | None:
    """A file by its hash; None if the account has none."""
    row = blob_row(account_id, sha256)
    if row is None:
        return None
    if row.chunks is None:
        return StoredFile(account_id, row.size, [(sha256, row.size)])
    sizes = dict(sizes_of(account_id, set(row.chunks)))
    if len(sizes) < len(set(row.chunks)):
        raise BlobDamaged(f"blob {sha256} of account {account_id}: a chunk is missing")
    return StoredFile(account_id, row.size, [(each, sizes[each]) for each in row.chunks])
