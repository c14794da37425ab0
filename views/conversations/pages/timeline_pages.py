"""The timeline of a conversation: all its changes, and each of them with its texts and what can be made of it."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.conversations import FoundConversation, TimelineItem
from models.conversations.conversation_messages import item_of
from models.conversations.conversation_reading import timeline_page
from models.conversations.conversation_saving import branch_here, save_snapshot
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.projects.project_listing import snapshots_named, undone_among, workspaces_named
from models.projects.snapshots.manifest_store import manifest_row
from models.projects.snapshots.snapshot_changes import SnapshotChanges, snapshot_changes
from views.conversations.pages.conversation_blueprint import (
    conversation_form,
    conversation_page,
    viewed_conversation,
)
from views.conversations.pages.conversation_page import conversation_href, timeline_shown
from views.projects.pages.project_blueprint import entered, viewer, viewer_may, web_mover
from views.web.htmx import render, see_other, toast
from views.web.keyset import cursor, cursor_text

PAGE = 50


@conversation_page("/<conversation_id>/timeline")
def timeline(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """What the turns of a conversation changed, newest first. Query: `before`. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id)
    rows = timeline_page(found.conversation, PAGE + 1, cursor())
    shown = rows[:PAGE]
    next_href = None
    if len(rows) > PAGE:
        at = cursor_text(shown[-1].created_at, shown[-1].id)
        next_href = url_for(
            "conversations.timeline", project_id=project_id, conversation_id=conversation_id, before=at
        )
    return render(
        "conversations/timeline.html",
        partial="conversations/_more_items.html" if cursor() else None,
        project=found.project,
        found=found,
        timeline=timeline_shown(found, shown),
        next_href=next_href,
        may_edit=viewer_may("edit_projects"),
    )


@conversation_page("/<conversation_id>/timeline/<item_id>")
def change(project_id: str, conversation_id: str, item_id: str) -> ResponseReturnValue:
    """What one turn changed, file by file. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id)
    return _change(found, item_of(found, item_id))


@conversation_form("/<conversation_id>/timeline/<item_id>/branch", "30/minute")
def branch(project_id: str, conversation_id: str, item_id: str) -> ResponseReturnValue:
    """Make a workspace from the files after a change, and a conversation about it. 422 for a `name` that cannot be used. Raises NotFound,
    Forbidden."""
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    item = item_of(found, item_id)
    name = entered("name").strip()
    try:
        if not name:
            raise Invalid("Enter a name for the workspace.")
        made = branch_here(viewer(), conversation_id, web_mover(), item_id=item.id, name=name).found
    except DomainError as error:
        if error.status not in (409, 422):
            raise
        db.session.rollback()
        again = viewed_conversation(project_id, conversation_id)
        return _change(again, item_of(again, item_id), name, error.message)
    db.session.commit()
    toast(f"The workspace “{made.workspace.name[:80]}” has these files. Say what to do in it.")
    return see_other(conversation_href(made))


@conversation_form("/<conversation_id>/snapshot", "60/minute")
def save(project_id: str, conversation_id: str) -> ResponseReturnValue:
    """Make the files of the workspace a snapshot, if they are in none yet. Raises NotFound, Forbidden."""
    found = viewed_conversation(project_id, conversation_id, "edit_projects")
    saved = save_snapshot(viewer(), found.conversation.id, web_mover(), summary=True)
    db.session.commit()
    if saved.delta is None:
        toast(
            "The files are in a snapshot already." if saved.snapshot_id else "There are no files yet.", "info"
        )
    else:
        toast("The files are a snapshot now.")
    return see_other(conversation_href(viewed_conversation(project_id, conversation_id)))


def _change(
    found: FoundConversation, item: TimelineItem, name: str | None = None, problem: str = ""
) -> ResponseReturnValue:
    workspaces = workspaces_named(found.project.id, [item.workspace_id])
    snapshots = snapshots_named(found.project.id, [item.snapshot_id])
    undone = undone_among(found.project.id, [item.operation_id] if item.operation_id else [])
    return render(
        "conversations/change.html",
        status=422 if problem else 200,
        project=found.project,
        found=found,
        item=item,
        workspace=workspaces.get(item.workspace_id),
        snapshot=snapshots.get(item.snapshot_id),
        undone=item.operation_id in undone,
        changes=_changes(found, item),
        name=f"{found.workspace.name[:150]} (branch)" if name is None else name,
        problem=problem,
        may_edit=viewer_may("edit_projects"),
    )


def _changes(found: FoundConversation, item: TimelineItem) -> SnapshotChanges | None:
    """What differs; None if the files of one side are not known to the server."""
    account_id = found.project.account_id
    before = item.previous_manifest_hash and manifest_row(account_id, item.previous_manifest_hash)
    after = manifest_row(account_id, item.manifest_hash)
    if after is None or after.tree_hash is None or (item.previous_manifest_hash and not before):
        return None
    return snapshot_changes(account_id, before.tree_hash if before else None, after.tree_hash)
