"""Merges made by hand: the trees, and the right answer."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import dedent

from models.projects.merge import (
    FlatTree,
    MergeEntry,
    MergeLabel,
    MergeReason,
    TreeMerge,
    WarningKind,
    merge_trees,
)

Content = str | bytes | MergeEntry
Files = Mapping[str, Content]


@dataclass(frozen=True)
class Blobs:
    """The bytes of all files of a case."""

    by_hash: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, digest: str) -> bytes:
        return self.by_hash[digest]

    def file(self, content: str | bytes, mode: int = 0o644) -> MergeEntry:
        data = content.encode() if isinstance(content, str) else content
        digest = hashlib.sha256(data).hexdigest()
        self.by_hash[digest] = data
        return MergeEntry("file", mode, digest, len(data))

    def tree(self, files: Files) -> dict[str, MergeEntry]:
        return {
            path: each if isinstance(each, MergeEntry) else self.file(each) for path, each in files.items()
        }

    def shown(self, tree: FlatTree, new: Mapping[str, bytes]) -> dict[str, Content]:
        """A tree as a case writes it: files of the usual mode as their bytes."""
        found: dict[str, Content] = {}
        for path, entry in tree.items():
            plain = entry.kind == "file" and entry.mode == 0o644 and entry.hash is not None
            found[path] = {**self.by_hash, **new}[entry.hash or ""] if plain else entry
        return found


BLOBS = Blobs()


def executable(content: str) -> MergeEntry:
    return BLOBS.file(content, 0o755)


def private(content: str) -> MergeEntry:
    return BLOBS.file(content, 0o600)


def link(target: str) -> MergeEntry:
    return MergeEntry("symlink", target=target)


def folder(mode: int = 0o755) -> MergeEntry:
    return MergeEntry("dir", mode)


@dataclass(frozen=True)
class MergeCase:
    """A merge and its answer. Without `decisions`, `result` is the whole tree afterwards; with them it is what the rest gives.

    `labels` names the paths whose label matters; a path with a decision is in `decisions` with its reason."""

    name: str
    base: Files
    ours: Files
    theirs: Files
    result: Files = field(default_factory=dict)
    labels: Mapping[str, MergeLabel] = field(default_factory=dict)
    decisions: Mapping[str, MergeReason] = field(default_factory=dict)
    warnings: tuple[WarningKind, ...] = ()

    def merged(self, swapped: bool = False) -> TreeMerge:
        sides = (self.theirs, self.ours) if swapped else (self.ours, self.theirs)
        return merge_trees(BLOBS.tree(self.base), *(BLOBS.tree(side) for side in sides), BLOBS)


def one_file(
    name: str,
    path: str,
    base: Content,
    ours: Content,
    theirs: Content,
    result: Content | None = None,
    label: MergeLabel | None = None,
    reason: MergeReason | None = None,
    warnings: tuple[WarningKind, ...] = (),
) -> MergeCase:
    """A case of one file; texts are dedented."""
    versions = [
        each if isinstance(each, bytes | MergeEntry) else dedent(each) for each in (base, ours, theirs)
    ]
    answer = dedent(result) if isinstance(result, str) else result
    return MergeCase(
        name,
        *({path: each} for each in versions),
        result={} if answer is None else {path: answer},
        labels={} if label is None else {path: label},
        decisions={} if reason is None else {path: reason},
        warnings=warnings,
    )
