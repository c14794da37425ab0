"""Ending a resource: at its provider as well as that works, and here in any case."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import select

from models.core.db import db
from models.deployments.deployment import Deployment
from models.deployments.deployment_adapter import DeploymentFailed, adapters
from models.deployments.deployment_running import write_log
from models.deployments.infrastructure_resource import InfrastructureResource, mark_deleted, resource_of
from models.deployments.provider_credential import credential_of, token_of
from models.projects.project_access import ProjectCaller, own_project


class ResourceEnding(NamedTuple):
    """A resource that is to end, and how its provider is reached. `token` None: it is not. Never log it."""

    id: str
    provider: str
    provider_resource_id: str | None
    token: str | None
    metadata: Mapping[str, Any]


def resource_to_destroy(caller: ProjectCaller, project_id: str, id: str) -> ResourceEnding:
    """What `destroy_resource` needs. Raises NotFound, Forbidden."""
    project = own_project(caller, project_id, "manage_projects")
    row = resource_of(project, id)
    credential = credential_of(project.account_id, row.provider)
    token = token_of(credential) if credential else None
    about = (credential.about if credential else None) or {}
    return ResourceEnding(row.id, row.provider, row.provider_resource_id, token, about)


def destroy_at_provider(ending: ResourceEnding) -> str | None:
    """Ask the provider to destroy it; why it may still be there, None if it is gone. Blocks; call it outside of a transaction."""
    adapter = adapters().get(ending.provider)
    if adapter is None or ending.token is None or ending.provider_resource_id is None:
        return "It was not destroyed at the provider, which this server cannot reach for it. Look there."
    try:
        adapter.destroy(ending.provider_resource_id, ending.token, ending.metadata)
    except DeploymentFailed as failed:
        return f"It may still be at the provider: {failed}"
    return None


def end_resource(ending: ResourceEnding, error: str | None) -> None:
    """Mark a resource as deleted after its provider was asked; deployments that were live there are `stopped`. Idempotent. Flushes."""
    row = db.session.get_one(InfrastructureResource, ending.id)
    if row.status == "deleted":
        return
    mark_deleted(row, error)
    live = select(Deployment).where(
        Deployment.project_id == row.project_id,
        Deployment.adapter == row.provider,
        Deployment.state == "live",
        Deployment.detail["noted"]["resource"].astext == row.provider_resource_id,
    )
    for deployment in db.session.scalars(live.with_for_update()).all():
        deployment.state = "stopped"
        write_log(deployment, "deploy", [f"The resource {row.name} was destroyed, so it is live no longer."])
