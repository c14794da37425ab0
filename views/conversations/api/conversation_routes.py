"""`/v1/conversations` about projects: begin, list, read, change, clear, their timeline, snapshot and branch (fastest contract 3.12)."""

from typing import Any

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.conversations import (
    change_conversation,
    clear_conversation,
    conversations_of,
    own_conversation,
    start_conversation,
)
from models.conversations.conversation_messages import timeline_of
from models.conversations.conversation_saving import branch_here, save_snapshot
from models.conversations.conversation_wire import conversation_json, item_json
from models.core.db import db
from models.core.errors import Invalid
from models.projects.project_access import own_workspace
from models.projects.workspaces.head_moves import Mover
from views.conversations.api.conversation_bodies import (
    BranchedConversation,
    BranchHere,
    ConversationSnapshot,
    DoneAnswer,
    NewProjectConversation,
    ProjectConversationAnswer,
    ProjectConversationChanges,
    ProjectConversationList,
    SavedSnapshot,
    TimelineAnswer,
)
from views.conversations.api.conversations_api_blueprint import (
    BUSY,
    CHANGES,
    CONVERSATION_ID,
    DOOR,
    TAG,
    WRONG,
    YOURS,
    bp,
    own,
)
from views.projects.api.projects_api_blueprint import (
    PROJECT_ID,
    WORKSPACE_ID,
    clamped_limit,
    project_caller,
)
from views.web.body import parse, read, read_json
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, query

MAX_PAGE = 1_000
MAX_OFFSET = 10**9
PAGE = [
    query("limit", f"At most {MAX_PAGE:,}; 20 by default"),
    query("offset", "How many are left out before them"),
]


@bp.post("/workspaces/<workspace_id>/conversations")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    body=NewProjectConversation,
    answers={
        200: ("The conversation", ProjectConversationAnswer),
        **YOURS,
        **WRONG,
        409: "The level does not work here (`LEVEL_UNAVAILABLE`)",
        501: "This server has no such engine (`NOT_IMPLEMENTED`)",
    },
    door=DOOR,
)
def start(workspace_id: str) -> Response:
    """Begin a conversation with an agent about a workspace.

    `POST /v1/conversations` with `workspace_id` in the body does the same.
    """
    caller = project_caller()
    if workspace_id:
        own_workspace(caller, workspace_id, "edit_projects")
    body = parse(NewProjectConversation, read_json() if request.content_length else {})
    chosen = workspace_id or body.workspace_id
    if not chosen:
        raise Invalid("Name the 'workspace_id' that the conversation is about.")
    made = start_conversation(
        caller,
        chosen,
        title=body.title,
        engine=body.engine or "builtin",
        level=body.level or "virtual",
        agent=body.agent,
        model=body.model,
        budget=body.budget,
    )
    db.session.commit()
    return jsonify(conversation=conversation_json(made, named=False))


@bp.get("/conversations")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[*PAGE, query("project_id", "Only those of this project")],
    answers={200: ("The last changed first", ProjectConversationList), **YOURS, 400: "A parameter is wrong"},
    door=DOOR,
)
def list_conversations() -> Response:
    """List the conversations with agents in your projects and those of your organisations."""
    caller = project_caller()
    project_id = request.args.get("project_id") or None
    found = conversations_of(
        caller, limit=clamped_limit(20, MAX_PAGE), offset=_offset(), project_id=project_id
    )
    return jsonify(conversations=[conversation_json(each) for each in found])


@bp.get("/projects/<project_id>/conversations/<conversation_id>")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, CONVERSATION_ID],
    answers={200: ("The conversation", ProjectConversationAnswer), **YOURS},
    door=DOOR,
)
def get_conversation(project_id: str, conversation_id: str) -> Response:
    """Get a conversation with an agent.

    `GET /v1/conversations/{id}` does the same.
    """
    return jsonify(conversation=conversation_json(own(conversation_id)))


@bp.patch("/conversations/<conversation_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID],
    body=ProjectConversationChanges,
    answers={200: ("It is changed", DoneAnswer), **YOURS, **WRONG, 409: BUSY},
    door=DOOR,
)
def change(conversation_id: str) -> Response:
    """Rename a conversation, move it to another workspace of its project, or change its model, level or budget."""
    caller = project_caller()
    own_conversation(caller, conversation_id, "edit_projects")
    body = read(ProjectConversationChanges)
    sent: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set}
    if sent.get("title", "") is None:
        sent["title"] = ""
    change_conversation(caller, conversation_id, **sent)
    db.session.commit()
    return jsonify(success=True)


@bp.post("/conversations/<conversation_id>/clear")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID],
    answers={200: ("Its messages are deleted; the timeline stays", DoneAnswer), **YOURS, 409: BUSY},
    door=DOOR,
)
def clear(conversation_id: str) -> Response:
    """Empty a conversation: the next turn begins without what was said."""
    clear_conversation(project_caller(), conversation_id)
    db.session.commit()
    return jsonify(success=True)


@bp.get("/conversations/<conversation_id>/timeline")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID, query("limit", "The newest; at most 500, by default all of these")],
    answers={
        200: ("What its turns changed, the oldest first", TimelineAnswer),
        **YOURS,
        400: "`limit` is no number",
    },
    door=DOOR,
)
def timeline(conversation_id: str) -> Response:
    """List what the turns of a conversation changed."""
    found = own(conversation_id)
    return jsonify(timeline=[item_json(item) for item in timeline_of(found, clamped_limit(500, 500))])


@bp.post("/conversations/<conversation_id>/snapshot")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID],
    body=ConversationSnapshot,
    answers={200: ("The snapshot that has the files of the workspace", SavedSnapshot), **YOURS, **WRONG},
    door=DOOR,
)
def snapshot(conversation_id: str) -> Response:
    """Make the files of the conversation's workspace a snapshot, if they are in none yet."""
    caller = project_caller()
    own_conversation(caller, conversation_id, "edit_projects")
    body = parse(ConversationSnapshot, read_json() if request.content_length else {})
    saved = save_snapshot(
        caller, conversation_id, Mover(caller.user_id, "web"), summary=bool(body.generate_summary)
    )
    db.session.commit()
    delta = saved.delta
    return jsonify(
        snapshot_id=saved.snapshot_id,
        manifest_hash=saved.manifest_hash,
        was_dirty=delta is not None,
        summary=delta.sentence if delta and body.generate_summary else None,
        file_changes={
            kind: [each["path"] for each in delta.files if each["change"] == kind]
            for kind in ("added", "modified", "deleted")
        }
        if delta
        else None,
    )


@bp.post("/conversations/<conversation_id>/branch")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID],
    body=BranchHere,
    answers={
        201: ("The conversation that works in the new workspace", BranchedConversation),
        **YOURS,
        **WRONG,
        409: f"The name is taken, there are too many workspaces, or the workspace has no files. Or: {BUSY}",
    },
    door=DOOR,
)
def branch(conversation_id: str) -> ResponseReturnValue:
    """Begin a workspace from a timeline item, with a conversation of its own, or move this one there."""
    caller = project_caller()
    own_conversation(caller, conversation_id, "edit_projects")
    body = parse(BranchHere, read_json() if request.content_length else {})
    made = branch_here(
        caller,
        conversation_id,
        Mover(caller.user_id, "web"),
        item_id=body.item_id,
        name=body.name,
        move=bool(body.move),
    )
    db.session.commit()
    answer = jsonify(
        conversation=conversation_json(made.found),
        workspace_id=made.found.workspace.id,
        snapshot_id=made.snapshot_id,
    )
    return answer, 201


def _offset() -> int:
    text = request.args.get("offset", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_OFFSET):
        raise Invalid("'offset' must be a number from 0.")
    return int(text)
