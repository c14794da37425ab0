"""`/v1/infrastructure/projects`: what a project needs and has at providers, and deploying one of its manifests (fastest contract 3.15)."""

from typing import Any

from flask import Response, jsonify, request
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.deployments import deployment_running, infrastructure_resource
from models.deployments.deployment import TRIGGERS
from models.deployments.resource_ending import destroy_at_provider, end_resource, resource_to_destroy
from models.deployments.runtime_detection import detect_needs, needs_json
from models.deployments.snapshot_choice import snapshot_with_manifest
from models.projects.project_access import own_project
from models.projects.project_states import state_of
from models.projects.snapshots.manifest_store import manifest_entries, manifest_row
from views.deployments.api.deployments_api_blueprint import (
    INFRASTRUCTURE,
    KEY,
    NOT_YOURS,
    TAG,
    ResourceObject,
    bp,
    resource_json,
)
from views.projects.api.project_bodies import Success
from views.projects.api.projects_api_blueprint import CHANGES, DOOR, PROJECT_ID, WRONG, project_caller
from views.web.body import Body, Missing, read
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, path, query

RESOURCE_ID = path("resourceId", "The id of the resource")


class ResourceList(ResponseModel):
    resources: list[ResourceObject]


class ResourceAnswer(ResponseModel):
    resource: ResourceObject


class Detection(ResponseModel):
    requirements: dict[str, Any] = Field(
        description="`runtime`, `runtimeVersion`, `framework`, `databases`, `isEdgeCompatible`, `needsStorage`, `buildCommand`, `startCommand`"
    )
    suggested_resources: list[dict[str, Any]]
    detection: dict[str, Any] = Field(description="`confidence` from 0 to 1, `reasons`, `signals`, `source`")
    declined: list[str] = Field(description="What of it this server does not do, and why")


class ManifestDeploy(Body):
    manifest_hash: str
    message: str | None = None
    force: Missing[bool] = Field(
        None, description="Deploy again what is live already; otherwise that is answered"
    )
    workspace_id: str | None = Field(None, description="By default the main workspace")
    source: Missing[str] = Field(None, description="`manual`, `chat` or `auto`")


class ManifestDeployed(ResponseModel):
    success: bool
    deployment_id: str
    url: str | None
    resources: list[ResourceObject]
    provisioned_resources: list[ResourceObject]
    error: str | None


@bp.get("/infrastructure/projects/<project_id>/resources")
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID],
    answers={200: ("The newest first, deleted ones too", ResourceList), **NOT_YOURS},
    door=DOOR,
)
def list_resources(project_id: str) -> Response:
    """List what a project has at providers."""
    project = own_project(project_caller(), project_id)
    return jsonify(resources=[resource_json(row) for row in infrastructure_resource.resources_of(project)])


@bp.get("/infrastructure/projects/<project_id>/resources/<resource_id>")
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, RESOURCE_ID],
    answers={200: ("The resource", ResourceAnswer), **NOT_YOURS},
    door=DOOR,
)
def get_resource(project_id: str, resource_id: str) -> Response:
    """Get something that a project has at a provider."""
    project = own_project(project_caller(), project_id)
    return jsonify(resource=resource_json(infrastructure_resource.resource_of(project, resource_id)))


@bp.delete("/infrastructure/projects/<project_id>/resources/<resource_id>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, RESOURCE_ID],
    answers={
        200: ("It is gone here; its `error` says if the provider may still have it", Success),
        **NOT_YOURS,
    },
    door=DOOR,
)
def remove_resource(project_id: str, resource_id: str) -> Response:
    """Destroy something at its provider, as well as that works, and mark it as deleted."""
    caller = project_caller()
    ending = resource_to_destroy(caller, project_id, resource_id)
    db.session.rollback()  # no transaction is open while the provider works
    end_resource(ending, destroy_at_provider(ending))
    db.session.commit()
    return jsonify(success=True)


@bp.get("/infrastructure/projects/<project_id>/detect")
@Operation(
    tag=INFRASTRUCTURE,
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[PROJECT_ID, query("manifest_hash", "A manifest; by default that of the main workspace")],
    answers={200: ("What was found", Detection), **NOT_YOURS},
    door=DOOR,
)
def detect_requirements(project_id: str) -> Response:
    """Tell from the files of a project what it is built with and needs."""
    project = own_project(project_caller(), project_id)
    hash = request.args.get("manifest_hash", "")
    row = manifest_row(project.account_id, hash) if hash else state_of(project).manifest
    if row is None and hash:
        raise NotFound("The account of the project has no such manifest.")
    entries = manifest_entries(row) if row is not None else []
    return jsonify(needs_json(detect_needs(project.account_id, entries)))


@bp.post("/infrastructure/projects/<project_id>/deploy")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag=TAG,
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[PROJECT_ID, KEY],
    body=ManifestDeploy,
    answers={
        200: (
            "It is live or under way, or failed: then `success` is false and `error` says why",
            ManifestDeployed,
        ),
        **NOT_YOURS,
        **WRONG,
    },
    door=DOOR,
)
def deploy_manifest(project_id: str) -> Response:
    """Deploy the files of a manifest, which a snapshot of the project must have."""
    caller = project_caller()
    project = own_project(caller, project_id, "edit_projects")
    body = read(ManifestDeploy)
    workspace_id = body.workspace_id or project.main_workspace_id
    if not workspace_id:
        raise Invalid("The project has no main workspace. Name a workspace in 'workspace_id'.")
    snapshot = snapshot_with_manifest(project, body.manifest_hash)
    row = deployment_running.start_deployment(
        caller,
        workspace_id,
        snapshot_id=snapshot.id,
        trigger=body.source if body.source in TRIGGERS else "manual",
        message=body.message,
        key=request.headers.get("Idempotency-Key"),
        again=bool(body.force),
        project_id=project.id,
    )
    db.session.commit()
    resources = [resource_json(each) for each in infrastructure_resource.resources_of(project)]
    return jsonify(
        success=row.state != "failed",
        deployment_id=row.id,
        url=row.url,
        resources=resources,
        provisioned_resources=[],
        error=row.error,
    )
