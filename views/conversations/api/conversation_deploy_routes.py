"""What a conversation ships: what its files are, deployments of its workspace, deploying them, logs (fastest contract 3.12)."""

from datetime import datetime

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.conversations import FoundConversation, own_conversation
from models.conversations.deploy_events import deployment_json, follow_deployment
from models.core.db import db
from models.core.errors import NotFound
from models.core.strict_models import Missing
from models.deployments import deployment_listing, deployment_running
from models.deployments.project_info import project_info
from models.projects.project_states import state_of
from views.conversations.api.conversations_api_blueprint import (
    CHANGES,
    CONVERSATION_ID,
    DOOR,
    YOURS,
    bp,
    own,
)
from views.projects.api.projects_api_blueprint import project_caller
from views.web.format import iso
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, header, path

DEPLOYMENTS = "Deployments"
SHOWN = 30


class TalkProjectInfo(ResponseModel):
    type: str = Field(description="`wrangler` or `unknown`")
    name: Missing[str] = None
    configFile: Missing[str] = None


class TalkProjectInfoAnswer(ResponseModel):
    projectInfo: TalkProjectInfo


class TalkDeployment(ResponseModel):
    id: str
    workspaceId: str
    snapshotId: str
    status: str = Field(description="`deploying`, `success` or `failed`")
    trigger: str
    url: str | None
    error: str | None
    startedAt: datetime
    completedAt: datetime | None


class TalkDeployments(ResponseModel):
    deployments: list[TalkDeployment]
    projectInfo: TalkProjectInfo | None


class TalkDeployed(ResponseModel):
    deploymentId: str
    message: str
    status: str
    url: str | None
    error: str | None


class TalkLogEntry(ResponseModel):
    timestamp: datetime
    step: str
    stream: str
    content: str


class TalkLog(ResponseModel):
    deploymentId: str
    entries: list[TalkLogEntry]
    startedAt: datetime
    completedAt: datetime | None


class TalkLogAnswer(ResponseModel):
    log: TalkLog


@bp.get("/conversations/<conversation_id>/project-info")
@Operation(
    tag=DEPLOYMENTS,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID],
    answers={200: ("What the files say", TalkProjectInfoAnswer), **YOURS},
    door=DOOR,
)
def conversation_project_info(conversation_id: str) -> Response:
    """Tell how the files of a conversation say that they are deployed."""
    return jsonify(projectInfo=_info(own(conversation_id)))


@bp.get("/conversations/<conversation_id>/deployments")
@Operation(
    tag=DEPLOYMENTS,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID],
    answers={200: ("Those of its workspace, the newest first", TalkDeployments), **YOURS},
    door=DOOR,
)
def conversation_deployments(conversation_id: str) -> Response:
    """List the deployments of the workspace of a conversation."""
    found = own(conversation_id)
    rows = deployment_listing.deployments_page(found.project.id, SHOWN, workspace_id=found.workspace.id)
    return jsonify(deployments=[deployment_json(row) for row in rows], projectInfo=_info(found))


@bp.post("/conversations/<conversation_id>/deploy")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=DEPLOYMENTS,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[CONVERSATION_ID, header("Idempotency-Key", "The same sent again deploys once")],
    answers={
        200: ("It is live or under way, or failed: then `error` says why", TalkDeployed),
        **YOURS,
        400: "The workspace has no snapshot (`NO_SNAPSHOT`), or the key is too long (`INVALID_INPUT`)",
    },
    door=DOOR,
)
def deploy_conversation(conversation_id: str) -> Response:
    """Deploy what a conversation made: the head of its workspace.

    Its events tell how it goes: `deployment_started`, `deployment_log`, `deployment_complete`.
    """
    caller = project_caller()
    found = own_conversation(caller, conversation_id, "edit_projects")
    row = deployment_running.start_deployment(
        caller, found.workspace.id, trigger="chat", key=request.headers.get("Idempotency-Key")
    )
    follow_deployment(found.conversation, row)
    db.session.commit()
    said = {"failed": "The deployment failed.", "live": "It is live."}
    message = said.get(row.state, "The deployment has begun.")
    return jsonify(deploymentId=row.id, message=message, status=row.status, url=row.url, error=row.error)


@bp.get("/conversations/<conversation_id>/deployments/<deployment_id>/logs")
@Operation(
    tag=DEPLOYMENTS,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[CONVERSATION_ID, path("deploymentId", "The id of the deployment")],
    answers={200: ("The log so far", TalkLogAnswer), **YOURS},
    door=DOOR,
)
def conversation_deployment_log(conversation_id: str, deployment_id: str) -> Response:
    """Read the log of a deployment of a conversation's workspace, also while it is under way."""
    found = own(conversation_id)
    _, row = deployment_running.own_deployment(project_caller(), deployment_id)
    if row.workspace_id != found.workspace.id:
        raise NotFound("There is no such deployment.")
    entries = [
        {
            "timestamp": iso(each.created_at),
            "step": each.step,
            "stream": each.stream,
            "content": each.content,
        }
        for each in deployment_listing.log_lines(row, limit=deployment_running.MAX_LINES)
    ]
    times = {"startedAt": iso(row.started_at), "completedAt": iso(row.completed_at)}
    return jsonify(log={"deploymentId": row.id, "entries": entries, **times})


def _info(found: FoundConversation) -> dict[str, str]:
    tree = state_of(found.project, workspace_id=found.workspace.id).tree
    return project_info(found.project.account_id, tree).wire
