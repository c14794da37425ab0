"""Reads runs of action items: who may see them, lists, patches that wait, and what a run changes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from models.core.db import db
from models.core.errors import DomainError, NotFound
from models.insights.action_item import ActionItem
from models.insights.item_run import ATTEMPT, ActionItemRun
from models.insights.patch_text import PatchText, patch_text
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_access import own_project
from models.projects.project_ids import fits
from models.projects.project_listing import Before
from models.projects.snapshots.directory_tree import Changes
from models.projects.snapshots.manifest_store import manifest_row, tree_changes
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.workspaces.workspace import WorkspaceOperation

MAX_LISTED = 20
_CHECK: Mapping[str, Any] = {"flaky": False, "tree_hash": None}
MAX_UNDOS = 20
"""Undos of undos that are followed."""


class FoundRun(NamedTuple):
    """A run, the item that it mends, and where."""

    run: ActionItemRun
    item: ActionItem
    project: Project
    workspace: Workspace


class WrongState(DomainError):
    """The item or run is not in a state for this (contract 3.13: 400 `INVALID_STATE`)."""

    status = 400
    code = "invalid_state"


def own_run(caller: ProjectCaller, id: str, capability: str = "see_projects") -> FoundRun:
    """A run in a project that the caller may see or change. Raises NotFound, Forbidden."""
    found = db.session.get(ActionItemRun, id, populate_existing=True) if fits(id) else None
    if found is None:
        raise run_not_found()
    try:
        project = own_project(caller, found.project_id, capability)
    except NotFound:
        raise run_not_found() from None
    item = db.session.get_one(ActionItem, found.action_item_id)
    return FoundRun(found, item, project, db.session.get_one(Workspace, found.workspace_id))


def locked_run(id: str) -> tuple[ActionItem, ActionItemRun] | None:
    """A run and its item, both locked until the transaction ends, the item first; None if it is gone."""
    item_id = db.session.scalar(select(ActionItemRun.action_item_id).where(ActionItemRun.id == id))
    item = locked_item(item_id) if item_id else None
    query = select(ActionItemRun).where(ActionItemRun.id == id).with_for_update()
    run = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    return (item, run) if item is not None and run is not None else None


def locked_item(id: str) -> ActionItem | None:
    """An item, its row locked until the transaction ends."""
    query = select(ActionItem).where(ActionItem.id == id).with_for_update(key_share=True)
    return db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def runs_of_item(item_id: str, limit: int = MAX_LISTED) -> Sequence[ActionItemRun]:
    """The newest runs of an item."""
    query = select(ActionItemRun).where(ActionItemRun.action_item_id == item_id)
    newest = query.order_by(ActionItemRun.created_at.desc(), ActionItemRun.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def runs_page(project_id: str, limit: int, before: Before = None) -> list[FoundRun]:
    """The runs of a project, newest first, before the one with this time and id."""
    key = ActionItemRun.created_at, ActionItemRun.id
    query = _with_places().where(ActionItemRun.project_id == project_id)
    if before is not None:
        query = query.where(tuple_(*key) < tuple_(*before))
    rows = db.session.execute(query.order_by(key[0].desc(), key[1].desc()).limit(limit))
    return [FoundRun(run, item, project, workspace) for run, item, project, workspace in rows]


def waiting_patches(project_ids: Sequence[str], limit: int = 100) -> list[FoundRun]:
    """Runs that are ready and wait for a person to apply them, the oldest first: of each item the newest such run."""
    newest = (
        select(ActionItemRun.id)
        .ext(distinct_on(ActionItemRun.action_item_id))
        .where(ActionItemRun.project_id.in_(project_ids), ActionItemRun.status == "ready")
        .order_by(ActionItemRun.action_item_id, ActionItemRun.created_at.desc(), ActionItemRun.id.desc())
    )
    query = _with_places().where(
        ActionItemRun.id.in_(newest), ActionItem.status == "ready", Workspace.deleted_at.is_(None)
    )
    rows = db.session.execute(query.order_by(ActionItemRun.completed_at, ActionItemRun.id).limit(limit))
    return (
        [FoundRun(run, item, project, workspace) for run, item, project, workspace in rows]
        if project_ids
        else []
    )


def files_now(project: Project, workspace: Workspace) -> str | None:
    """The manifest of what a workspace has, in a snapshot or not; None without files."""
    if workspace.current_manifest_hash:
        return workspace.current_manifest_hash
    head = workspace.current_snapshot_id
    snapshot = snapshot_in(project.id, head) if head else None
    return snapshot.manifest_hash if snapshot else None


def tree_named(account_id: str, manifest_hash: str | None) -> str | None:
    """The tree of a manifest; None without one that is stored and can be read."""
    row = manifest_row(account_id, manifest_hash) if manifest_hash else None
    return row.tree_hash if row else None


def attempts_of(run: ActionItemRun) -> list[dict[str, Any]]:
    """The attempts of a run, oldest first, with all fields, also those that older runs lack."""
    return [
        {**ATTEMPT, **each, "checks": [{**_CHECK, **check} for check in each.get("checks") or ()]}
        for each in run.attempts
    ]


def run_changes(project: Project, run: ActionItemRun) -> Changes:
    """What the result of a run changes in the files that it began with; nothing before there is a result. Raises BlobDamaged."""
    if run.result_manifest_hash is None:
        return {}
    base, result = (
        tree_named(project.account_id, hash) for hash in (run.base_manifest_hash, run.result_manifest_hash)
    )
    return tree_changes(project.account_id, base, result)


def run_patch(project: Project, run: ActionItemRun) -> PatchText:
    """The changes of a run as a unified diff. Raises FilesUnavailable (503), BlobDamaged."""
    return patch_text(project.account_id, run_changes(project, run))


def taken_back(run: ActionItemRun) -> bool:
    """Whether the patch of a run was applied, and that was undone."""
    taken, id = False, run.operation_id
    for _ in range(MAX_UNDOS):
        query = select(WorkspaceOperation.id).where(WorkspaceOperation.undoes == id)
        id = db.session.scalar(query.order_by(WorkspaceOperation.version.desc()).limit(1)) if id else None
        if id is None:
            break
        taken = not taken
    return taken


def run_not_found() -> NotFound:
    """The error for a run of another account, or none at all."""
    return NotFound("There is no such run.")


def _with_places() -> Select[ActionItemRun, ActionItem, Project, Workspace]:
    return (
        select(ActionItemRun, ActionItem, Project, Workspace)
        .join(ActionItem, ActionItem.id == ActionItemRun.action_item_id)
        .join(Project, Project.id == ActionItemRun.project_id)
        .join(Workspace, Workspace.id == ActionItemRun.workspace_id)
    )
