"""The blueprint of the JSON API of deployments, and the shapes of its answers."""

from datetime import datetime
from typing import Any

from flask import Blueprint
from pydantic import Field

from models.deployments import Deployment, DeploymentSetting, InfrastructureResource
from models.deployments.deployment import WIRE_WORDS
from models.deployments.process_adapter import state_now
from views.web.format import iso
from views.web.operation import ResponseModel, header, path

bp = Blueprint("deployments_api", __name__, url_prefix="/v1")
TAG, INFRASTRUCTURE = "Deployments", "Infrastructure"
DEPLOYMENT_ID = path("deploymentId", "The id of the deployment")
KEY = header(
    "Idempotency-Key",
    "A text of your own: a repetition with it answers with the deployment that was made first",
)
NOT_YOURS: dict[Any, Any] = {
    403: "Your role in the organisation does not allow it",
    404: "You have no such project, workspace, snapshot or deployment",
}


class DeploymentObject(ResponseModel):
    id: str
    workspace_id: str
    project_id: str
    snapshot_id: str
    status: str = Field(description="`deploying`, `success` or `failed`")
    state: str = Field(
        description="`queued`, `building`, `releasing`, `checking`, `live`, `restarting`, `failed`, `rolled_back` or `stopped`"
    )
    adapter: str = Field(description="Where it is deployed to")
    trigger: str = Field(description="`manual`, `chat` or `auto`")
    message: str | None
    url: str | None
    error: str | None
    started_at: datetime
    released_at: datetime | None = Field(description="When it was last made live")
    completed_at: datetime | None


class SettingsObject(ResponseModel):
    workspace_id: str
    adapter: str
    auto_deploy: bool
    run_checks: bool
    runtime_override: str | None
    build_command: str | None
    start_command: str | None
    install_command: str | None = Field(description="Commands that are null are found in the files")
    health_path: str | None = Field(description="What a program must answer to be live; null for `/`")
    build_hosts: list[str] = Field(description="Hosts that install and build may reach")
    folder: str | None = Field(description="The folder that is served; null to find it")
    webhook_url: str | None
    has_webhook_secret: bool
    created_at: datetime
    updated_at: datetime


class ResourceObject(ResponseModel):
    id: str
    project_id: str
    type: str
    provider: str
    provider_resource_id: str | None
    name: str
    connection_info: str | None = Field(description="Eight bullets; null if it is not known")
    status: str
    error: str | None
    created_at: datetime
    updated_at: datetime


def deployment_json(row: Deployment) -> dict[str, Any]:
    """A deployment as the API shows it, at this moment."""
    state = state_now(row)
    return {
        **{name: getattr(row, name) for name in ("id", "workspace_id", "project_id", "snapshot_id")},
        "status": WIRE_WORDS[state],
        "state": state,
        **{name: getattr(row, name) for name in ("adapter", "trigger", "message", "url", "error")},
        **{name: iso(getattr(row, name)) for name in ("started_at", "released_at", "completed_at")},
    }


def settings_json(row: DeploymentSetting) -> dict[str, Any]:
    """Settings as the API shows them: no secret."""
    names = ("workspace_id", "adapter", "auto_deploy", "runtime_override", "build_command", "start_command")
    return {
        **{name: getattr(row, name) for name in (*names, "run_checks", "folder", "webhook_url")},
        **{name: getattr(row, name) for name in ("install_command", "health_path", "build_hosts")},
        "has_webhook_secret": row.webhook_sealed is not None,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def resource_json(row: InfrastructureResource) -> dict[str, Any]:
    """A resource as the API shows it: how to connect is masked."""
    names = ("id", "project_id", "type", "provider", "provider_resource_id", "name", "status", "error")
    return {
        **{name: getattr(row, name) for name in names},
        "connection_info": "•" * 8 if row.sealed else None,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }
