"""Storing what changed in a workplace: blobs, and the manifest of the changed tree."""

import hashlib
from collections.abc import Iterator, Mapping

from models.core.errors import NotFound
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import manifest_row, put_changes, readable_tree, use_manifest
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.stored_objects import Manifest
from models.projects.snapshots.tree_reading import entries_at
from models.runners.workplace import FileChange

BATCH_BYTES = 12 << 20
"""Bytes of files that are stored at once."""


def store_changes(account_id: str, root_manifest_hash: str | None, changes: Mapping[str, FileChange]) -> str:
    """Store the manifest of a tree of the account, None for an empty one, with these changes; returns its hash, which is the same one without changes. Files keep their permissions unless
    they became executable, or are no longer. Flushes. Raises NotFound for an unknown manifest, ManifestUnreadable, ManifestInvalid if a
    file would be a folder too, BlobTooLarge and QuotaExceeded (413), FilesUnavailable (503)."""
    root = None
    if root_manifest_hash is not None:
        root = _tree(use_manifest(account_id, root_manifest_hash))
    if root_manifest_hash is not None and not changes:
        return root_manifest_hash
    before = entries_at(account_id, root, changes.keys()) if root is not None else {}
    for batch in _batches(changes):
        put_blobs(account_id, batch)
    entries = {path: _entry(path, change, before.get(path)) for path, change in changes.items()}
    return put_changes(account_id, root, entries)


def tree_of(account_id: str, manifest_hash: str | None) -> str | None:
    """The hash of the tree of a manifest; None for the empty one. Raises NotFound, ManifestUnreadable."""
    return None if manifest_hash is None else _tree(manifest_row(account_id, manifest_hash))


def mode_of(executable: bool, before: Entry | None) -> int:
    """The permission bits of a file: those that it had, if that one was as executable."""
    had = before.mode if before is not None and before.kind == "file" else None
    if had is not None and bool(had & 0o100) == executable:
        return had
    return 0o755 if executable else 0o644


def _tree(row: Manifest | None) -> str:
    if row is None:
        raise NotFound("There is no such tree of files.")
    return readable_tree(row)


def _entry(path: str, change: FileChange, before: Entry | None) -> Entry | None:
    if change.target is not None:
        return Entry(path, "symlink", target=change.target)
    if change.content is None:
        return None
    hash = hashlib.sha256(change.content).hexdigest()
    return Entry(path, "file", mode_of(change.executable, before), hash, len(change.content))


def _batches(changes: Mapping[str, FileChange]) -> Iterator[list[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    size = 0
    for change in changes.values():
        if change.content is None:
            continue
        batch.append((hashlib.sha256(change.content).hexdigest(), change.content))
        size += len(change.content)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
