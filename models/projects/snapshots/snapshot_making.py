"""Making snapshots: what is checked, in the order of the contract, and what a new one moves (fastest contract 3.6, 4.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.projects.activity_log import add_event
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, locked_workspace, own_project
from models.projects.project_ids import fits, new_snapshot_id
from models.projects.snapshots.manifest_store import use_manifest
from models.projects.snapshots.snapshot import SOURCES, Snapshot, SnapshotParent
from models.projects.snapshots.snapshot_ids import computed_id, is_computed
from models.projects.snapshots.snapshot_run_costs import add_costs, run_for_snapshot, uncounted_costs
from models.projects.snapshots.stored_objects import among
from models.projects.workspaces.head_moves import Mover, move_head
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation
from models.runs.run import agent_name_of

MAX_PARENTS = 64
MAX_TEXT = {"summary": 10_000, "message": 10_000, "agent": 200, "author_name": 200, "author_email": 320}


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """What a client says of a snapshot. `created_at` is its own time, to the second; `expected` the version of the workspace that it read;
    `run_id` the agent's run that made it."""

    manifest_hash: str
    id: str | None = None
    parent_ids: Sequence[str] = ()
    workspace_id: str | None = None
    source: str = "cli"
    summary: str | None = None
    message: str | None = None
    agent: str | None = None
    author_name: str | None = None
    author_email: str | None = None
    created_at: datetime | None = None
    expected: int | None = None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class MadeSnapshot:
    """A snapshot and its parents in order; whether it is new. `lost_to` is the version of a workspace that moved meanwhile: the snapshot
    was stored, and the head stayed."""

    snapshot: Snapshot
    parent_ids: list[str]
    created: bool
    lost_to: int | None = None


def push_snapshot(
    caller: ProjectCaller, project_id: str, new: NewSnapshot, mover: Mover, *, kind: str = "snapshot"
) -> MadeSnapshot:
    """Store a snapshot, and move the head of its workspace there. Idempotent by id. `kind` is that of the operation. Locks the project, then the workspace, then the costs
    of the run; flushes. With a run, the snapshot and the operation name it and take its credits that none took before.

    Raises NotFound and Forbidden, Invalid (422), also with the code `manifest_not_found`, and Conflict (409) for an id that another
    snapshot of the project has. The loser of a race is stored too: `lost_to`.
    """
    project = own_project(caller, project_id, "edit_projects")
    if not new.manifest_hash:
        raise Invalid("'manifest_hash' is missing.")
    parents = list(dict.fromkeys(filter(None, new.parent_ids)))
    _check(new, parents)
    run = run_for_snapshot(project.account_id, caller.user_id, new.run_id) if new.run_id else None
    project = own_project(caller, project_id, "edit_projects", lock=True)
    workspace = _workspace(project, new.workspace_id)
    generation = _generation(project, parents)
    if use_manifest(project.account_id, new.manifest_hash) is None:
        raise Invalid(
            "The manifest is not stored in the account of the project. Send it to /v1/blobs/manifests/{hash} first, for a project of"
            " an organisation with ?org_id= or a key of the organisation.",
            code="manifest_not_found",
        )
    if (found := _same(project, new, parents)) is not None:
        return MadeSnapshot(found, parents, False, _lost_before(workspace, new))
    costs = uncounted_costs(project.account_id, run) if run else {}
    if run is not None:
        mover = mover._replace(cause=run.id, cost=sum(costs.values()))
        new = replace(new, agent=new.agent or agent_name_of(run)[: MAX_TEXT["agent"]])
    snapshot = _insert(project, new, parents, generation, caller.user_id, credits=sum(costs.values()))
    add_costs(snapshot, costs)
    lost = workspace is not None and new.expected not in (None, workspace.version)
    if workspace is not None and not lost:
        move_head(workspace, mover, kind, snapshot_id=snapshot.id, manifest_hash=snapshot.manifest_hash)
    if not lost:
        project.last_snapshot_id = snapshot.id
    project.updated_at = now()
    add_event(project.id, "snapshot.pushed", event_actor(new.source), caller.user_id, snapshot_id=snapshot.id)
    db.session.flush()
    return MadeSnapshot(snapshot, parents, True, workspace.version if workspace and lost else None)


def server_snapshot(
    project: Project,
    workspace: Workspace,
    manifest_hash: str,
    parent_ids: Sequence[str],
    *,
    source: str,
    message: str,
    user_id: str | None,
) -> Snapshot:
    """Store a snapshot that the server makes; the caller has locked project and workspace, and moves the head. Flushes."""
    # lists have the summary only
    new = NewSnapshot(
        manifest_hash,
        parent_ids=parent_ids,
        workspace_id=workspace.id,
        source=source,
        message=message,
        summary=message,
    )
    use_manifest(project.account_id, manifest_hash)
    return _insert(project, new, list(parent_ids), _generation(project, parent_ids), user_id)


def keep_loser(project: Project, workspace: Workspace, manifest_hash: str, user_id: str | None) -> str | None:
    """Store the tree of a client that lost a race for its workspace as a snapshot beside the head, unless it is one of the workspace
    already. Returns its id; None if the manifest is not stored. Flushes."""
    if use_manifest(project.account_id, manifest_hash) is None:
        return None
    known = select(Snapshot.id).where(
        Snapshot.workspace_id == workspace.id, Snapshot.manifest_hash == manifest_hash
    )
    if (id := db.session.scalars(known.limit(1)).one_or_none()) is not None:
        return id
    head = [workspace.current_snapshot_id] if workspace.current_snapshot_id else []
    message = "Kept: another client moved the workspace first"
    return server_snapshot(
        project, workspace, manifest_hash, head, source="system", message=message, user_id=user_id
    ).id


def snapshots_of(project_id: str, limit: int) -> Sequence[Snapshot]:
    """The newest snapshots of a project."""
    query = select(Snapshot).where(Snapshot.project_id == project_id)
    newest = query.order_by(Snapshot.created_at.desc(), Snapshot.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def snapshot_in(project_id: str, id: str) -> Snapshot | None:
    """A snapshot of the project, or None."""
    return db.session.get(Snapshot, (project_id, id)) if fits(id) else None


def parents_of(project_id: str, snapshot_ids: Sequence[str]) -> Mapping[str, list[str]]:
    """The ids of the parents of these snapshots, in order, by snapshot."""
    found: dict[str, list[str]] = {id: [] for id in snapshot_ids}
    query = select(SnapshotParent.child_id, SnapshotParent.parent_id).where(
        SnapshotParent.project_id == project_id, among(SnapshotParent.child_id, snapshot_ids)
    )
    for child, parent in db.session.execute(query.order_by(SnapshotParent.ord)):
        found[child].append(parent)
    return found


def event_actor(source: str) -> str:
    """The actor of an event about a snapshot of this source."""
    return "cli" if source == "import" else source


def _check(new: NewSnapshot, parents: Sequence[str]) -> None:
    if len(parents) > MAX_PARENTS:
        raise Invalid(f"A snapshot has at most {MAX_PARENTS} parents.")
    if new.id is not None and not fits(new.id):
        raise Invalid("'snapshot_id' must have 1 to 128 characters.")
    if new.source not in SOURCES:
        raise Invalid(f"'source' must be one of {', '.join(SOURCES)}.")
    for name, most in MAX_TEXT.items():
        if len(getattr(new, name) or "") > most:
            raise Invalid(f"'{name}' has more than {most:,} characters.")
    if _is_verifiable(new):
        assert new.created_at is not None
        author = new.author_name or "", new.author_email or ""
        if computed_id(new.manifest_hash, parents, *author, new.created_at) != new.id:
            raise Invalid(
                "'snapshot_id' is not the hash of the manifest, the parents, the author and 'created_at'."
            )


def _is_verifiable(new: NewSnapshot) -> bool:
    return new.id is not None and is_computed(new.id) and new.created_at is not None


def _workspace(project: Project, id: str | None) -> Workspace | None:
    if not id:
        return None
    found = db.session.get(Workspace, id) if fits(id) else None
    if found is None or found.project_id != project.id or found.deleted_at is not None:
        raise Invalid("'workspace_id' is no workspace of this project.")
    return locked_workspace(id)


def _generation(project: Project, parents: Sequence[str]) -> int:
    """One more than the greatest of the parents. Raises Invalid (422) for a parent that the project does not have."""
    if not parents:
        return 1
    query = select(func.count(), func.max(Snapshot.generation)).where(
        Snapshot.project_id == project.id, among(Snapshot.id, [each for each in parents if fits(each)])
    )
    count, greatest = db.session.execute(query).one()
    if count < len(parents):
        raise Invalid("A parent is no snapshot of this project. Push the parents first.")
    return int(greatest) + 1


def _same(project: Project, new: NewSnapshot, parents: list[str]) -> Snapshot | None:
    """The snapshot that was stored with this id before. Raises Conflict if it is another."""
    found = snapshot_in(project.id, new.id) if new.id else None
    if found is None:
        return None
    if found.manifest_hash != new.manifest_hash or parents_of(project.id, [found.id])[found.id] != parents:
        raise Conflict("The project has a snapshot with this id and other content.")
    return found


def _lost_before(workspace: Workspace | None, new: NewSnapshot) -> int | None:
    """The version of the workspace if a repeated push had lost the race for it: its answer may have been lost, so it says so again."""
    if workspace is None or new.expected in (None, workspace.version):
        return None
    moved = select(WorkspaceOperation.id).where(
        WorkspaceOperation.workspace_id == workspace.id, WorkspaceOperation.after_snapshot_id == new.id
    )
    return None if db.session.scalars(moved.limit(1)).one_or_none() else workspace.version


def _insert(
    project: Project,
    new: NewSnapshot,
    parents: list[str],
    generation: int,
    user_id: str | None,
    *,
    credits: int = 0,
) -> Snapshot:
    snapshot = Snapshot(
        project_id=project.id,
        id=new.id or new_snapshot_id(),
        workspace_id=new.workspace_id or None,
        manifest_hash=new.manifest_hash,
        generation=generation,
        source=new.source,
        summary=new.summary,
        message=new.message,
        agent=new.agent,
        author_name=new.author_name,
        author_email=new.author_email,
        client_created_at=new.created_at,
        verified=_is_verifiable(new),
        created_by=user_id,
        run_id=new.run_id or None,
        credits=credits,
        created_at=now(),
    )
    db.session.add(snapshot)
    db.session.flush()
    if parents:
        rows = [
            {"project_id": project.id, "child_id": snapshot.id, "ord": ord, "parent_id": parent}
            for ord, parent in enumerate(parents)
        ]
        db.session.execute(insert(SnapshotParent), rows)
    return snapshot
