"""The trees of a sync, cut to the paths that differ, and the bytes of their files."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from models.core.cooperative import in_slices
from models.projects.merge import MergeEntry
from models.projects.merge.code_grammars import code_grammar
from models.projects.snapshots.blob_packs import blob_bytes, existing_blobs, read_blobs
from models.projects.snapshots.manifest_store import FILE_MODE, tree_changes_each
from models.projects.snapshots.manifest_text import Entry
from models.projects.sync.sync_refusals import SyncFilesMissing

READ_AHEAD = 24 << 20
"""Bytes of files that are read at once."""


class CutTrees(NamedTuple):
    """Base, workspace and main at the paths where they are not all the same."""

    base: dict[str, MergeEntry]
    workspace: dict[str, MergeEntry]
    main: dict[str, MergeEntry]


def cut_trees(account_id: str, base: str | None, workspace: str, main: str) -> CutTrees:
    """The trees with these hashes where they differ; without a base, an empty one. Reads only directories that differ. Raises BlobDamaged."""
    ours, theirs = tree_changes_each(account_id, [(base, workspace), (base, main)])
    cut = CutTrees({}, {}, {})
    for path in in_slices(ours.keys() | theirs.keys()):
        was = (ours.get(path) or theirs[path])[0]
        entries = [
            None if each is None else merge_entry(each)
            for each in (was, ours.get(path, (was, was))[1], theirs.get(path, (was, was))[1])
        ]
        if entries[0] == entries[1] == entries[2]:
            continue  # the dialects of manifests differ, not the files
        for tree, entry in zip(cut, entries, strict=True):
            if entry is not None:
                tree[path] = entry
    return cut


def merge_entry(entry: Entry) -> MergeEntry:
    """The entry as a merge sees it: with the mode that a file without one has in typed manifests."""
    mode = None if entry.kind == "symlink" else FILE_MODE if entry.mode is None else entry.mode
    return MergeEntry(entry.kind, mode, entry.hash, entry.size, entry.target)


class SyncFiles:
    """Reads the files of a sync: `read` is a reader for merges. The files that a merge is likely to ask for are read at the first call,
    pack by pack."""

    def __init__(self, account_id: str, trees: CutTrees) -> None:
        self._account_id = account_id
        self._ahead = _likely(trees)
        self._files: dict[str, bytes] = {}

    def read(self, hash: str) -> bytes:
        """The bytes of a file. Raises SyncFilesMissing (409), FilesUnavailable (503), BlobDamaged."""
        if self._ahead:
            self._files, self._ahead = dict(read_blobs(self._account_id, self._ahead)), []
        found = self._files.get(hash)
        if found is None:
            found = blob_bytes(self._account_id, hash)
        if found is None:
            raise SyncFilesMissing([hash])
        return found


def check_stored(account_id: str, trees: CutTrees) -> None:
    """Raise SyncFilesMissing (409) unless the differing files of workspace and main are stored, and the bases of those that both
    changed. They stay for another day."""
    needed = {
        each.hash for tree in (trees.workspace, trees.main) for each in tree.values() if each.hash is not None
    }
    needed |= {
        hash
        for path in _contested(trees)
        if (entry := trees.base.get(path)) is not None and (hash := entry.hash) is not None
    }
    missing = needed - existing_blobs(account_id, needed) if needed else set()
    if missing:
        raise SyncFilesMissing(sorted(missing))


def _likely(trees: CutTrees) -> list[str]:
    """The hashes of the files that both sides changed, then of programs, as many as may be read at once."""
    found: dict[str, int] = {}
    for entry in (*_versions(trees, _contested(trees)), *_versions(trees, _programs(trees))):
        if entry.hash is not None:
            found[entry.hash] = entry.size
    likely, left = [], READ_AHEAD
    for hash, size in found.items():
        if size <= left:
            likely.append(hash)
            left -= size
    return likely


def _versions(trees: CutTrees, paths: Iterable[str]) -> Iterator[MergeEntry]:
    for path in paths:
        for tree in trees:
            if path in tree:
                yield tree[path]


def _contested(trees: CutTrees) -> list[str]:
    """The paths that both sides changed."""
    base, workspace, main = trees
    return sorted(
        path
        for path in workspace.keys() | main.keys() | base.keys()
        if base.get(path) not in (workspace.get(path), main.get(path))
    )


def _programs(trees: CutTrees) -> list[str]:
    paths = trees.base.keys() | trees.workspace.keys() | trees.main.keys()
    return sorted(path for path in paths if code_grammar(path) is not None)
