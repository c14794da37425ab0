"""`/v1/action-items`: what is to be mended in all projects that the caller sees, or in one (fastest contract 3.13)."""

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.insights.action_item import ITEM_STATUSES, ITEM_TYPES, SEVERITIES
from models.insights.analysing import ask_analysis
from models.insights.item_listing import ItemFilter, items_of, listed
from models.insights.item_verbs import (
    ItemChanges,
    NewItem,
    OwnedItem,
    change_item,
    create_item,
    dismiss_item,
    own_item,
)
from models.projects.project_access import own_project, own_workspace
from models.projects.project_ids import fits
from views.insights.api.insights_api_blueprint import bp
from views.insights.api.item_bodies import (
    AnalysisQueued,
    DismissalBody,
    ItemAnswer,
    ItemChangeBody,
    ItemList,
    NewItemBody,
    item_json,
    items_json,
)
from views.projects.api.project_bodies import Success
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    NOT_YOURS,
    PROJECT_ID,
    WORKSPACE_ID,
    WRONG,
    ProjectError,
    clamped_limit,
    project_caller,
)
from views.web.body import read
from views.web.guards import key_caller, limiter
from views.web.operation import Answers, Operation, path, query

ITEM_ID = path("itemId", "The id of the item")
STATE: Answers = {
    400: ("The body is not JSON, or the item's state does not allow it (`INVALID_STATE`)", ProjectError)
}
NO_ITEM: Answers = {**NOT_YOURS, 404: "You have no such action item"}
FILTERS = [
    query(
        "status", f"`open`, `all`, {', '.join(f'`{each}`' for each in ITEM_STATUSES)}; `pending` by default"
    ),
    query("workspace_id", "Those of one workspace"),
    query("type", ", ".join(f"`{each}`" for each in ITEM_TYPES)),
    query("severity", ", ".join(f"`{each}`" for each in SEVERITIES)),
    query("assignee", "The id of a person, `me`, or `none`"),
    query("snoozed", "`true` for those that sleep, which others leave out"),
    query("limit", "Stored items, at most 500; 20 by default"),
]


@bp.get("/action-items")
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[query("project_id", "Those of one project"), *FILTERS],
    answers={200: ("The items", ItemList), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_items() -> Response:
    """List what is to be mended, in all projects that you see.

    Stored items, workspaces that drift from main, and deployments that failed. The most severe come first.
    """
    caller = project_caller()
    project_id = request.args.get("project_id") or None
    if project_id is not None:
        own_project(caller, project_id)
    return jsonify(
        items=items_json(items_of(caller, _wanted(caller.user_id, project_id), clamped_limit(20, 500)))
    )


@bp.get("/projects/<project_id>/action-items")
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, *FILTERS],
    answers={200: ("The items", ItemList), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_project_items(project_id: str) -> Response:
    """List what is to be mended in a project."""
    caller = project_caller()
    project = own_project(caller, project_id)
    return jsonify(
        items=items_json(items_of(caller, _wanted(caller.user_id, project.id), clamped_limit(20, 500)))
    )


@bp.post("/action-items")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    body=NewItemBody,
    answers={201: ("The item", ItemAnswer), **NOT_YOURS, **WRONG},
    door=DOOR,
)
def add_item() -> ResponseReturnValue:
    """Write an item, or bring in one that another tool found.

    With a `fingerprint` the same finding is one item however often it is sent. No analysis resolves it.
    """
    caller = project_caller()
    body = read(NewItemBody)
    owned = create_item(
        caller,
        NewItem(
            body.workspace_id,
            body.type,
            body.title,
            body.severity or "info",
            body.description or "",
            body.affected_files or (),
            body.suggested_prompt or "",
            body.source or "manual",
            body.fingerprint or "",
        ),
    )
    db.session.commit()
    return _answer(owned), 201


@bp.get("/action-items/<item_id>")
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[ITEM_ID],
    answers={200: ("The item", ItemAnswer), **NO_ITEM},
    door=DOOR,
)
def get_item(item_id: str) -> Response:
    """Get a stored item."""
    return _answer(own_item(project_caller(), item_id))


@bp.patch("/action-items/<item_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ITEM_ID],
    body=ItemChangeBody,
    answers={200: ("The item", ItemAnswer), **NO_ITEM, **WRONG, **STATE},
    door=DOOR,
)
def patch_item(item_id: str) -> Response:
    """Snooze, assign, dismiss or reopen an item. Fields that are left out stay as they are."""
    caller = project_caller()
    own_item(caller, item_id, "edit_projects")
    body = read(ItemChangeBody)
    sent = body.model_fields_set
    changes = ItemChanges(
        status=body.status or "unset",
        reason=body.reason,
        snoozed_until=body.snoozed_until if "snoozed_until" in sent else "unset",
        assignee_id=body.assignee_id if "assignee_id" in sent else "unset",
        assigned_agent=body.assigned_agent if "assigned_agent" in sent else "unset",
    )
    owned = change_item(caller, item_id, changes)
    db.session.commit()
    return _answer(owned)


@bp.post("/action-items/<item_id>/dismiss")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ITEM_ID],
    body=DismissalBody,
    answers={200: ("It is dismissed", Success), **NO_ITEM, **WRONG, **STATE},
    door=DOOR,
)
def dismiss(item_id: str) -> Response:
    """Dismiss an item for good, also if it is found again. The body may be left out.

    Items that are computed come and go with their cause: nothing happens.
    """
    caller = project_caller()
    body = read(DismissalBody) if request.content_length else DismissalBody()
    dismiss_item(caller, item_id, body.reason)
    db.session.commit()
    return jsonify(success=True)


@bp.post("/workspaces/<workspace_id>/analyze")
@limiter.limit("60/minute;1000/day", key_func=key_caller)
@Operation(
    tag="Insights",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    answers={
        202: ("It will be analysed, or is", AnalysisQueued),
        **NOT_YOURS,
        409: "The workspace has no files that the server can read",
    },
    door=DOOR,
)
def analyze_workspace(workspace_id: str) -> ResponseReturnValue:
    """Look for what is to be mended in the files of a workspace.

    Happens by itself after each change. The rules run on the server and cost nothing; no model is asked.
    """
    project, workspace = own_workspace(project_caller(), workspace_id, "edit_projects")
    asked = ask_analysis(project, workspace, at_once=True)
    db.session.commit()
    return jsonify(queued=asked.queued, manifest_hash=asked.manifest_hash), 202


def _answer(owned: OwnedItem) -> Response:
    return jsonify(item=item_json(listed(owned.item, owned.project, owned.workspace)))


def _wanted(user_id: str, project_id: str | None) -> ItemFilter:
    """The filter of the query. Raises Invalid."""
    given = {
        name: request.args.get(name, "") for name in ("status", "type", "severity", "assignee", "snoozed")
    }
    for name, known in (
        ("status", ("open", "all", *ITEM_STATUSES)),
        ("type", ITEM_TYPES),
        ("severity", SEVERITIES),
        ("snoozed", ("true", "false")),
    ):
        if given[name] and given[name] not in known:
            raise Invalid(f"'{name}' must be one of {', '.join(known)}.")
    workspace_id, assignee = request.args.get("workspace_id") or None, given["assignee"] or None
    if any(each is not None and not fits(each) for each in (workspace_id, assignee)):
        raise Invalid("'workspace_id' and 'assignee' must be ids.")
    return ItemFilter(
        project_id,
        workspace_id,
        given["status"] or "pending",
        given["type"] or None,
        given["severity"] or None,
        user_id if assignee == "me" else assignee,
        given["snoozed"] == "true",
    )
