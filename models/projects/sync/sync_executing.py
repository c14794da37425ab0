"""Executing a sync: the plan of a preview and the answers to its decisions become the files of the workspace, in one transaction
(fastest contract 3.10, 4.6)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.core.db import db, now
from models.core.errors import Invalid
from models.projects.activity_log import add_event
from models.projects.merge import CUSTOM, DecisionsMissing, SettledTree, manifest_entries, settle
from models.projects.merge.merge_planning import ancestors
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_project, own_workspace
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import (
    manifest_row,
    put_changes,
    readable_tree,
    use_manifest,
)
from models.projects.snapshots.manifest_text import ManifestInvalid
from models.projects.snapshots.snapshot_making import server_snapshot
from models.projects.snapshots.tree_reading import entries_at
from models.projects.sync.sync_plan import plan_counts, planned_merge, settled_paths
from models.projects.sync.sync_preparing import main_workspace
from models.projects.sync.sync_preview import SyncPreview, moved_heads, own_preview
from models.projects.sync.sync_refusals import PreviewGone, PreviewStale, SyncRefused
from models.projects.sync.sync_trees import merge_entry
from models.projects.workspaces.head_moves import Mover, check_version, move_head
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation


@dataclass(frozen=True, slots=True)
class SyncChoices:
    """How a person wants a sync: an option for the path of each decision, texts of their own for those answered `custom`, and whether
    the workspace's files are kept as a snapshot before, and the result after."""

    decisions: Mapping[str, Any] = field(default_factory=dict)
    custom: Mapping[str, Any] = field(default_factory=dict)
    snapshot_before: bool = True
    snapshot_after: bool = True


@dataclass(frozen=True, slots=True)
class ExecutedSync:
    """The operation of a sync, the workspace after it, and the ids of the snapshots that were made. `copied` files are main's, `combined`
    have parts of both sides or were decided."""

    operation: WorkspaceOperation
    workspace: Workspace
    copied: int
    combined: int
    before_id: str | None
    after_id: str | None


def execute_sync(
    caller: ProjectCaller,
    workspace_id: str,
    preview_id: str,
    mover: Mover,
    choices: SyncChoices,
    expected: int | None = None,
) -> ExecutedSync:
    """Do what a preview says. Of several at the same time one wins. Locks project and workspace, flushes.

    The snapshot after it has both heads as parents. Without one the workspace has the files, and its history does not know of the merge.
    Raises NotFound, Forbidden, PreviewGone (404), PreviewStale and StaleWorkspace (409), SyncRefused (400) for missing or wrong answers,
    QuotaExceeded and ManifestTooLarge (413), FilesUnavailable (503)."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects")
    preview = own_preview(caller.user_id, project, workspace, preview_id)
    _main_as_prepared(project, workspace, preview)
    # a preview never changes, so the tree needs no lock
    decisions = {**dict.fromkeys(choices.custom, CUSTOM), **choices.decisions}
    settled = _settled(project.account_id, preview, decisions, choices.custom)
    project = own_project(caller, project.id, "edit_projects", lock=True)
    project, workspace = own_workspace(caller, workspace_id, "edit_projects", lock=True)
    preview = own_preview(caller.user_id, project, workspace, preview_id)
    check_version(workspace, expected)
    main = _main_as_prepared(project, workspace, preview)
    manifest_hash = _stored(project.account_id, preview, settled)
    preview.state, preview.decisions = "executed", decisions
    return _move(project, workspace, main, preview, manifest_hash, mover, choices)


def _main_as_prepared(project: Project, workspace: Workspace, preview: SyncPreview) -> Workspace:
    """The main workspace. Raises PreviewStale if its head or the workspace moved since the preview."""
    main = main_workspace(project)
    moved = moved_heads(workspace, main, preview)
    if moved:
        raise PreviewStale(moved, workspace.version)
    return main


def _settled(
    account_id: str, preview: SyncPreview, decisions: Mapping[str, Any], custom: Mapping[str, Any]
) -> SettledTree | None:
    """What stands after the merge at the paths that it settles; None if the whole tree is main's. Raises SyncRefused (400)."""
    for path, text in custom.items():
        if not isinstance(text, str):
            raise SyncRefused(f"The text for {path[:200]} must be a string.", code="custom_text_invalid")
    if preview.plan["takes_main"] and not decisions:
        return None
    root = _workspace_tree(account_id, preview)
    paths = settled_paths(preview.plan)
    standing = entries_at(account_id, root, paths | {above for path in paths for above in ancestors(path)})
    cut = {path: merge_entry(entry) for path, entry in standing.items()}
    try:
        settled = settle(planned_merge(preview.plan), cut, decisions, custom)
    except DecisionsMissing as error:
        facts = {"missing": error.missing}
        raise SyncRefused(error.message, code="missing_decisions", facts=facts) from None
    except Invalid as error:
        raise SyncRefused(error.message, code=error.code) from None
    return SettledTree({path: settled.tree[path] for path in paths & settled.tree.keys()}, settled.contents)


def _workspace_tree(account_id: str, preview: SyncPreview) -> str:
    row = manifest_row(account_id, preview.workspace_manifest_hash)
    if row is None:
        raise PreviewGone
    return readable_tree(row)


def _stored(account_id: str, preview: SyncPreview, settled: SettledTree | None) -> str:
    """Store the result; returns the hash of its manifest. Raises SyncRefused (400) if a file and a directory stand at one path."""
    if settled is None:
        return preview.main_manifest_hash
    try:
        entries = {entry.path: entry for entry in manifest_entries(settled.tree)}
        changes = {path: entries.get(path) for path in settled_paths(preview.plan)}
        manifest_hash = put_changes(account_id, _workspace_tree(account_id, preview), changes)
    except ManifestInvalid as error:
        raise SyncRefused(error.message, code="path_clash") from None
    # after the manifest: both lock blobs before the count of the account's bytes
    if settled.contents:
        put_blobs(account_id, sorted(settled.contents.items()))
    return manifest_hash


def _move(
    project: Project,
    workspace: Workspace,
    main: Workspace,
    preview: SyncPreview,
    manifest_hash: str,
    mover: Mover,
    choices: SyncChoices,
) -> ExecutedSync:
    history = workspace.merge_history
    before_id, after_id = _snapshots(project, workspace, main, preview, manifest_hash, mover.user_id, choices)
    if after_id is not None:
        project.last_snapshot_id = after_id
        workspace.merge_history = _history(workspace, main, preview)
    use_manifest(project.account_id, manifest_hash)
    operation = move_head(
        workspace,
        mover,
        "sync",
        snapshot_id=after_id or preview.workspace_snapshot_id,
        manifest_hash=manifest_hash,
        detail={
            "preview": preview.id,
            "main": main.id,
            "main_snapshot": preview.main_snapshot_id,
            "decisions": preview.decisions,
            "merge_history": [history, workspace.merge_history],
        },
    )
    project.updated_at = now()
    copied, combined = plan_counts(preview.plan)
    add_event(
        project.id,
        "merge.completed",
        "web",
        mover.user_id,
        workspace_id=workspace.id,
        snapshot_id=after_id,
        message=f"Merged {main.name}: {copied} copied, {combined} combined",
    )
    db.session.flush()
    return ExecutedSync(operation, workspace, copied, combined, before_id, after_id)


def _snapshots(
    project: Project,
    workspace: Workspace,
    main: Workspace,
    preview: SyncPreview,
    manifest_hash: str,
    user_id: str | None,
    choices: SyncChoices,
) -> tuple[str | None, str | None]:
    """The ids of the snapshots before and after, those that are wanted."""
    head, before, after = preview.workspace_snapshot_id, None, None
    if choices.snapshot_before:
        message = f"Before the sync with {main.name}"
        before = server_snapshot(
            project,
            workspace,
            preview.workspace_manifest_hash,
            [head],
            source="system",
            message=message,
            user_id=user_id,
        ).id
    if choices.snapshot_after:
        parents, message = [head, preview.main_snapshot_id], f"Sync with {main.name}"
        after = server_snapshot(
            project, workspace, manifest_hash, parents, source="web", message=message, user_id=user_id
        ).id
    return before, after


def _history(workspace: Workspace, main: Workspace, preview: SyncPreview) -> dict[str, Any]:
    """The merges that the head has now: of main, and with it what main had merged later than the workspace."""
    history = dict(workspace.merge_history or {})
    for id, entry in (main.merge_history or {}).items():
        if id != workspace.id and entry["merged_at"] > history.get(id, {}).get("merged_at", ""):
            history[id] = entry
    merged_at = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    history[main.id] = {"last_merged_snapshot": preview.main_snapshot_id, "merged_at": merged_at}
    return history
