"""`POST /v1/workspaces/{id}/deploy`: deploy what a workspace has (fastest contract 3.5)."""

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.deployments import deployment_running
from models.projects.project_access import own_workspace
from views.deployments.api.deployments_api_blueprint import KEY, NOT_YOURS, TAG, bp
from views.projects.api.projects_api_blueprint import CHANGES, DOOR, WORKSPACE_ID, project_caller
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel


class WorkspaceDeployed(ResponseModel):
    deploymentId: str
    deployment_id: str
    message: str
    snapshot_id: str
    conversation_id: str | None = Field(description="Always null: a deployment needs no conversation")
    status: str
    url: str | None
    error: str | None


@bp.post("/workspaces/<workspace_id>/deploy")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[WORKSPACE_ID, KEY],
    answers={
        200: ("It is live or under way, or failed: then `error` says why", WorkspaceDeployed),
        **NOT_YOURS,
        400: "The workspace has no snapshot (`NO_SNAPSHOT`)",
        422: "The idempotency key is too long (`VALIDATION_ERROR`)",
    },
    door=DOOR,
)
def deploy_workspace(workspace_id: str) -> Response:
    """Deploy the newest snapshot of a workspace, as its settings say."""
    caller = project_caller()
    own_workspace(caller, workspace_id, "edit_projects")
    row = deployment_running.start_deployment(
        caller, workspace_id, key=request.headers.get("Idempotency-Key")
    )
    db.session.commit()
    said = {"failed": "The deployment failed.", "live": "It is live."}
    return jsonify(
        deploymentId=row.id,
        deployment_id=row.id,
        message=said.get(row.state, "The deployment has begun."),
        snapshot_id=row.snapshot_id,
        conversation_id=None,
        status=row.status,
        url=row.url,
        error=row.error,
    )
