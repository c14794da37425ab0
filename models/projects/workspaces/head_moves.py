"""Moves of a workspace's head and files: each is one operation in the same transaction, and raises the version."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from blinker import Signal
from sqlalchemy import select, tuple_

from models.core.db import db, now
from models.core.errors import Conflict, NotFound
from models.projects.project_ids import fits
from models.projects.workspaces.overlap_index import follow_main_choice, follow_move
from models.projects.workspaces.workspace import Workspace, WorkspaceOperation

head_moved = Signal()
"""Sent with the `WorkspaceOperation` that moved a head, in its transaction."""
main_chosen = Signal()
"""Sent with the workspace that became the main one, in its transaction."""


class Mover(NamedTuple):
    """Who moves: the person, the kind of client, what caused it (the id of a run or turn) and what that cost (credits)."""

    user_id: str | None
    actor: str
    cause: str | None = None
    cost: int = 0


class StaleWorkspace(Conflict):
    """The workspace moved since the client read it."""

    code = "version_conflict"

    def __init__(self, current: int) -> None:
        super().__init__(
            "Somebody moved the workspace meanwhile. Read it again, and repeat what you want with its version."
        )
        self.current = current


def check_version(workspace: Workspace, expected: int | None) -> None:
    """Raise StaleWorkspace (409) if the locked workspace has another version than the client read; None expects any."""
    if expected is not None and workspace.version != expected:
        raise StaleWorkspace(workspace.version)


def move_head(
    workspace: Workspace,
    mover: Mover,
    kind: str,
    *,
    snapshot_id: str | None,
    manifest_hash: str | None,
    undoes: str | None = None,
    detail: dict[str, Any] | None = None,
) -> WorkspaceOperation:
    """Move the head and the files of a workspace, whose row the caller has locked, write the operation, and follow the move in the index
    of changed paths, which stays locked for the project. Flushes."""
    moment = now()
    workspace.version += 1
    operation = WorkspaceOperation(
        project_id=workspace.project_id,
        workspace_id=workspace.id,
        version=workspace.version,
        kind=kind,
        actor=mover.actor,
        user_id=mover.user_id,
        before_snapshot_id=workspace.current_snapshot_id,
        before_manifest_hash=workspace.current_manifest_hash,
        after_snapshot_id=snapshot_id,
        after_manifest_hash=manifest_hash,
        undoes=undoes,
        cause=mover.cause,
        cost=mover.cost,
        detail=detail,
        created_at=moment,
    )
    workspace.current_snapshot_id, workspace.current_manifest_hash = snapshot_id, manifest_hash
    workspace.last_seen_at = moment
    db.session.add(operation)
    db.session.flush()
    follow_move(workspace, operation)
    head_moved.send(operation)
    return operation


def record_main(workspace: Workspace, mover: Mover, before: str | None) -> WorkspaceOperation:
    """Write the operation that made a workspace the main one of its project, and index the others against it. Flushes."""
    operation = WorkspaceOperation(
        project_id=workspace.project_id,
        workspace_id=workspace.id,
        kind="set_main",
        actor=mover.actor,
        user_id=mover.user_id,
        detail={"before": before, "after": workspace.id},
        created_at=now(),
    )
    db.session.add(operation)
    db.session.flush()
    follow_main_choice(workspace.project_id)
    main_chosen.send(workspace)
    return operation


def operations_page(
    project_id: str,
    limit: int,
    *,
    workspace_id: str | None = None,
    before: tuple[datetime, str] | None = None,
) -> Sequence[WorkspaceOperation]:
    """The operations of a project or of one of its workspaces, newest first, before the one with this time and id."""
    query = select(WorkspaceOperation).where(WorkspaceOperation.project_id == project_id)
    if workspace_id is not None:
        query = query.where(WorkspaceOperation.workspace_id == workspace_id)
    if before is not None:
        query = query.where(tuple_(WorkspaceOperation.created_at, WorkspaceOperation.id) < tuple_(*before))
    newest = query.order_by(WorkspaceOperation.created_at.desc(), WorkspaceOperation.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def operation_of(workspace: Workspace, id: str) -> WorkspaceOperation:
    """An operation of the workspace. Raises NotFound."""
    found = db.session.get(WorkspaceOperation, id) if fits(id) else None
    if found is None or found.workspace_id != workspace.id:
        raise NotFound("The workspace has no such operation.")
    return found
