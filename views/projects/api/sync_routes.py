"""Sync of a workspace with main: prepare a preview, and execute it with the answers to its decisions (fastest contract 3.10)."""

from flask import Response, current_app, jsonify, request

from models.accounts import scopes
from models.accounts.api_keys import check_use
from models.core.db import db
from models.projects.project_access import own_workspace
from models.projects.sync.sync_executing import SyncChoices, execute_sync
from models.projects.sync.sync_offers import CLIENT_ID, offer_request, offered_text
from models.projects.sync.sync_preparing import prepare_sync
from models.projects.sync.sync_reading import previewed_files, stored_sync
from models.projects.sync.sync_refusals import SyncRefused
from models.projects.sync.sync_texts import shown_texts
from views.assistants.api.assistant_caller import expected_version
from views.gateway.api.internal_calls import complete_chat
from views.gateway.api.model_calls import gateway
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    IF_MATCH,
    NOT_YOURS,
    WORKSPACE_ID,
    WRONG,
    bp,
    cli_mover,
    project_caller,
    with_version,
)
from views.projects.api.sync_bodies import (
    OfferAnswer,
    OfferBody,
    PreparedSync,
    StoredPreview,
    SyncExecution,
    SyncFileAnswer,
    SyncResult,
    executed_json,
    file_json,
    preview_json,
)
from views.web.body import parse, read_json
from views.web.guards import api_key, key_caller, limiter, require_key
from views.web.operation import Answers, Operation, path, query

PREPARATIONS = "120/minute"
"""A merge may take seconds."""
READS = "600/minute"
PREVIEW_ID = path("previewId", "The id of the preview")
PREVIEW_ERRORS: Answers = {
    400: "The preview is of another workspace (`WORKSPACE_MISMATCH`)",
    403: "Another member prepared the preview",
    404: "You have no such workspace; or the preview is unknown, has expired or was executed (`PREVIEW_EXPIRED`)",
}


@bp.post("/workspaces/<workspace_id>/sync/prepare")
@limiter.limit(PREPARATIONS, key_func=key_caller)
@Operation(
    tag="Project sync",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    answers={
        200: ("The preview, valid for 30 minutes", PreparedSync),
        **NOT_YOURS,
        400: "It is the main workspace (`INVALID_OPERATION`), the project has none (`NO_MAIN_WORKSPACE`), or one of the two has no"
        " snapshot (`NO_SNAPSHOT`)",
        409: "Files that the merge needs were never sent (`MANIFEST_INVALID`): `details.missingBlobs`",
        413: "The account stores as many bytes as it may (`QUOTA_EXCEEDED`)",
        422: "A changed path is none (`PATH_INVALID`)",
        500: "A manifest cannot be read (`PARSE_ERROR`)",
    },
    door=DOOR,
)
def prepare(workspace_id: str) -> Response:
    """Preview a merge of the main workspace into another one; moves nothing.

    Files that can be merged safely are actions, with a label that says how; all others are decisions. No model is asked. A preview that
    changes nothing has empty lists, and cannot be executed.
    """
    preview = prepare_sync(project_caller(), workspace_id)
    body = preview_json(preview, shown_texts(preview))
    db.session.commit()
    return jsonify(preview=body)


@bp.get("/workspaces/<workspace_id>/sync/previews/<preview_id>")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag="Project sync",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[WORKSPACE_ID, PREVIEW_ID],
    answers={200: ("The preview as it was prepared", StoredPreview), **PREVIEW_ERRORS},
    door=DOOR,
)
def preview(workspace_id: str, preview_id: str) -> Response:
    """Read a preview again, and whether it can still be executed. Writes nothing."""
    stored = stored_sync(project_caller(), workspace_id, preview_id)
    return jsonify(preview=preview_json(stored.preview, shown_texts(stored.preview)), moved=stored.moved)


@bp.get("/workspaces/<workspace_id>/sync/previews/<preview_id>/file")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag="Project sync",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        WORKSPACE_ID,
        PREVIEW_ID,
        query("path", "The path of an action or decision of the preview", required=True),
    ],
    answers={
        200: ("The file in its versions", SyncFileAnswer),
        **PREVIEW_ERRORS,
        404: f"{PREVIEW_ERRORS[404]}; or the preview does not change this path (`NOT_FOUND`)",
        503: "The storage of files does not answer. Try again",
    },
    door=DOOR,
)
def preview_file(workspace_id: str, preview_id: str) -> Response:
    """Read one file of a preview: its versions in the common ancestor, in main and in the workspace, and the result."""
    stored = stored_sync(project_caller(), workspace_id, preview_id)
    [file] = previewed_files(stored, [request.args.get("path", "")])
    return jsonify(file=file_json(file))


@bp.post("/workspaces/<workspace_id>/sync/previews/<preview_id>/offers")
@limiter.limit(PREPARATIONS, key_func=key_caller)
@Operation(
    tag="Project sync",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID, PREVIEW_ID],
    body=OfferBody,
    answers={
        200: ("The text of the model", OfferAnswer),
        400: f"{PREVIEW_ERRORS[400]}; no model can help with this path (`OFFER_IMPOSSIBLE`): it is not the text of a decision, or the"
        " versions are too long. Or the body is not JSON (`INVALID_JSON`)",
        402: "Not enough credits for the call of the model",
        403: f"{PREVIEW_ERRORS[403]}; or the key lacks `inference:chat`",
        404: f"{PREVIEW_ERRORS[404]}; or the preview does not name this path, or no provider serves the model (`MODEL_NOT_FOUND`)",
        422: WRONG[422],
        502: "The provider failed, or the model did not write a whole file (`OFFER_UNUSABLE`), which is charged",
        "default": "The call of the model was refused, as on `POST /v1/chat/completions`",
    },
    door=DOOR,
)
def offer(workspace_id: str, preview_id: str) -> Response:
    """Ask a model to write the text of a decision. It decides nothing: the text is an offer, and stored nowhere.

    The model sees the whole file as the common ancestor, main and the workspace have it, and is not asked if that is too long.
    """
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    body = parse(OfferBody, read_json())
    check_use(require_key().key, scopes.CHAT, request.remote_addr)
    gateway(current_app).routes.find(body.model)
    wanted = offer_request(stored_sync(caller, workspace_id, preview_id), body.path, body.model)
    db.session.commit()  # no transaction during the call
    answer = complete_chat(api_key() or "", wanted.body, client_id=CLIENT_ID)
    text = offered_text(answer.text, wanted.shape)
    return jsonify(
        offer={"path": body.path, "text": text, "written_by": body.model, "request_id": answer.request_id}
    )


@bp.post("/workspaces/<workspace_id>/sync/execute")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Project sync",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID, IF_MATCH],
    body=SyncExecution,
    answers={
        200: ("The workspace has the merged files", SyncResult),
        400: "`preview_id` is missing (`MISSING_PREVIEW_ID`) or of another workspace (`WORKSPACE_MISMATCH`); answers are missing"
        " (`MISSING_DECISIONS`: `details.missing`), unknown (`DECISION_UNKNOWN`, `OPTION_UNKNOWN`), exclude each other (`PATH_CLASH`),"
        " or a text of your own is wrong (`CUSTOM_TEXT_MISSING`, `CUSTOM_TEXT_INVALID`). Or the body is not JSON (`INVALID_JSON`)",
        403: "Your role in the organisation does not allow it, or another member prepared the preview",
        404: "You have no such workspace; or the preview is unknown, has expired or was executed (`PREVIEW_EXPIRED`)",
        409: "A head moved since the preview was made (`PREVIEW_STALE`: `details.moved`): prepare again. Or the workspace has another"
        " version than `If-Match` (`VERSION_CONFLICT`)",
        413: "The result is too large, or the account stores as many bytes as it may (`QUOTA_EXCEEDED`)",
        422: WRONG[422],
    },
    door=DOOR,
)
def execute(workspace_id: str) -> Response:
    """Do what a preview says, all of it or nothing.

    Of several clients at the same time one wins. The new snapshot has both heads as parents. Undo it by its operation.
    """
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    body = parse(SyncExecution, read_json() if request.content_length else {})
    if not body.preview_id:
        raise SyncRefused("'preview_id' is missing.", code="missing_preview_id")
    choices = SyncChoices(
        body.decisions or {},
        body.custom_values or {},
        snapshot_before=body.create_snapshot_before,
        snapshot_after=body.create_snapshot_after,
    )
    done = execute_sync(caller, workspace_id, body.preview_id, cli_mover(caller), choices, expected_version())
    db.session.commit()
    return with_version(jsonify(executed_json(done)), done.workspace)
