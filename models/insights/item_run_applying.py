"""Applies what a run made: to the files that it began with, or after those moved, merged with what the workspace has now."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.insights.action_item import ActionItem
from models.insights.item_run import ActionItemRun
from models.insights.item_run_reading import (
    FoundRun,
    WrongState,
    files_now,
    locked_run,
    own_run,
    run_not_found,
    tree_named,
)
from models.projects import Project, ProjectCaller, Workspace
from models.projects.activity_log import add_event
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
from models.projects.project_access import own_project, own_workspace
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import put_changes, use_manifest
from models.projects.snapshots.manifest_text import ManifestInvalid
from models.projects.snapshots.snapshot_making import server_snapshot
from models.projects.snapshots.snapshot_run_costs import add_costs, uncounted_costs
from models.projects.snapshots.tree_reading import entries_at
from models.projects.sync.sync_refusals import SyncRefused
from models.projects.sync.sync_trees import CutTrees, SyncFiles, check_stored, cut_trees, merge_entry
from models.projects.workspaces.head_moves import Mover, check_version, move_head
from models.projects.workspaces.workspace import WorkspaceOperation
from models.runs import AgentRun
from models.runs.history import find_run
from models.runs.run import agent_name_of
from models.turns import Turn

USE_PATCH = "use_patch"
"""The option of a decision that takes what the patch has; `use_workspace` and `custom` are the others."""
_OPTIONS = {USE_PATCH: USE_MAIN, USE_WORKSPACE: USE_WORKSPACE, CUSTOM: CUSTOM}


class BaseChanged(Conflict):
    """The workspace moved since the run began (contract 4.9 [new])."""

    code = "base_changed"

    def __init__(self) -> None:
        super().__init__(
            "The files of the workspace changed since the run began. Rebase the patch on them, or run it again."
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


def apply_run(
    caller: ProjectCaller, run_id: str, mover: Mover, expected: int | None = None
) -> tuple[ActionItemRun, WorkspaceOperation]:
    """Move the workspace to the files that a ready run made. Of several at once one wins. Locks project, workspace, item and run; flushes.
    Raises NotFound, Forbidden, WrongState (400) unless it is ready, BaseChanged and StaleWorkspace (409)."""
    own_run(caller, run_id, "edit_projects")
    project, workspace, item, run = _locked(caller, run_id)
    _check_ready(run)
    _check_item(item)
    check_version(workspace, expected)
    if files_now(project, workspace) != run.base_manifest_hash:
        raise BaseChanged
    assert run.result_manifest_hash is not None
    return run, _move(project, workspace, item, run, run.result_manifest_hash, mover, rebased=False)


def preview_rebase(caller: ProjectCaller, run_id: str, capability: str = "see_projects") -> RunRebase:
    """What applying a ready run to the workspace as it is now would do, by the merge of syncs; writes nothing. Raises NotFound, Forbidden,
    WrongState (400), Conflict (409) if files of the workspace cannot be read, SyncFilesMissing (409), FilesUnavailable (503)."""
    found = own_run(caller, run_id, capability)
    _check_ready(found.run)
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
    mover: Mover,
    *,
    decisions: Mapping[str, str] | None = None,
    custom: Mapping[str, str] | None = None,
    expected: int | None = None,
) -> tuple[ActionItemRun, WorkspaceOperation]:
    """Merge what a ready run made with what the workspace has now, with an answer for each decision, and move the workspace there. Its checks
    ran before the merge. Locks and raises as `apply_run`; RebaseUndecided (409) with the paths without an answer, Invalid (422) for wrong
    ones, BaseChanged (409) if the workspace moves meanwhile."""
    rebase = preview_rebase(caller, run_id, "edit_projects")
    manifest_hash, contents = _merged(rebase, dict(decisions or {}), dict(custom or {}))
    project, workspace, item, run = _locked(caller, run_id)
    _check_ready(run)
    _check_item(item)
    check_version(workspace, expected)
    if workspace.version != rebase.version:
        raise BaseChanged
    use_manifest(project.account_id, manifest_hash)
    if contents:
        put_blobs(project.account_id, sorted(contents.items()))
    return run, _move(project, workspace, item, run, manifest_hash, mover, rebased=True)


def _locked(caller: ProjectCaller, run_id: str) -> tuple[Project, Workspace, ActionItem, ActionItemRun]:
    found = own_run(caller, run_id, "edit_projects")
    project = own_project(caller, found.project.id, "edit_projects", lock=True)
    _, workspace = own_workspace(caller, found.workspace.id, "edit_projects", lock=True)
    locked = locked_run(run_id)
    if locked is None:
        raise run_not_found()
    return project, workspace, *locked


def _check_ready(run: ActionItemRun) -> None:
    if run.status == "ready":
        return
    told = {
        "applied": "The patch of this run is applied already.",
        "failed": "This run failed, so it has no patch to apply. Run it again.",
    }
    raise WrongState(told.get(run.status, "This run has not ended. Wait for it, or stop it."))


def _check_item(item: ActionItem) -> None:
    if item.status == "dismissed":
        raise WrongState("The item of this run was dismissed, so its patch is not applied.")


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


def _move(
    project: Project,
    workspace: Workspace,
    item: ActionItem,
    run: ActionItemRun,
    manifest_hash: str,
    mover: Mover,
    *,
    rebased: bool,
) -> WorkspaceOperation:
    """Make the snapshot, which takes the credits of the run, and move the head there; the run and its item are applied."""
    heads = [workspace.current_snapshot_id] if workspace.current_snapshot_id else []
    snapshot = server_snapshot(
        project,
        workspace,
        manifest_hash,
        heads,
        source="web",
        message=item.title,
        user_id=mover.user_id,
    )
    costs: dict[str, int] = {}
    for agent_run in _agent_runs(project, run):
        costs |= uncounted_costs(project.account_id, agent_run)
        snapshot.run_id, snapshot.agent = agent_run.id, agent_name_of(agent_run)[:200]
    snapshot.credits = sum(costs.values())
    db.session.flush()
    add_costs(snapshot, costs)
    operation = move_head(
        workspace,
        mover._replace(cause=snapshot.run_id, cost=snapshot.credits),
        "turn",
        snapshot_id=snapshot.id,
        manifest_hash=manifest_hash,
        detail={"item_run": run.id, "item": item.id, "rebased": rebased},
    )
    moment = now()
    project.last_snapshot_id, project.updated_at = snapshot.id, moment
    run.status, run.operation_id, run.updated_at = "applied", operation.id, moment
    item.status, item.updated_at = "applied", moment
    item.resolved_at = None
    add_event(
        project.id,
        "patch.applied",
        mover.actor,
        mover.user_id,
        workspace_id=workspace.id,
        snapshot_id=snapshot.id,
        message=item.title,
    )
    db.session.flush()
    return operation


def _agent_runs(project: Project, run: ActionItemRun) -> Iterator[AgentRun]:
    """The agents' runs of the attempts, in their order, that the account of the project paid."""
    for attempt in run.attempts:
        turn = db.session.get(Turn, attempt["turn_id"]) if attempt.get("turn_id") else None
        found = find_run(project.account_id, turn.run_id) if turn is not None and turn.run_id else None
        if found is not None:
            yield found
