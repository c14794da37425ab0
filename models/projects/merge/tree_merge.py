"""Merges two trees with their common base: plans, merges the files that both sides changed, and warns of what looks wrong."""

import hashlib
from dataclasses import replace
from typing import TypeVar

from models.core.cooperative import heavy, in_slices
from models.projects.merge.content_merge import ContentMerge, merge_contents
from models.projects.merge.line_merge import MAX_LINE_BYTES
from models.projects.merge.merge_model import (
    USE_MAIN,
    USE_WORKSPACE,
    BlobReader,
    Contest,
    FlatTree,
    MergeDecision,
    MergeEntry,
    MergeLabel,
    MergeReason,
    PathMerge,
    Side,
    TreeMerge,
)
from models.projects.merge.merge_planning import plan
from models.projects.merge.merge_warnings import warnings_of

T = TypeVar("T")

HEAVY_BYTES = 50_000
"""Bytes of the versions of a file from which their merge may take tens of milliseconds."""
MAX_MERGED_BYTES = 64 << 20
"""Bytes of all versions of files that one merge reads to merge them; each file counts `FILE_COST` more."""
FILE_COST = 16 << 10


def merge_trees(base: FlatTree, workspace: FlatTree, main: FlatTree, read: BlobReader) -> TreeMerge:
    """Merge `main` into `workspace`. Deterministic, and symmetric but for the names of the sides. Reads only files that a side
    changed. Raises Invalid if a path is none, and what `read` raises.

    Pauses between files for other requests. A contested file takes some milliseconds, at the limits of its size about a second. What is
    past `MAX_MERGED_BYTES`, the last by path, is left to decide."""
    planned = plan(base, workspace, main, read)
    finisher = _Finisher(read)
    paths = dict(planned.settled)
    for path, contest in in_slices(planned.contests.items()):
        paths[path] = finisher.finished(contest)
    merge = TreeMerge(dict(sorted(paths.items())), finisher.contents, [])
    merge.warnings = warnings_of(merge, base, workspace, main, read)
    return merge


class _Finisher:
    """Makes contests settled, or decisions."""

    def __init__(self, read: BlobReader) -> None:
        self._read = read
        self._left = MAX_MERGED_BYTES
        self.contents: dict[str, bytes] = {}

    def finished(self, contest: Contest) -> PathMerge:
        base, ours, theirs = contest.base, contest.workspace, contest.main
        if ours is None or theirs is None:
            return self._with_one(contest, ours or theirs)
        if ours.kind != theirs.kind:
            return _decision(contest, MergeReason.KIND)
        if ours.kind == "file":
            return self._files(contest, base if base and base.kind == "file" else None, ours, theirs)
        was = base if base and base.kind == ours.kind else None
        target = _pick(was and was.target, ours.target, theirs.target)
        if ours.kind == "symlink" and target is None:
            return _decision(contest, MergeReason.LINK)
        mode = _pick(was and was.mode, ours.mode, theirs.mode)
        if mode is None and ours.mode != theirs.mode:
            return _decision(contest, MergeReason.MODE)
        side = ours if target == ours.target else theirs
        return _settled(contest, MergeLabel.ONE_SIDED, side._replace(mode=mode))

    def _with_one(self, contest: Contest, left: MergeEntry | None) -> PathMerge:
        """One side deleted it. Nothing is lost with a directory, nor with a file that both sides gave up."""
        if left is None or left.kind == "dir" or (contest.base and contest.base.kind == "dir"):
            return _settled(contest, MergeLabel.ONE_SIDED, left)
        return _decision(contest, MergeReason.DELETED_CHANGED)

    def _files(
        self, contest: Contest, base: MergeEntry | None, ours: MergeEntry, theirs: MergeEntry
    ) -> PathMerge:
        mode = _pick(base and base.mode, ours.mode, theirs.mode)
        mode_settled = mode is not None or ours.mode == theirs.mode
        content = self._content(contest, base, ours, theirs)
        if content is None:
            return _decision(contest, MergeReason.BOTH_ADDED)
        if isinstance(content, ContentMerge):
            if content.data is None:
                return _decision(contest, content.reason or MergeReason.SAME_PLACE, content.draft)
            label, entry = content.label, self._kept(content.data)
        else:
            label, entry = MergeLabel.RENAMED if contest.renamed_from else MergeLabel.ONE_SIDED, content
        if mode_settled:
            return _settled(contest, label, entry._replace(mode=mode))
        decision = MergeDecision(
            contest.path,
            MergeReason.MODE,
            {
                USE_MAIN: {contest.path: entry._replace(mode=theirs.mode)},
                USE_WORKSPACE: {contest.path: entry._replace(mode=ours.mode)},
            },
        )
        return replace(_settled(contest, MergeLabel.DECISION, None), decision=decision)

    def _content(
        self, contest: Contest, base: MergeEntry | None, ours: MergeEntry, theirs: MergeEntry
    ) -> MergeEntry | ContentMerge | None:
        """The entry whose bytes stand, or the merge of both; None if there is no base to merge with."""
        if ours.hash == theirs.hash:
            return ours
        if base is None:
            return None
        if base.hash in (ours.hash, theirs.hash):
            return theirs if base.hash == ours.hash else ours
        size = base.size + ours.size + theirs.size
        if size > MAX_LINE_BYTES or size + FILE_COST > self._left:
            return ContentMerge(None, MergeLabel.DECISION, MergeReason.TOO_LARGE)
        self._left -= size + FILE_COST
        versions = [self._bytes(each) for each in (base, ours, theirs)]
        with heavy(sum(map(len, versions)), threshold=HEAVY_BYTES):
            return merge_contents(contest.path, *versions)

    def _bytes(self, entry: MergeEntry) -> bytes:
        return self._read(entry.hash or "")

    def _kept(self, data: bytes) -> MergeEntry:
        digest = hashlib.sha256(data).hexdigest()
        self.contents[digest] = data
        return MergeEntry("file", None, digest, len(data))


def _pick(base: T | None, ours: T | None, theirs: T | None) -> T | None:
    """What at most one side changed; None if both did."""
    if ours in (theirs, base):
        return theirs
    return ours if theirs == base else None


def _settled(contest: Contest, label: MergeLabel, result: MergeEntry | None) -> PathMerge:
    return PathMerge(
        contest.path,
        label,
        Side.BOTH,
        contest.base,
        contest.workspace,
        contest.main,
        result,
        renamed_from=contest.renamed_from,
        similar=contest.similar,
    )


def _decision(contest: Contest, reason: MergeReason, draft: bytes | None = None) -> PathMerge:
    """A decision between the two sides as they are. A custom text is possible unless the file is no text."""
    path, ours, theirs = contest.path, contest.workspace, contest.main
    files = [entry for entry in (ours, theirs) if entry is not None and entry.kind == "file"]
    custom = files and reason not in (MergeReason.BINARY, MergeReason.MODE)
    mode = _pick(contest.base and contest.base.mode, files[0].mode, files[-1].mode) if custom else None
    if custom and mode is None:
        mode = files[0].mode
    decision = MergeDecision(
        path, reason, {USE_MAIN: {path: theirs}, USE_WORKSPACE: {path: ours}}, mode, draft
    )
    return replace(_settled(contest, MergeLabel.DECISION, None), decision=decision)
