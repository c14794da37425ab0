"""Reading a stored tree lazily: only the folders and files that are asked for."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext

import orjson

from models.core.errors import NotFound
from models.core.job_queue import Context
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.directory_tree import Row, entry_of_row
from models.projects.snapshots.manifest_store import load_listings
from models.projects.snapshots.manifest_text import Entry
from models.runners.changed_tree import tree_of


class StoredTree:
    """The tree of a manifest of an account. Each read is in `context`, or in the current application context."""

    def __init__(self, account_id: str, manifest_hash: str | None, context: Context | None) -> None:
        self._account_id = account_id
        self._context: Context = context or nullcontext
        with self._context():
            root = tree_of(account_id, manifest_hash)
        self._folders: dict[str, dict[str, Row] | None] = {}
        if root is None:
            self._folders[""] = {}
        else:
            self._load("", root)

    def rows(self, folder: str) -> Mapping[str, Row] | None:
        """The rows of a folder by name; None if there is no such folder."""
        if folder not in self._folders:
            above, _, name = folder.rpartition("/")
            row = (self.rows(above) or {}).get(name)
            if row is None or row[1] != "d":
                return None
            self._load(folder, row[3])
        return self._folders[folder]

    def row(self, path: str) -> Row | None:
        """The row of a file, link or folder; None if nothing is there."""
        above, _, name = path.rpartition("/")
        return (self.rows(above) or {}).get(name)

    def entry(self, path: str) -> Entry | None:
        """The file or link at a path, None for anything else."""
        row = self.row(path)
        return entry_of_row(path, row) if row is not None and row[1] != "d" else None

    def below(self, folder: str) -> Iterator[Entry]:
        """The files and links below a folder, in the order of names."""
        for name, row in sorted((self.rows(folder) or {}).items()):
            path = f"{folder}/{name}" if folder else name
            if row[1] == "d":
                yield from self.below(path)
            elif (entry := entry_of_row(path, row)) is not None:
                yield entry

    def contents(self, hashes: Collection[str]) -> dict[str, bytes]:
        """The bytes of these files by hash, those that are stored and not too large to be read whole. Raises FilesUnavailable (503), BlobDamaged."""
        with self._context():
            return dict(read_blobs(self._account_id, hashes))

    def content(self, entry: Entry) -> bytes:
        """The bytes of a file. Raises NotFound if they are not stored, FilesUnavailable (503), BlobDamaged."""
        found = self.contents([entry.hash or ""])
        if entry.hash not in found:
            raise NotFound(f"The bytes of {entry.path[:200]} are not on the server.")
        return found[entry.hash]

    def _load(self, folder: str, hash: str) -> None:
        with self._context():
            listing = load_listings(self._account_id, [hash])[hash]
        self._folders[folder] = {row[0]: row for row in orjson.loads(listing)}
