"""Trees of a merge from the entries of manifests, and back."""

from collections.abc import Iterable, Mapping

from models.projects.merge.merge_model import MergeEntry
from models.projects.snapshots.manifest_text import Entry


def flat_tree(entries: Iterable[Entry]) -> dict[str, MergeEntry]:
    """The entries by path."""
    return {
        entry.path: MergeEntry(entry.kind, entry.mode, entry.hash, entry.size, entry.target)
        for entry in entries
    }


def manifest_entries(tree: Mapping[str, MergeEntry]) -> list[Entry]:
    """The entries of a tree, sorted by the bytes of their paths."""
    return [
        Entry(path, entry.kind, entry.mode, entry.hash, entry.size, entry.target)
        for path, entry in sorted(tree.items(), key=lambda item: item[0].encode(errors="surrogatepass"))
    ]
