"""`/v1/infrastructure`: settings and deployments of workspaces, one deployment with its log, its status and its release (contract 3.15)."""

from datetime import datetime
from typing import Literal

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.deployments import deployment_listing, deployment_running
from models.deployments.deployed_process import process_folder
from models.deployments.deployment_setting import save_settings, setting_of
from models.deployments.process_log import read_output
from models.deployments.reported_status import report_status
from models.projects.project_access import own_workspace
from views.deployments.api.deployments_api_blueprint import (
    DEPLOYMENT_ID,
    NOT_YOURS,
    TAG,
    DeploymentObject,
    SettingsObject,
    bp,
    deployment_json,
    settings_json,
)
from views.projects.api.project_bodies import Success
from views.projects.api.projects_api_blueprint import CHANGES, DOOR, WORKSPACE_ID, WRONG, project_caller
from views.web.body import Body, read
from views.web.format import iso
from views.web.guards import key_caller, limiter, settings
from views.web.operation import Operation, ResponseModel, query

MOST, DEFAULT = 100, 30


class SettingsChange(Body):
    """Omitted keys stay, null brings the default back."""

    adapter: str | None = Field(None, description="`static`, `process`, `cloudflare`, `railway` or `webhook`")
    auto_deploy: bool | None = Field(None, description="Deploy each time the head of the workspace moves")
    run_checks: bool | None = Field(
        None, description="Run the checks of the files before it deploys by itself; if one fails, it does not"
    )
    runtime_override: str | None = None
    build_command: str | None = None
    start_command: str | None = None
    install_command: str | None = Field(None, description="Null: found in the files, as the others")
    health_path: str | None = Field(None, description="What a program must answer to be live, `/` by default")
    build_hosts: list[str] | None = Field(
        None,
        max_length=20,
        description="Hosts that install and build may reach, such as `registry.npmjs.org`",
    )
    folder: str | None = Field(None, description="The folder that is served, `.` for the root")
    webhook_url: str | None = None
    webhook_secret: str | None = Field(
        None, description="Signs the requests to `webhook_url`; never shown again"
    )


class SettingsAnswer(ResponseModel):
    settings: SettingsObject


class DeploymentList(ResponseModel):
    deployments: list[DeploymentObject]


class DeploymentAnswer(ResponseModel):
    deployment: DeploymentObject


class StatusReport(Body):
    status: Literal["deploying", "success", "failed"]
    url: str | None = None
    error: str | None = None
    completed_at: str | None = Field(None, description="Ignored: the server's clock counts")


class DeploymentLogEntry(ResponseModel):
    line: int
    timestamp: datetime
    step: str = Field(description="`install`, `build` or `deploy`")
    stream: str = Field(description="`stdout` or `stderr`")
    content: str


class DeploymentLog(ResponseModel):
    deploymentId: str
    entries: list[DeploymentLogEntry]
    startedAt: datetime
    completedAt: datetime | None


class DeploymentLogAnswer(ResponseModel):
    log: DeploymentLog


class ProgramLine(ResponseModel):
    timestamp: datetime
    content: str


class ProgramOutput(ResponseModel):
    lines: list[ProgramLine]
    next: int = Field(description="What to send as `after` to read on")
    skipped: bool = Field(description="Whether lines before these are no longer kept")


@bp.get("/infrastructure/workspaces/<workspace_id>/deployment-settings")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[WORKSPACE_ID],
    answers={200: ("Defaults if none were saved", SettingsAnswer), **NOT_YOURS},
    door=DOOR,
)
def deployment_settings(workspace_id: str) -> Response:
    """Get how a workspace deploys."""
    project, workspace = own_workspace(project_caller(), workspace_id)
    return jsonify(settings=settings_json(setting_of(project.id, workspace.id)))


@bp.put("/infrastructure/workspaces/<workspace_id>/deployment-settings")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID],
    body=SettingsChange,
    answers={200: ("The settings now", SettingsAnswer), **NOT_YOURS, **WRONG},
    door=DOOR,
)
def change_deployment_settings(workspace_id: str) -> Response:
    """Change how a workspace deploys."""
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    body = read(SettingsChange)
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    setting = save_settings(caller, workspace_id, changes)
    db.session.commit()
    return jsonify(settings=settings_json(setting))


@bp.get("/infrastructure/workspaces/<workspace_id>/deployments")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[
        WORKSPACE_ID,
        query("limit", "From 1 to 100; 30 by default. Others become the nearest of these"),
    ],
    answers={200: ("The newest first", DeploymentList), **NOT_YOURS},
    door=DOOR,
)
def list_deployments(workspace_id: str) -> Response:
    """List the deployments of a workspace."""
    project, workspace = own_workspace(project_caller(), workspace_id)
    rows = deployment_listing.deployments_page(project.id, _limit(), workspace_id=workspace.id)
    return jsonify(deployments=[deployment_json(row) for row in rows])


@bp.get("/infrastructure/deployments/<deployment_id>")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[DEPLOYMENT_ID],
    answers={200: ("The deployment", DeploymentAnswer), **NOT_YOURS},
    door=DOOR,
)
def get_deployment(deployment_id: str) -> Response:
    """Get a deployment."""
    _, row = deployment_running.own_deployment(project_caller(), deployment_id)
    return jsonify(deployment=deployment_json(row))


@bp.get("/infrastructure/deployments/<deployment_id>/logs")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[DEPLOYMENT_ID, query("after", "Only lines after the one with this number")],
    answers={
        200: ("At most 1,000 lines; ask again after the last one", DeploymentLogAnswer),
        **NOT_YOURS,
        422: "`after` is no number",
    },
    door=DOOR,
)
def deployment_log(deployment_id: str) -> Response:
    """Read the log of a deployment, also while it is under way."""
    _, row = deployment_running.own_deployment(project_caller(), deployment_id)
    after = request.args.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) <= 9):
        raise Invalid("'after' must be the number of a line, or 0.")
    entries = [
        {
            "line": each.line,
            "timestamp": iso(each.created_at),
            "step": each.step,
            "stream": each.stream,
            "content": each.content,
        }
        for each in deployment_listing.log_lines(row, int(after))
    ]
    return jsonify(
        log={
            "deploymentId": row.id,
            "entries": entries,
            "startedAt": iso(row.started_at),
            "completedAt": iso(row.completed_at),
        }
    )


@bp.get("/infrastructure/deployments/<deployment_id>/output")
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[DEPLOYMENT_ID, query("after", "Read on from here; without it, the newest lines")],
    answers={
        200: ("What its program wrote, at most 256 KiB; empty for other adapters", ProgramOutput),
        **NOT_YOURS,
        422: "`after` is no number",
    },
    door=DOOR,
)
def program_output(deployment_id: str) -> Response:
    """Read what the program of a deployment writes."""
    _, row = deployment_running.own_deployment(project_caller(), deployment_id)
    after = request.args.get("after")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= 15):
        raise Invalid("'after' must be the number that the last answer named as `next`.")
    page = read_output(process_folder(settings(), row.id), None if after is None else int(after))
    lines = [{"timestamp": each.written_at, "content": each.text} for each in page.lines]
    return jsonify(lines=lines, next=page.next, skipped=page.skipped)


@bp.post("/infrastructure/deployments/<deployment_id>/status")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[DEPLOYMENT_ID],
    body=StatusReport,
    answers={
        200: ("It is recorded", Success),
        **NOT_YOURS,
        **WRONG,
        409: "The server decides the status of this deployment itself, or it has ended (`CONFLICT`)",
    },
    door=DOOR,
)
def report_deployment_status(deployment_id: str) -> Response:
    """Report how a deployment went that your own CI does."""
    caller = project_caller()
    _, row = deployment_running.own_deployment(caller, deployment_id, "edit_projects")
    body = read(StatusReport)
    report_status(row, body.status, body.url, body.error)
    db.session.commit()
    return jsonify(success=True)


@bp.post("/infrastructure/deployments/<deployment_id>/release")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[DEPLOYMENT_ID],
    answers={
        200: (
            "It is live; or the deployment under way that brings it back at its provider",
            DeploymentAnswer,
        ),
        **NOT_YOURS,
        409: "It cannot be released again (`NOT_RELEASABLE`), or its files cannot be read (`CONFLICT`)",
    },
    door=DOOR,
)
def release_deployment(deployment_id: str) -> Response:
    """Make an earlier deployment the live one: roll back."""
    row = deployment_running.release_again(project_caller(), deployment_id)
    db.session.commit()
    return jsonify(deployment=deployment_json(row))


def _limit() -> int:
    text = request.args.get("limit", "")
    number = int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) <= 9 else DEFAULT
    return max(1, min(number, MOST))
