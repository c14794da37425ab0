"""What a person reviews of a run: its patch, file by file, and the conflicts of a rebase with both sides. Bounded work; reads only."""

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from models.insights.item_run import ActionItemRun
from models.insights.item_run_applying import RunRebase
from models.insights.item_run_reading import tree_named
from models.projects import Project
from models.projects.merge import USE_MAIN, USE_WORKSPACE, MergeEntry, MergeReason
from models.projects.merge.text_shape import is_binary
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.snapshot_changes import MAX_TEXT, SnapshotChanges, snapshot_changes
from models.store.catalogue.version_diff import DiffBudget, FieldChange, lines

MAX_COMPARED = 40
"""Conflicts that are compared line by line at once."""


class ReviewedConflict(NamedTuple):
    """A conflict of a rebase: what differs from the workspace to the patch, or `note`, why that is not compared. `paths` are all that the
    answer settles."""

    path: str
    reason: MergeReason
    paths: list[str]
    change: FieldChange | None
    note: str


def reviewed_patch(project: Project, run: ActionItemRun) -> SnapshotChanges | None:
    """What the result of a run changes in the files that it began with; None before there is one, or if files cannot be read. Raises
    FilesUnavailable (503), BlobDamaged."""
    trees = [
        tree_named(project.account_id, hash) for hash in (run.base_manifest_hash, run.result_manifest_hash)
    ]
    return None if None in trees else snapshot_changes(project.account_id, *trees)


def reviewed_conflicts(rebase: RunRebase, limit: int) -> list[ReviewedConflict]:
    """The first conflicts by path. Raises FilesUnavailable (503), BlobDamaged."""
    decisions = list(rebase.merge.decisions.items())[:limit]
    sides = {
        path: (each.options[USE_WORKSPACE].get(path), each.options[USE_MAIN].get(path))
        for path, each in decisions
    }
    wanted = {
        entry.hash
        for both in list(sides.values())[:MAX_COMPARED]
        for entry in both
        if entry is not None and entry.hash is not None and entry.size <= MAX_TEXT
    }
    texts = dict(read_blobs(rebase.found.project.account_id, wanted)) if wanted else {}
    texts.update((hash, data) for hash, data in rebase.merge.contents.items() if len(data) <= MAX_TEXT)
    budget = DiffBudget()
    found = []
    for path, each in decisions:
        note = _note(sides[path], texts)
        change = None if note else _compared(path, sides[path], texts, budget)
        found.append(ReviewedConflict(path, each.reason, sorted(each.paths), change, note))
    return found


def _note(both: tuple[MergeEntry | None, MergeEntry | None], texts: Mapping[str, bytes]) -> str:
    """Why the lines are not compared; empty if they are."""
    there = [entry for entry in both if entry is not None]
    if not there:
        return "Neither side has the file."
    if any(entry.kind != "file" for entry in there):
        return "A link or a folder."
    data = [texts.get(entry.hash or "") for entry in there]
    if any(each is None for each in data):
        return "It is too large to compare."
    return "This is no text." if any(is_binary(each) for each in data if each is not None) else ""


def _compared(
    path: str,
    both: tuple[MergeEntry | None, MergeEntry | None],
    texts: Mapping[str, bytes],
    budget: DiffBudget,
) -> FieldChange:
    before, after = (
        None if entry is None else texts[entry.hash or ""].decode(errors="replace") for entry in both
    )
    diff = lines(before or "", after or "", budget)
    shown = list(islice(diff, budget.lines))
    budget.lines -= len(shown)
    return FieldChange(path, before, after, lines=shown, cut=next(diff, None) is not None)
