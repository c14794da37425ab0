"""Saving the files of a conversation's workspace as a snapshot, and branching from where a conversation is."""

from typing import NamedTuple

from models.conversations.conversation_access import FoundConversation, own_conversation
from models.conversations.conversation_editing import change_conversation, start_conversation
from models.conversations.conversation_messages import item_of
from models.conversations.work_keeping import WorkDelta, work_base, work_delta
from models.core.db import db
from models.core.errors import Conflict
from models.projects import ProjectCaller
from models.projects.project_access import locked_workspace, own_project
from models.projects.snapshots.snapshot_making import NewSnapshot, push_snapshot
from models.projects.workspaces.head_moves import Mover
from models.projects.workspaces.workspace_editing import create_workspace
from models.projects.workspaces.workspace_files import head_manifest


class SavedWork(NamedTuple):
    """The snapshot that has the files of a workspace. `delta` is None if it had them before."""

    snapshot_id: str | None
    manifest_hash: str | None
    delta: WorkDelta | None


class Branched(NamedTuple):
    """The conversation that works in the new workspace, and the snapshot that it begins with."""

    found: FoundConversation
    snapshot_id: str | None


def save_snapshot(caller: ProjectCaller, id: str, mover: Mover, *, summary: bool = False) -> SavedWork:
    """Make the files of the workspace a snapshot, if they are in none yet, and move the head there. Idempotent. Locks the project and the
    workspace; flushes. Raises NotFound, Forbidden."""
    found = own_conversation(caller, id, "edit_projects")
    project = own_project(caller, found.project.id, "edit_projects", lock=True)
    workspace = locked_workspace(found.workspace.id)
    files = work_base(workspace).manifest_hash
    head = head_manifest(project.id, workspace.current_snapshot_id)
    if files in (None, head):
        return SavedWork(workspace.current_snapshot_id or workspace.base_snapshot_id, files, None)
    delta = work_delta(project.account_id, head, files)
    title = found.conversation.title or "Conversation"
    new = NewSnapshot(
        files or "",
        parent_ids=[workspace.current_snapshot_id] if workspace.current_snapshot_id else [],
        workspace_id=workspace.id,
        source="web",
        summary=delta.sentence if summary else title,
        message=f"{title}\n\n{delta.sentence}",
    )
    made = push_snapshot(caller, project.id, new, mover)
    return SavedWork(made.snapshot.id, files, delta)


def branch_here(
    caller: ProjectCaller,
    id: str,
    mover: Mover,
    *,
    item_id: str | None = None,
    name: str | None = None,
    move: bool = False,
) -> Branched:
    """A new workspace that begins with the snapshot of a timeline item, by default with the files of now, which become a snapshot first. The
    conversation moves there, or a new one with the same engine begins there. Locks as `save_snapshot`; flushes. Raises NotFound, Forbidden, Invalid,
    Conflict (409) for a name that is taken, too many workspaces, files without a snapshot, and a turn in progress of one that moves."""
    found = own_conversation(caller, id, "edit_projects")
    if item_id is not None:
        snapshot_id: str | None = item_of(found, item_id).snapshot_id
    else:
        snapshot_id = save_snapshot(caller, id, mover).snapshot_id
    if snapshot_id is None:
        raise Conflict("The workspace has no files yet. Let the agent make some first.", code="no_snapshot")
    row = found.conversation
    title = row.title or "conversation"
    side = create_workspace(
        caller,
        row.project_id,
        name or f"{found.workspace.name[:120]} ({title[:60].strip()})",
        base_snapshot_id=snapshot_id,
        actor=mover.actor,
    )
    if move:
        there = change_conversation(caller, id, workspace_id=side.id)
    else:
        there = start_conversation(
            caller,
            side.id,
            title=row.title,
            engine=row.engine,
            level=row.level,
            agent=row.agent,
            model=row.model,
            mover=mover,
        )
    db.session.flush()
    return Branched(there, snapshot_id)
