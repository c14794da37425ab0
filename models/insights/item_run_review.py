"""What a person reviews of a run: its patch, file by file, and the conflicts of a rebase with both sides. Bounded work; reads only."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from models.insights.item_run import ActionItemRun
from models.insights.item_run_reading import tree_named
from models.insights.item_run_rebasing import RunRebase
from models.projects import Project
from models.projects.merge import CUSTOM, USE_MAIN, USE_WORKSPACE, MergeLabel, MergeReason
from models.projects.snapshots.snapshot_changes import SnapshotChanges, snapshot_changes
from models.projects.sync.sync_reading import FileVersions, PreviewedFile
from models.projects.sync.sync_review import MAX_COMPARED, ReviewedDecision, own_text, reviewed_files


class ReviewedConflict(NamedTuple):
    """A conflict of a rebase. `paths` are all that the answer settles; `review` is what differs, None beyond the first `MAX_COMPARED`. `mark` is
    the same as long as both sides are."""

    path: str
    reason: MergeReason
    paths: list[str]
    mark: str
    review: ReviewedDecision | None


def reviewed_patch(project: Project, run: ActionItemRun) -> SnapshotChanges | None:
    """What the result of a run changes in the files that it is based on; None before there is one, or if files cannot be read. Raises
    FilesUnavailable (503), BlobDamaged."""
    trees = [
        tree_named(project.account_id, hash) for hash in (run.base_manifest_hash, run.result_manifest_hash)
    ]
    return None if None in trees else snapshot_changes(project.account_id, *trees)


def reviewed_conflicts(rebase: RunRebase, limit: int) -> list[ReviewedConflict]:
    """The first conflicts by path. Raises FilesUnavailable (503), BlobDamaged."""
    decisions = list(rebase.merge.decisions.items())[:limit]
    takes_text = {path for path, each in decisions if each.custom_mode is not None}
    files = _versions(rebase, [path for path, _ in decisions[:MAX_COMPARED]])
    reviewed = reviewed_files(files.values(), takes_text)
    return [
        ReviewedConflict(path, each.reason, sorted(each.paths), _mark(rebase, path), reviewed.get(path))
        for path, each in decisions
    ]


def rebase_texts(rebase: RunRebase, choices: Mapping[str, str], entered: Mapping[str, str]) -> dict[str, str]:
    """The texts that were written in a page for conflicts answered `custom`, in the shape that each file had. Raises FilesUnavailable (503),
    BlobDamaged."""
    wanted = [path for path in entered if choices.get(path) == CUSTOM and path in rebase.merge.decisions]
    files = _versions(rebase, wanted)
    return {path: own_text(files[path], entered[path]) for path in wanted}


def _versions(rebase: RunRebase, paths: Collection[str]) -> dict[str, PreviewedFile]:
    """The files of conflicts: `main` is the patch."""
    decisions = {path: rebase.merge.decisions[path] for path in paths}
    sides = {
        path: (
            rebase.trees.base.get(path),
            each.options[USE_MAIN].get(path),
            each.options[USE_WORKSPACE].get(path),
        )
        for path, each in decisions.items()
    }
    entries = [entry for each in sides.values() for entry in each]
    versions = FileVersions(rebase.found.project.account_id, entries, rebase.merge.contents)
    found = {}
    for path, each in decisions.items():
        base, patch, workspace = (versions.of(entry) for entry in sides[path])
        draft = each.draft.decode(errors="replace") if each.draft is not None else None
        found[path] = PreviewedFile(path, MergeLabel.DECISION, None, base, patch, workspace, None, draft)
    return found


def _mark(rebase: RunRebase, path: str) -> str:
    """Names both sides of a conflict."""
    options = rebase.merge.decisions[path].options
    return "-".join(
        (entry.hash or entry.kind)[:16] if (entry := options[side].get(path)) is not None else "none"
        for side in (USE_WORKSPACE, USE_MAIN)
    )
