"""Making, listing, naming and deleting workspaces, their heartbeats, and the state of their files (fastest contract 3.5, 4.6)."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from models.core.db import db, extension, now
from models.core.errors import Conflict, Invalid
from models.projects.activity_log import add_event
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_project, own_workspace
from models.projects.project_editing import plain_text
from models.projects.snapshots.manifest_store import use_manifest
from models.projects.snapshots.merge_base import ancestors_of
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.snapshot_making import keep_loser, snapshot_in
from models.projects.workspaces.head_moves import Mover, check_version, move_head, record_main
from models.projects.workspaces.overlap_index import follow_move, forget_changes
from models.projects.workspaces.workspace import Workspace

MAX_TEXT = 4_096
"""Characters of a path or of a machine's id."""
MAX_HASH = 128


class ManifestMove(NamedTuple):
    """The outcome of a compare-and-set: whether the workspace has the new state, and which it has. `kept_as` is the snapshot that
    holds the loser's tree."""

    workspace: Workspace
    moved: bool
    kept_as: str | None = None


def create_workspace(
    caller: ProjectCaller,
    project_id: str,
    name: str,
    *,
    machine_id: str | None = None,
    base_snapshot_id: str | None = None,
    local_path: str | None = None,
    actor: str = "cli",
) -> Workspace:
    """Register a working copy; the first of a project becomes its main one. Locks the project, flushes. Raises Invalid (422), Conflict
    (409) for a name that is taken or too many, NotFound, Forbidden."""
    project = own_project(caller, project_id, "edit_projects", lock=True)
    name = plain_text(name)
    _check_texts(machine_id, local_path)
    if base_snapshot_id and snapshot_in(project.id, base_snapshot_id) is None:
        raise Invalid("'base_snapshot_id' is no snapshot of this project.")
    _check_name(project, name)
    count = select(func.count()).where(Workspace.project_id == project.id, Workspace.deleted_at.is_(None))
    most = extension("settings").stoa_workspaces_per_project
    if (db.session.scalar(count) or 0) >= most:
        raise Conflict(
            f"A project has at most {most:,} workspaces. Delete one first.", code="workspace_limit"
        )
    workspace = Workspace(
        project_id=project.id,
        created_by=caller.user_id,
        name=name,
        machine_id=machine_id,
        base_snapshot_id=base_snapshot_id or None,
        current_snapshot_id=base_snapshot_id or None,
        local_path=local_path,
        version=1,
        created_at=now(),
    )
    db.session.add(workspace)
    db.session.flush()
    if project.main_workspace_id is None:
        project.main_workspace_id = workspace.id
    project.updated_at = now()
    add_event(project.id, "workspace.created", actor, caller.user_id, workspace_id=workspace.id)
    db.session.flush()
    follow_move(workspace, None)
    return workspace


def workspaces_of(project_id: str) -> Sequence[Workspace]:
    """The workspaces of a project, newest first."""
    query = select(Workspace).where(Workspace.project_id == project_id, Workspace.deleted_at.is_(None))
    return db.session.scalars(query.order_by(Workspace.created_at.desc(), Workspace.id.desc())).all()


def edit_workspace(
    caller: ProjectCaller, id: str, changes: dict[str, str | None], expected: int | None
) -> Workspace:
    """Change the name, machine or path of a workspace. Raises as `create_workspace`, and StaleWorkspace (409)."""
    project, workspace = own_workspace(caller, id, "edit_projects", lock=True)
    check_version(workspace, expected)
    if "name" in changes:
        name = plain_text(changes["name"] or "")
        if name.lower() != workspace.name.lower():
            _check_name(project, name)
        workspace.name = name
    _check_texts(changes.get("machine_id"), changes.get("local_path"))
    for field in ("machine_id", "local_path"):
        if field in changes:
            setattr(workspace, field, changes[field])
    db.session.flush()
    return workspace


def delete_workspace(caller: ProjectCaller, id: str, *, actor: str = "cli") -> Workspace:
    """Take a workspace out of all lists; its snapshots and operations stay. Raises NotFound, Forbidden, Conflict (409) for the main one."""
    project, _ = own_workspace(caller, id, "edit_projects")
    project = own_project(caller, project.id, "edit_projects", lock=True)
    _, workspace = own_workspace(caller, id, "edit_projects", lock=True)
    if project.main_workspace_id == workspace.id:
        raise Conflict(
            "This is the main workspace of the project. Make another one the main workspace first."
        )
    workspace.deleted_at = now()
    forget_changes(workspace)
    add_event(project.id, "workspace.deleted", actor, caller.user_id, workspace_id=workspace.id)
    db.session.flush()
    return workspace


def beat(caller: ProjectCaller, id: str) -> Workspace:
    """Note that the workspace is in use. Raises NotFound, Forbidden."""
    _, workspace = own_workspace(caller, id, "edit_projects", lock=True)
    workspace.last_seen_at = now()
    db.session.flush()
    return workspace


def set_main(caller: ProjectCaller, id: str, mover: Mover) -> Workspace:
    """Make the workspace the one that others are compared with. Idempotent. Locks the project, flushes. Raises NotFound, Forbidden."""
    project, workspace = own_workspace(caller, id, "edit_projects")
    project = own_project(caller, project.id, "edit_projects", lock=True)
    before = project.main_workspace_id
    if before != workspace.id:
        project.main_workspace_id, project.updated_at = workspace.id, now()
        record_main(workspace, mover, before)
        add_event(
            project.id, "workspace.main_changed", mover.actor, caller.user_id, workspace_id=workspace.id
        )
        db.session.flush()
    return workspace


def move_manifest(
    caller: ProjectCaller,
    id: str,
    manifest_hash: str,
    previous: str | None,
    mover: Mover,
    expected: int | None = None,
) -> ManifestMove:
    """Say what files a workspace has now: if it has none yet, or those of `previous`. Otherwise the tree is kept as a snapshot. Locks
    the workspace, flushes. Raises Invalid (422), NotFound, Forbidden."""
    project, _ = own_workspace(caller, id, "edit_projects")
    if not manifest_hash or len(manifest_hash) > MAX_HASH:
        raise Invalid(f"'manifest_hash' must have 1 to {MAX_HASH} characters.")
    project, workspace = own_workspace(caller, id, "edit_projects", lock=True)
    stored = workspace.current_manifest_hash
    if stored not in (None, previous) or expected not in (None, workspace.version):
        kept = keep_loser(project, workspace, manifest_hash, caller.user_id)
        add_event(
            project.id,
            "workspace.out_of_date",
            mover.actor,
            caller.user_id,
            workspace_id=workspace.id,
            snapshot_id=kept,
        )
        db.session.flush()
        return ManifestMove(workspace, False, kept)
    if stored != manifest_hash:
        use_manifest(project.account_id, manifest_hash)
        move_head(
            workspace,
            mover,
            "manifest",
            snapshot_id=workspace.current_snapshot_id,
            manifest_hash=manifest_hash,
        )
    return ManifestMove(workspace, True)


def restore_snapshot(
    caller: ProjectCaller, id: str, snapshot_id: str, mover: Mover, expected: int | None = None
) -> Workspace:
    """Move a workspace to a snapshot of its project. Locks the workspace, flushes. Raises NotFound, Forbidden, StaleWorkspace (409)."""
    project, workspace = own_workspace(caller, id, "edit_projects", lock=True)
    snapshot = snapshot_in(project.id, snapshot_id)
    if snapshot is None:
        raise Invalid("The project has no such snapshot.", code="not_found", status=404)
    check_version(workspace, expected)
    move_head(workspace, mover, "restore", snapshot_id=snapshot.id, manifest_hash=snapshot.manifest_hash)
    _forget_merge(workspace, snapshot)
    add_event(
        project.id,
        "snapshot.pulled",
        mover.actor,
        caller.user_id,
        workspace_id=workspace.id,
        snapshot_id=snapshot.id,
    )
    db.session.flush()
    return workspace


def _forget_merge(workspace: Workspace, snapshot: Snapshot) -> None:
    """Drop the merges that the head no longer has."""
    history = workspace.merge_history or {}
    have = ancestors_of(workspace.project_id, snapshot.id) if history else set()
    kept = {main: entry for main, entry in history.items() if entry.get("last_merged_snapshot") in have}
    if kept != history:
        workspace.merge_history = kept


def _check_name(project: Project, name: str) -> None:
    query = select(Workspace.id).where(
        Workspace.project_id == project.id,
        func.lower(Workspace.name) == func.lower(name),
        Workspace.deleted_at.is_(None),
    )
    if db.session.scalars(query.limit(1)).one_or_none() is not None:
        raise Conflict(
            f"The project has a workspace named '{name}'. Choose another name.", code="workspace_name_taken"
        )


def _check_texts(*texts: str | None) -> None:
    if any(text and len(text) > MAX_TEXT for text in texts):
        raise Invalid(f"'machine_id' and 'local_path' have at most {MAX_TEXT:,} characters.")
