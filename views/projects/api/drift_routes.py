"""`/v1/workspaces/{id}/drift` and `/v1/projects/{id}/overlaps`: how workspaces differ, and who changes the same files (contract 3.9)."""

from typing import Annotated

from flask import Response, current_app, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.accounts.api_keys import check_use
from models.core.db import db
from models.core.errors import Invalid
from models.projects.project_access import own_project, own_workspace
from models.projects.snapshots.manifest_text import MAX_FILE, MAX_PATH
from models.projects.workspaces.drift_comparison import (
    DriftAnalysis,
    DriftComparison,
    Incomparable,
    analyse,
    compare,
    report_counters,
    store_comparison,
)
from models.projects.workspaces.drift_report import reports_of
from models.projects.workspaces.drift_words import CLIENT_ID, drift_request, in_words_of
from models.projects.workspaces.overlap_board import MAX_PATHS, overlap_board
from views.gateway.api.internal_calls import CallFailed, complete_chat
from views.gateway.api.model_calls import gateway
from views.projects.api.drift_bodies import (
    AnalysisAnswer,
    ComparisonAnswer,
    DriftReports,
    NoAnalysis,
    NoComparison,
    OverlapList,
    ReportedCounters,
    analysis_json,
    board_json,
    comparison_json,
    counters_json,
    report_json,
)
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    NOT_YOURS,
    PROJECT_ID,
    WORKSPACE_ID,
    WRONG,
    ProjectError,
    bp,
    clamped_limit,
    cli_mover,
    project_caller,
)
from views.web.body import Body, Count, read
from views.web.guards import api_key, key_caller, limiter, require_key
from views.web.operation import Operation, query

MAX_MODEL = 200
NOT_UNDERSTOOD = (
    "The model did not answer in the format that it was asked for. Try again, or choose another one."
)
READS = "600/minute"
"""How many comparisons a person may ask for: each reads both trees where they differ."""
DIRTY = query("include_dirty", "`false` compares snapshots only; by default also files that are in none yet")
COMPARED = [
    WORKSPACE_ID,
    query("source_workspace_id", "A workspace of the project; by default the main one"),
    DIRTY,
]
OTHER_PROJECT = ("The workspaces belong to different projects (`INVALID_OPERATION`)", ProjectError)
FOUND = ("How they differ, or why they cannot be compared", ComparisonAnswer | NoComparison)


class CountedDrift(Body):
    files_added: Count = 0
    files_modified: Count = 0
    files_deleted: Count = 0
    bytes_changed: Annotated[int, Field(ge=0, le=MAX_FILE)] = 0
    summary: str | None = None


@bp.post("/workspaces/<workspace_id>/drift")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Project drift",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    body=CountedDrift,
    answers={201: ("The report", ReportedCounters), **NOT_YOURS, **WRONG},
    door=DOOR,
)
def report_drift(workspace_id: str) -> ResponseReturnValue:
    """Store counters that a client found itself.

    For clients that compare locally. Prefer `drift/compare`, which finds the files too.
    """
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    body = read(CountedDrift)
    report = report_counters(
        caller,
        workspace_id,
        cli_mover(caller),
        added=body.files_added,
        modified=body.files_modified,
        deleted=body.files_deleted,
        bytes_changed=body.bytes_changed,
        summary=body.summary,
    )
    db.session.commit()
    return jsonify(drift_report=counters_json(report)), 201


@bp.get("/workspaces/<workspace_id>/drift")
@Operation(
    tag="Project drift",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[WORKSPACE_ID, query("limit", "At most 100; 10 by default")],
    answers={200: ("The reports", DriftReports), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_drift(workspace_id: str) -> Response:
    """List the reports of a workspace; the newest 100 are kept."""
    _, workspace = own_workspace(project_caller(), workspace_id)
    reports = [report_json(row) for row in reports_of(workspace.id, clamped_limit(10, 100))]
    return jsonify(drift_reports=reports, latest=reports[0] if reports else None)


@bp.get("/workspaces/<workspace_id>/drift/compare")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag="Project drift",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=COMPARED,
    answers={200: FOUND, **NOT_YOURS, 400: OTHER_PROJECT, 422: "A parameter is wrong"},
    door=DOOR,
)
def compare_drift(workspace_id: str) -> Response:
    """Compare a workspace with another; stores nothing."""
    caller = project_caller()
    own_workspace(caller, workspace_id)
    found = compare(
        caller, workspace_id, request.args.get("source_workspace_id"), include_dirty=_include_dirty()
    )
    return jsonify(_compared(found))


@bp.post("/workspaces/<workspace_id>/drift/compare")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag="Project drift",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=COMPARED,
    answers={
        200: (
            "The last report says the same, or there is nothing to compare",
            ComparisonAnswer | NoComparison,
        ),
        201: ("The stored report", ComparisonAnswer),
        **NOT_YOURS,
        400: OTHER_PROJECT,
        422: "A parameter is wrong",
    },
    door=DOOR,
)
def store_drift(workspace_id: str) -> ResponseReturnValue:
    """Compare a workspace with another, and store the report.

    Reports that say the same as the last one with this source are stored once.
    """
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    source = request.args.get("source_workspace_id")
    found = compare(caller, workspace_id, source, include_dirty=_include_dirty())
    if isinstance(found, Incomparable):
        return jsonify(_compared(found))
    report, new = store_comparison(found)
    db.session.commit()
    return jsonify(comparison_json(found, report)), 201 if new else 200


@bp.post("/workspaces/<workspace_id>/drift/analyze")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag="Project drift",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[
        WORKSPACE_ID,
        DIRTY,
        query("model", "A model that writes the texts, of `GET /v1/models`; your key pays for its call"),
    ],
    answers={
        200: ("The risk, or why there is no comparison", AnalysisAnswer | NoAnalysis),
        402: "Not enough credits for the call of the model. Without `model` the analysis is free",
        403: "Your role does not allow it, or the key lacks `inference:chat`, which `model` needs",
        404: "You have no such workspace, or no provider serves the model (`MODEL_NOT_FOUND`)",
        422: "A parameter is wrong",
        "default": "The call of the model was refused, as on `POST /v1/chat/completions`",
    },
    door=DOOR,
)
def analyze_drift(workspace_id: str) -> Response:
    """Say what the drift of a workspace from the main one means.

    The risk follows from the files alone, and costs nothing: `high` from 6 files that differ, `medium` from one. `model` adds the
    words of a model, which sees names of files and counts, no contents. It is not asked if only the workspace has changes; if it
    fails, the words are those of the rules.
    """
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    model = _asked_model()
    found = compare(caller, workspace_id, include_dirty=_include_dirty())
    if isinstance(found, Incomparable):
        return jsonify(analysis=None, error=found.message)
    rules = analyse(found)
    if model is None or not (found.source_only or found.both_different):
        return jsonify(analysis=analysis_json(rules))
    return jsonify(analysis=_in_words(found, rules, model))


@bp.get("/projects/<project_id>/overlaps")
@limiter.limit(READS, key_func=key_caller)
@Operation(
    tag="Project drift",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        PROJECT_ID,
        query(
            "paths", f"Who changed these files, at most {MAX_PATHS}: repeated, or with commas between them"
        ),
    ],
    answers={200: ("The overlaps", OverlapList), **NOT_YOURS, 422: "A parameter is wrong"},
    door=DOOR,
)
def list_overlaps(project_id: str) -> Response:
    """List the files that several workspaces changed in different ways.

    With `paths` it says who changed these files, also a single workspace: ask before you edit.
    """
    project = own_project(project_caller(), project_id)
    return jsonify(board_json(overlap_board(project, _asked_paths())))


def _asked_model() -> str | None:
    """The model that is asked for, or None. Raises Invalid, MissingScope (403) if the key may not call models, NoRoute (404)."""
    model = request.args.get("model", "")
    if not model:
        return None
    check_use(require_key().key, scopes.CHAT, request.remote_addr)
    if len(model) > MAX_MODEL or "\0" in model:
        raise Invalid(f"'model' must be the name of a model, with at most {MAX_MODEL} characters.")
    gateway(current_app).routes.find(model)
    return model


def _in_words(found: DriftComparison, rules: DriftAnalysis, model: str) -> dict[str, object]:
    """The analysis in the words of a model, by a call that the caller pays for. Raises CallNotPossible."""
    body = drift_request(found, rules, model)
    db.session.commit()  # no transaction during the call
    try:
        answer = complete_chat(api_key() or "", body, client_id=CLIENT_ID)
    except CallFailed as failure:
        return analysis_json(rules, model_error=failure.message)
    words = in_words_of(answer.text, rules)
    if words is None:
        return analysis_json(rules, request_id=answer.request_id, model_error=NOT_UNDERSTOOD)
    return analysis_json(words, written_by=model, request_id=answer.request_id)


def _asked_paths() -> list[str] | None:
    """The paths that are asked for, or None. Raises Invalid."""
    given = [text for text in request.args.getlist("paths") if text]
    # a path may contain a comma itself
    paths = list(dict.fromkeys([*given, *(part for text in given for part in text.split(",") if part)]))
    if len(paths) - sum("," in text for text in given) > MAX_PATHS:
        raise Invalid(f"'paths' has more than {MAX_PATHS} paths. Ask for fewer at once.")
    if any(len(path) > MAX_PATH for path in paths if path not in given or "," not in path):
        raise Invalid(f"A path has at most {MAX_PATH:,} characters.")
    return paths or None


def _include_dirty() -> bool:
    match request.args.get("include_dirty", "true").lower():
        case "true" | "1" | "":
            return True
        case "false" | "0":
            return False
    raise Invalid("'include_dirty' must be true or false.")


def _compared(found: DriftComparison | Incomparable) -> dict[str, object]:
    if isinstance(found, Incomparable):
        return {"drift": None, "is_main_workspace": found.is_main, "message": found.message}
    return comparison_json(found)
