"""Undo of an operation, also an old one: a new operation that takes back what it changed, and keeps what came after."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.projects.activity_log import add_event
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_project, own_workspace
from models.projects.snapshots.manifest_store import (
    manifest_row,
    put_changes,
    tree_changes,
)
from models.projects.snapshots.manifest_text import Entry, ManifestInvalid
from models.projects.snapshots.snapshot_making import server_snapshot, snapshot_in
from models.projects.workspaces.head_moves import (
    Mover,
    check_version,
    move_head,
    operation_of,
    record_main,
)
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

Choice = Literal["keep", "undo"]


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """What an undo would do. `exact`: nothing came after, so the workspace goes back to where it was. `changes` are the entries that
    paths get, None to remove one; `conflicts` those of them that changed since, which need a choice."""

    operation: WorkspaceOperation
    exact: bool
    changes: Mapping[str, Entry | None]
    conflicts: tuple[str, ...]


class UndecidedUndo(Conflict):
    """Later work changed the same files: each needs a choice."""

    code = "undo_conflict"

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(
            "Later work changed files that the undo would change. Say for each whether to 'keep' or to 'undo' it."
        )
        self.paths = paths


def preview_undo(caller: ProjectCaller, workspace_id: str, operation_id: str) -> UndoPlan:
    """What undoing the operation would do; writes nothing. Raises NotFound, Forbidden, Conflict (409) if it cannot be undone."""
    project, workspace = own_workspace(caller, workspace_id)
    return _plan(project, workspace, operation_of(workspace, operation_id))


def undo_operation(
    caller: ProjectCaller,
    workspace_id: str,
    operation_id: str,
    mover: Mover,
    *,
    decisions: Mapping[str, str] | None = None,
    expected: int | None = None,
) -> WorkspaceOperation:
    """Take an operation back by a new one. Locks project and workspace, flushes. Raises NotFound, Forbidden, Invalid (422), StaleWorkspace
    and UndecidedUndo (409), Conflict (409) if it cannot be undone."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects")
    project = own_project(caller, project.id, "edit_projects", lock=True)
    project, workspace = own_workspace(caller, workspace_id, "edit_projects", lock=True)
    operation = operation_of(workspace, operation_id)
    check_version(workspace, expected)
    if operation.kind == "set_main":
        return _undo_main(project, workspace, operation, mover)
    plan = _plan(project, workspace, operation)
    if plan.exact:
        done = move_head(
            workspace,
            mover,
            "undo",
            snapshot_id=operation.before_snapshot_id,
            manifest_hash=operation.before_manifest_hash,
            undoes=operation.id,
            detail=_undo_merge(workspace, operation),
        )
    else:
        done = _undo_old(project, workspace, plan, _choices(plan, decisions or {}), mover)
    project.updated_at = now()
    add_event(
        project.id,
        "operation.undone",
        mover.actor,
        mover.user_id,
        workspace_id=workspace.id,
        snapshot_id=done.after_snapshot_id,
    )
    db.session.flush()
    return done


def _undo_merge(workspace: Workspace, operation: WorkspaceOperation) -> dict[str, Any] | None:
    """Take back what the operation, a sync or the undo of one, noted of merges; returns the detail of the undo of that."""
    history = (operation.detail or {}).get("merge_history")
    if history is None:
        return None
    workspace.merge_history = history[0]
    return {"merge_history": history[::-1]}


def _plan(project: Project, workspace: Workspace, operation: WorkspaceOperation) -> UndoPlan:
    if operation.kind == "set_main":
        return UndoPlan(operation, project.main_workspace_id == workspace.id, {}, ())
    after = operation.after_snapshot_id, operation.after_manifest_hash
    exact = after == (workspace.current_snapshot_id, workspace.current_manifest_hash)
    trees = (
        _tree(project, operation.before_snapshot_id, operation.before_manifest_hash, exact),
        _tree(project, *after, exact),
        _tree(project, workspace.current_snapshot_id, workspace.current_manifest_hash, exact),
    )
    return UndoPlan(operation, exact, *_inverse(project.account_id, *trees))


def _inverse(
    account_id: str, before: str | None, after: str | None, current: str | None
) -> tuple[dict[str, Entry | None], tuple[str, ...]]:
    """What takes back the way from `before` to `after` in the tree `current`, and the paths that changed since."""
    since = tree_changes(account_id, after, current)
    changes: dict[str, Entry | None] = {}
    conflicts: list[str] = []
    for path, (there, wanted) in tree_changes(account_id, after, before).items():
        here = since.get(path, (there, there))[1]
        if here == wanted:
            continue
        changes[path] = wanted
        if here != there:
            conflicts.append(path)
    return dict(sorted(changes.items())), tuple(sorted(conflicts))


def _choices(plan: UndoPlan, decisions: Mapping[str, str]) -> dict[str, Choice]:
    """The choices for the conflicts. Raises UndecidedUndo, Invalid."""
    for path, choice in decisions.items():
        if choice not in ("keep", "undo"):
            raise Invalid(f"The decision for '{path[:100]}' must be 'keep' or 'undo'.")
    missing = tuple(path for path in plan.conflicts if path not in decisions)
    if missing:
        raise UndecidedUndo(missing)
    return {path: cast(Choice, choice) for path, choice in decisions.items()}


def _undo_old(
    project: Project, workspace: Workspace, plan: UndoPlan, choices: Mapping[str, Choice], mover: Mover
) -> WorkspaceOperation:
    current = _tree(project, workspace.current_snapshot_id, workspace.current_manifest_hash, False)
    changes = {path: entry for path, entry in plan.changes.items() if choices.get(path) != "keep"}
    try:
        manifest_hash = put_changes(project.account_id, current, changes)
    except ManifestInvalid:
        # a file of one side is a directory of the other
        raise UndecidedUndo(tuple(plan.changes)) from None
    head = [workspace.current_snapshot_id] if workspace.current_snapshot_id else []
    snapshot = server_snapshot(
        project,
        workspace,
        manifest_hash,
        head,
        source="web",
        message=f"Undo of operation {plan.operation.id}",
        user_id=mover.user_id,
    )
    project.last_snapshot_id = snapshot.id
    return move_head(
        workspace,
        mover,
        "undo",
        snapshot_id=snapshot.id,
        manifest_hash=manifest_hash,
        undoes=plan.operation.id,
    )


def _undo_main(
    project: Project, workspace: Workspace, operation: WorkspaceOperation, mover: Mover
) -> WorkspaceOperation:
    before = (operation.detail or {}).get("before")
    former = db.session.get(Workspace, before) if before else None
    if project.main_workspace_id != workspace.id or former is None or former.deleted_at is not None:
        raise Conflict("The main workspace changed since. Choose the main workspace instead.")
    project.main_workspace_id, project.updated_at = former.id, now()
    return record_main(former, mover, workspace.id)


def _tree(project: Project, snapshot_id: str | None, manifest_hash: str | None, exact: bool) -> str | None:
    """The tree of a state of a workspace; None for no files, or for a text that cannot be read if that does not matter."""
    if manifest_hash is None and snapshot_id is not None:
        snapshot = snapshot_in(project.id, snapshot_id)
        manifest_hash = snapshot.manifest_hash if snapshot else None
    if manifest_hash is None:
        return None
    row = manifest_row(project.account_id, manifest_hash)
    if exact or (row is not None and row.tree_hash is not None):
        return row.tree_hash if row else None
    raise Conflict(
        "The manifest of one of the states is not stored or cannot be read, so only the last operation can be undone.",
        code="manifest_not_found",
    )
