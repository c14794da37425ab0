"""Runs of action items: an agent mends one in a scratch copy, checks run, and a person applies the patch (fastest contract 3.13)."""

from typing import Any

from flask import Response, jsonify, request

from models.accounts import scopes
from models.accounts.api_keys import check_use
from models.accounts.key_format import present
from models.core.db import db
from models.insights.item_run import MAX_ATTEMPTS
from models.insights.item_run_applying import apply_run
from models.insights.item_run_control import resume_run, stop_run
from models.insights.item_run_reading import own_run, run_patch, runs_of_item
from models.insights.item_run_rebasing import preview_rebase, rebase_run
from models.insights.item_run_starting import DEFAULT_BUDGET, RunWishes, start_run
from models.insights.item_verbs import own_item
from views.assistants.api.assistant_caller import expected_version
from views.insights.api.insights_api_blueprint import bp
from views.insights.api.item_run_bodies import (
    AppliedRun,
    NewRunBody,
    RebaseAnswer,
    RebaseBody,
    ResumeRunBody,
    RunAnswer,
    RunList,
    rebase_json,
    run_json,
)
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    IF_MATCH,
    NOT_YOURS,
    WRONG,
    ProjectError,
    cli_mover,
    project_caller,
)
from views.turns.api import turn_engine
from views.web.body import parse, read_json
from views.web.guards import api_key, key_caller, limiter, require_key
from views.web.operation import Answers, Operation, path

RUNS = "60/minute;1000/day"
"""How often a person may start a run."""
MERGES = "120/minute"
ITEM_ID = path("itemId", "The id of the item; one that is computed, such as `deploy-…`, is stored first")
RUN_ID = path("runId", "The id of the run")
NO_ITEM: Answers = {**NOT_YOURS, 404: "You have no such action item"}
NO_RUN: Answers = {**NOT_YOURS, 404: "You have no such run"}
NOT_READY: Answers = {
    400: ("The run is not ready, or its item was dismissed (`INVALID_STATE`)", ProjectError)
}
MOVED = "The files of the workspace changed since the run began (`BASE_CHANGED`): rebase it, or run again. Or the workspace has another version than `If-Match` (`VERSION_CONFLICT`)"


@bp.post("/action-items/<item_id>/runs")
@limiter.limit(RUNS, key_func=key_caller)
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ITEM_ID],
    body=NewRunBody,
    answers={
        200: ("The run, queued", RunAnswer),
        **NO_ITEM,
        **WRONG,
        400: ("The body is not JSON, or the item is over or a drift (`INVALID_STATE`)", ProjectError),
        409: "A run of it is in progress (`RUN_IN_PROGRESS`), the level does not work here (`LEVEL_UNAVAILABLE`), or the workspace has no files"
        " that the server can read (`NO_SNAPSHOT`)",
    },
    door=DOOR,
)
def begin_run(item_id: str) -> Response:
    """Let an agent mend an item. The body may be left out.

    It works in a scratch copy of the workspace, which does not move, with up to three attempts that your key pays for. After each the checks
    of the project run. Read how it goes from `GET /v1/action-items/runs/{runId}`; closing the connection stops nothing.
    """
    caller = project_caller()
    body = parse(NewRunBody, read_json() if request.content_length else {})
    wishes = RunWishes(
        level=body.level,
        model=body.model,
        budget=body.budget or DEFAULT_BUDGET,
        allow_test_changes=bool(body.allow_test_changes),
        attempts=body.max_attempts or MAX_ATTEMPTS,
    )
    engine = turn_engine()
    run, turn = start_run(caller, item_id, wishes, key=present(api_key() or ""), owner=engine.owner)
    check_use(require_key().key, scopes.CHAT, request.remote_addr)  # nothing is begun without it
    db.session.commit()
    answer = run_json(run, whole=True)
    engine.run(turn.id)
    return jsonify(run=answer)


@bp.get("/action-items/<item_id>/runs")
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[ITEM_ID],
    answers={200: ("The runs", RunList), **NO_ITEM},
    door=DOOR,
)
def list_runs(item_id: str) -> Response:
    """List the runs of an item, without their patches and attempts."""
    owned = own_item(project_caller(), item_id)
    return jsonify(runs=[run_json(each) for each in runs_of_item(owned.item.id)])


@bp.get("/action-items/runs/<run_id>")
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[RUN_ID],
    answers={200: ("The run", RunAnswer), **NO_RUN, 503: "The files are not available at the moment"},
    door=DOOR,
)
def get_run(run_id: str) -> Response:
    """Get a run with its attempts, and its patch once there is one."""
    found = own_run(project_caller(), run_id)
    patch = run_patch(found.project, found.run) if found.run.result_manifest_hash else None
    return jsonify(run=run_json(found.run, patch, whole=True))


@bp.post("/action-items/runs/<run_id>/stop")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[RUN_ID],
    answers={200: ("The run, which ends soon as failed with the code `stopped`", RunAnswer), **NO_RUN},
    door=DOOR,
)
def end_run(run_id: str) -> Response:
    """Stop a run, a paused one too. What it has spent is charged; one that has ended stays as it is."""
    engine = turn_engine()
    stopped = stop_run(project_caller(), run_id, engine.owner)
    answer = run_json(stopped.found.run, whole=True)
    db.session.commit()
    for turn_id in stopped.turns:
        engine.run(turn_id)
    return jsonify(run=answer)


@bp.post("/action-items/runs/<run_id>/resume")
@limiter.limit(RUNS, key_func=key_caller)
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[RUN_ID],
    body=ResumeRunBody,
    answers={
        200: ("The run, which goes on", RunAnswer),
        **NO_RUN,
        **WRONG,
        400: ("The body is not JSON, or the run is not paused (`INVALID_STATE`)", ProjectError),
    },
    door=DOOR,
)
def resume(run_id: str) -> Response:
    """Let a run go on where it was paused, because its budget was used up or the account had no credits. The body may be left out.

    What was spent before counts. If nothing has changed, it pauses again.
    """
    caller = project_caller()
    own_run(caller, run_id, "edit_projects")
    body = parse(ResumeRunBody, read_json() if request.content_length else {})
    engine = turn_engine()
    resumed = resume_run(caller, run_id, owner=engine.owner, key=present(api_key() or ""), budget=body.budget)
    check_use(require_key().key, scopes.CHAT, request.remote_addr)
    answer = run_json(resumed.found.run, whole=True)
    db.session.commit()
    for turn_id in resumed.turns:
        engine.run(turn_id)
    return jsonify(run=answer)


@bp.post("/action-items/runs/<run_id>/apply")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[RUN_ID, IF_MATCH],
    answers={200: ("The workspace has the patch", AppliedRun), **NO_RUN, **NOT_READY, 409: MOVED},
    door=DOOR,
)
def apply(run_id: str) -> Response:
    """Apply the patch of a ready run to its workspace, as a snapshot. Of several at the same time one wins."""
    caller = project_caller()
    _, operation = apply_run(caller, run_id, cli_mover(caller), expected_version())
    db.session.commit()
    return jsonify(success=True, operation_id=operation.id)


@bp.get("/action-items/runs/<run_id>/rebase")
@limiter.limit(MERGES, key_func=key_caller)
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[RUN_ID],
    answers={
        200: ("What it would change", RebaseAnswer),
        **NO_RUN,
        **NOT_READY,
        409: "Files that the merge needs are not stored, or cannot be read",
        503: "The files are not available at the moment",
    },
    door=DOOR,
)
def rebase_preview(run_id: str) -> Response:
    """Preview the patch of a ready run merged with what its workspace has now; changes nothing."""
    return jsonify(rebase=rebase_json(preview_rebase(project_caller(), run_id)))


@bp.post("/action-items/runs/<run_id>/rebase")
@limiter.limit(MERGES, key_func=key_caller)
@Operation(
    tag="Item runs",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[RUN_ID, IF_MATCH],
    body=RebaseBody,
    answers={
        200: ("The run, whose checks run again", RunAnswer),
        **NO_RUN,
        **WRONG,
        **NOT_READY,
        409: f"The patch and the workspace changed the same places (`REBASE_CONFLICT`): `details.conflicts` need decisions. The workspace has all of"
        f" the patch (`NOTHING_LEFT`), or another run of the item is in progress (`RUN_IN_PROGRESS`). {MOVED}",
        413: "The account stores as many bytes as it may (`QUOTA_EXCEEDED`)",
        503: "The files are not available at the moment",
    },
    door=DOOR,
)
def rebase(run_id: str) -> Response:
    """Merge the patch of a ready run with what its workspace has now. The body may be left out.

    The workspace does not move: the checks run again on what results, and apply it once the run is ready again.
    """
    caller = project_caller()
    own_run(caller, run_id, "edit_projects")
    body: Any = parse(RebaseBody, read_json() if request.content_length else {})
    engine = turn_engine()
    run, turn = rebase_run(
        caller,
        run_id,
        key=present(api_key() or ""),
        owner=engine.owner,
        decisions=body.decisions,
        custom=body.custom_values,
        expected=expected_version(),
    )
    answer, turn_id = run_json(run, whole=True), turn.id
    db.session.commit()
    engine.run(turn_id)
    return jsonify(run=answer)
