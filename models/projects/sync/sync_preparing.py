"""Preparing a sync: merges main into a workspace without moving anything, and stores the plan for half an hour (contract 3.10, 4.4)."""

from models.core.db import db, now
from models.core.errors import NotFound
from models.projects.merge import TreeMerge, merge_trees, plan
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_workspace
from models.projects.project_ids import new_id
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import manifest_row, readable_tree
from models.projects.snapshots.merge_base import merge_base
from models.projects.snapshots.snapshot import Snapshot
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.snapshots.stored_objects import Manifest
from models.projects.sync.sync_plan import is_empty, settled_paths, sync_plan
from models.projects.sync.sync_preview import LIFETIME, SyncPreview, keep_preview
from models.projects.sync.sync_refusals import SyncRefused
from models.projects.sync.sync_trees import CutTrees, SyncFiles, check_stored, cut_trees
from models.projects.workspaces.workspace import Workspace


def prepare_sync(caller: ProjectCaller, workspace_id: str) -> SyncPreview:
    """What merging main into the workspace would do. Moves nothing and locks no head; stores the preview unless it changes nothing, and
    the files that the merge made. Flushes.

    The workspace's side are its files now, in a snapshot or not; main's are those of its head. The base is their nearest common ancestor.
    Raises NotFound, Forbidden, SyncRefused (400, 409), ManifestUnreadable (500), QuotaExceeded (413), FilesUnavailable (503)."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects")
    main = _main_of(project, workspace)
    if not workspace.current_snapshot_id or not main.current_snapshot_id:
        lacking = workspace if not workspace.current_snapshot_id else main
        raise SyncRefused(
            f"The workspace '{lacking.name}' has no snapshot. Push one first.", code="no_snapshot"
        )
    head, main_head = (_head(project, each) for each in (workspace, main))
    files = _manifest(project, workspace.current_manifest_hash or head.manifest_hash, workspace)
    main_files = _manifest(project, main_head.manifest_hash, main)
    base = merge_base(project.id, head.id, main_head.id)
    base_tree = _base_tree(project, base)
    trees = cut_trees(project.account_id, base_tree, readable_tree(files), readable_tree(main_files))
    takes_main = base_tree == files.tree_hash and main_files.dialect == "typed"
    planned, contents = sync_plan(_merged(project.account_id, trees), trees.workspace, takes_main=takes_main)
    moment = now()
    preview = SyncPreview(
        id=new_id(),
        project_id=project.id,
        workspace_id=workspace.id,
        main_workspace_id=main.id,
        user_id=caller.user_id,
        workspace_version=workspace.version,
        workspace_snapshot_id=head.id,
        workspace_manifest_hash=files.hash,
        main_version=main.version,
        main_snapshot_id=main_head.id,
        main_manifest_hash=main_files.hash,
        base_snapshot_id=base.id if base else None,
        files_unchanged=_unchanged(files, trees, settled_paths(planned)),
        plan=planned,
        made_files=sorted(contents),
        state="open",
        created_at=moment,
        expires_at=moment + LIFETIME,
    )
    if not is_empty(planned):
        if contents:
            put_blobs(project.account_id, sorted(contents.items()))
        keep_preview(preview)
    return preview


def main_workspace(project: Project) -> Workspace:
    """The main workspace of a project. Raises SyncRefused (400)."""
    id = project.main_workspace_id
    found = db.session.get(Workspace, id, populate_existing=True) if id else None
    if found is None or found.deleted_at is not None:
        raise SyncRefused("The project has no main workspace. Choose one first.", code="no_main_workspace")
    return found


def _main_of(project: Project, workspace: Workspace) -> Workspace:
    main = main_workspace(project)
    if main.id == workspace.id:
        raise SyncRefused("This is the main workspace. Others are synced from it.", code="invalid_operation")
    return main


def _head(project: Project, workspace: Workspace) -> Snapshot:
    found = snapshot_in(project.id, workspace.current_snapshot_id or "")
    if found is None:
        raise NotFound("There is no such snapshot.")
    return found


def _manifest(project: Project, hash: str, workspace: Workspace) -> Manifest:
    found = manifest_row(project.account_id, hash)
    if found is None:
        raise NotFound(
            f"The files of the workspace '{workspace.name}' are not stored. Send the manifest {hash[:64]} first.",
            code="manifest_not_found",
        )
    readable_tree(found)
    return found


def _base_tree(project: Project, base: Snapshot | None) -> str | None:
    """The tree of the base. Without one that can be read, each file that is not the same on both sides is a decision."""
    row = manifest_row(project.account_id, base.manifest_hash) if base else None
    return row.tree_hash if row else None


def _merged(account_id: str, trees: CutTrees) -> TreeMerge:
    check_stored(account_id, trees)
    if trees.workspace == trees.base:
        return TreeMerge(plan(*trees).settled, {}, [])
    return merge_trees(*trees, SyncFiles(account_id, trees).read)


def _unchanged(files: Manifest, trees: CutTrees, changed: set[str]) -> int:
    """How many paths are in sync: the same in all, or as the workspace wants them; without those that only the workspace has."""
    same = files.entries - len(trees.workspace)
    settled = (trees.base.keys() | trees.main.keys()) - changed
    return same + len(settled)
