"""Rebases what a run made on newer files of its workspace: merged as syncs are, and checked again before it can be applied."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from models.accounts.key_format import PresentedKey
from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.insights.item_run import ATTEMPT, ActionItemRun
from models.insights.item_run_applying import BaseChanged, check_item, check_ready, locked_places
from models.insights.item_run_reading import FoundRun, files_now, own_run, runs_of_item, tree_named
from models.insights.item_run_starting import RunInProgress, driving_turn
from models.projects import ProjectCaller
from models.projects.merge import (
    CUSTOM,
    USE_MAIN,
    USE_WORKSPACE,
    TreeMerge,
    manifest_entries,
    merge_trees,
    settle,
)
from models.projects.merge.merge_planning import ancestors
from models.projects.project_access import own_workspace
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import put_changes, use_manifest
from models.projects.snapshots.manifest_text import ManifestInvalid
from models.projects.snapshots.tree_reading import entries_at
from models.projects.sync.sync_refusals import SyncRefused
from models.projects.sync.sync_trees import CutTrees, SyncFiles, check_stored, cut_trees, merge_entry
from models.projects.workspaces.head_moves import check_version
from models.turns import Turn

USE_PATCH = "use_patch"
"""The option of a decision that takes what the patch has; `use_workspace` and `custom` are the others."""
_OPTIONS = {USE_PATCH: USE_MAIN, USE_WORKSPACE: USE_WORKSPACE, CUSTOM: CUSTOM}
MAX_KEPT = 50
"""Attempts and rebases that a run shows."""


class NothingLeft(Conflict):
    """The workspace has all of the patch already."""

    code = "nothing_left"

    def __init__(self) -> None:
        super().__init__(
            "The workspace has all of this patch already, so there is nothing to apply. Dismiss the item, or run it again."
        )


class RebaseUndecided(SyncRefused):
    """The patch and the workspace changed the same places: each path needs a choice."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__(
            "The patch and the workspace changed the same places. Say for each path: 'use_patch', 'use_workspace', or 'custom' with a text.",
            code="rebase_conflict",
            status=409,
            facts={"conflicts": paths},
        )
        self.paths = paths


@dataclass(frozen=True, slots=True)
class RunRebase:
    """A patch merged with what the workspace has now, at its `version`: `main` of the merge is the patch. `trees` are cut to what differs."""

    found: FoundRun
    version: int
    current_tree: str
    trees: CutTrees
    merge: TreeMerge

    @property
    def paths(self) -> set[str]:
        """The paths that may change, and those of decisions."""
        decided = {path for each in self.merge.decisions.values() for path in each.paths}
        return decided | {
            path
            for path, each in self.merge.paths.items()
            if each.decision is None and each.result != self.trees.workspace.get(path)
        }


def preview_rebase(caller: ProjectCaller, run_id: str, capability: str = "see_projects") -> RunRebase:
    """What applying a ready run to the workspace as it is now would do, by the merge of syncs; writes nothing. Raises NotFound, Forbidden,
    WrongState (400), Conflict (409) if files of the workspace cannot be read, SyncFilesMissing (409), FilesUnavailable (503)."""
    found = own_run(caller, run_id, capability)
    check_ready(found.run)
    project, run = found.project, found.run
    _, workspace = own_workspace(caller, run.workspace_id, capability)
    account_id, version = project.account_id, workspace.version
    base, current, result = (
        tree_named(account_id, hash)
        for hash in (run.base_manifest_hash, files_now(project, workspace), run.result_manifest_hash)
    )
    if current is None or result is None:
        raise Conflict("The files of the workspace cannot be read, so the patch cannot be merged with them.")
    trees = cut_trees(account_id, base, current, result)
    check_stored(account_id, trees)
    merge = merge_trees(*trees, SyncFiles(account_id, trees).read)
    return RunRebase(found, version, current, trees, merge)


def rebase_run(
    caller: ProjectCaller,
    run_id: str,
    *,
    key: PresentedKey,
    owner: str,
    decisions: Mapping[str, str] | None = None,
    custom: Mapping[str, str] | None = None,
    expected: int | None = None,
) -> tuple[ActionItemRun, Turn]:
    """Merge what a ready run made with what the workspace has now, with an answer for each decision. The run goes on with the result, based on those
    newer files: its checks run again, driven by a turn that is leased to the worker `owner`; the caller commits, then runs the turn. The workspace does
    not move. Locks project, workspace, item and run; flushes. Raises as `preview_rebase`; RebaseUndecided (409) with the paths without an
    answer, Invalid (422) for wrong ones, StaleWorkspace and BaseChanged (409) if the workspace moved meanwhile, NothingLeft (409) if it has all of
    the patch, RunInProgress (409)."""
    rebase = preview_rebase(caller, run_id, "edit_projects")
    manifest_hash, contents = _merged(rebase, dict(decisions or {}), dict(custom or {}))
    project, workspace, item, run = locked_places(caller, run_id)
    check_ready(run)
    check_item(item)
    check_version(workspace, expected)
    base = files_now(project, workspace)
    if workspace.version != rebase.version or base is None:
        raise BaseChanged
    if tree_named(project.account_id, manifest_hash) == rebase.current_tree:
        raise NothingLeft
    for hash in (base, manifest_hash):
        use_manifest(project.account_id, hash)
    if contents:
        put_blobs(project.account_id, sorted(contents.items()))
    if any(each.active for each in runs_of_item(item.id)):
        raise RunInProgress
    _go_on(run, base, workspace.current_snapshot_id, manifest_hash)
    item.status, item.updated_at = "running", now()
    turn = driving_turn(run, project.account_id, caller.user_id, key, owner)
    try:
        with db.session.begin_nested():
            db.session.flush()
    except IntegrityError:
        raise RunInProgress from None
    return run, turn


def _go_on(run: ActionItemRun, base: str, snapshot_id: str | None, manifest_hash: str) -> None:
    """Base a run on newer files, with a result that is to be checked."""
    run.base_manifest_hash, run.base_snapshot_id, run.result_manifest_hash = base, snapshot_id, manifest_hash
    run.status, run.verified, run.doubts, run.completed_at = "running", None, None, None
    run.checks, run.tests_touched, run.updated_at = None, [], now()
    rebase = {
        **ATTEMPT,
        "kind": "rebase",
        "number": max(run.attempt_count, 1),
        "state": "checking",
        "base_manifest_hash": base,
        "manifest_hash": manifest_hash,
    }
    run.attempts = [*run.attempts, rebase][-MAX_KEPT:]


def _merged(
    rebase: RunRebase, decisions: dict[str, str], custom: dict[str, str]
) -> tuple[str, dict[str, bytes]]:
    """Store the merged tree; the hash of its manifest, and the bytes that the merge made."""
    answers = {**dict.fromkeys(custom, CUSTOM), **decisions}
    wrong = next((each for each in answers.values() if each not in _OPTIONS), None)
    if wrong is not None:
        raise Invalid(
            f"{str(wrong)[:50]!r} is no answer. Answer 'use_patch', 'use_workspace', or 'custom' with a text.",
            code="option_unknown",
        )
    missing = sorted(rebase.merge.decisions.keys() - answers.keys())
    if missing:
        raise RebaseUndecided(missing)
    account_id, paths = rebase.found.project.account_id, rebase.paths
    above = {each for path in paths for each in ancestors(path)}
    standing = entries_at(account_id, rebase.current_tree, paths | above)
    cut = {path: merge_entry(entry) for path, entry in standing.items()}
    settled = settle(rebase.merge, cut, {path: _OPTIONS[each] for path, each in answers.items()}, custom)
    kept = {path: settled.tree[path] for path in paths & settled.tree.keys()}
    entries = {entry.path: entry for entry in manifest_entries(kept)}
    try:
        changes = {path: entries.get(path) for path in paths}
        manifest_hash = put_changes(account_id, rebase.current_tree, changes)
    except ManifestInvalid as error:
        raise Invalid(error.message, code="path_clash") from None
    return manifest_hash, settled.contents
