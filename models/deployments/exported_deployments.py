"""What an export of a user's data, and an organisation's archive, hold of deployments: never a token, a secret or how to connect."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Select, or_, select

from models.core.personal_export import Owner, add_csv, add_json_lines, batches
from models.deployments.deployment import DeployedSite, Deployment, DeploymentLogLine
from models.deployments.deployment_setting import DeploymentSetting
from models.deployments.infrastructure_resource import InfrastructureResource
from models.deployments.provider_credential import ProviderCredential
from models.deployments.site_traffic import SiteTraffic
from models.projects.project import Project

BOTH: tuple[Owner, ...] = ("person", "organisation")


def _projects(owner_id: str) -> Select[Any]:
    return select(Project.id).where(Project.account_id == owner_id)


def _mine(owner_id: str) -> Any:
    """Deployments of the owner's projects, and those that the person began in others."""
    return or_(Deployment.project_id.in_(_projects(owner_id)), Deployment.user_id == owner_id)


def _deployments(owner_id: str) -> Iterator[Mapping[str, Any]]:
    row = Deployment
    query = select(
        *(row.id, row.project_id, row.workspace_id, row.snapshot_id, row.adapter, row.trigger, row.state),
        *(row.url, row.error, row.message, row.started_at, row.released_at, row.completed_at),
    ).where(_mine(owner_id))
    return batches(query, row.id)


def _lines(owner_id: str) -> Iterator[Mapping[str, Any]]:
    row = DeploymentLogLine
    query = select(row.deployment_id, row.line, row.step, row.stream, row.content, row.created_at).where(
        row.deployment_id.in_(select(Deployment.id).where(_mine(owner_id)))
    )
    return batches(query, row.deployment_id, row.line)


def _settings(owner_id: str) -> Iterator[Mapping[str, Any]]:
    row = DeploymentSetting
    query = select(
        *(row.workspace_id, row.project_id, row.adapter, row.auto_deploy, row.run_checks, row.folder),
        *(row.runtime_override, row.build_command, row.start_command, row.webhook_url, row.updated_at),
    ).where(row.project_id.in_(_projects(owner_id)))
    for each in batches(query, row.workspace_id):
        # its path and query often are a secret
        host = urlsplit(each["webhook_url"]).hostname if each["webhook_url"] else None
        yield {**each, "webhook_host": host}


def _sites(owner_id: str) -> Iterator[Mapping[str, Any]]:
    row = DeployedSite
    query = select(row.workspace_id, row.project_id, row.name, row.deployment_id, row.created_at)
    return batches(query.where(row.project_id.in_(_projects(owner_id))), row.workspace_id)


def _traffic(owner_id: str) -> Iterator[Mapping[str, Any]]:
    row = SiteTraffic
    query = select(row.workspace_id, row.day, row.requests, row.bytes, row.refused)
    return batches(query.where(row.project_id.in_(_projects(owner_id))), row.workspace_id, row.day)


def _credentials(owner_id: str) -> Iterator[Mapping[str, Any]]:
    row = ProviderCredential
    query = select(
        row.id, row.provider, row.last_four, row.about.label("about"), row.created_at, row.updated_at
    )
    return batches(query.where(row.account_id == owner_id), row.id)


def _resources(owner_id: str) -> Iterator[Mapping[str, Any]]:
    row = InfrastructureResource
    query = select(
        *(row.id, row.project_id, row.type, row.provider, row.provider_resource_id, row.name, row.status),
        *(row.error, row.created_at, row.updated_at),
    ).where(row.project_id.in_(_projects(owner_id)))
    return batches(query, row.id)


add_csv(
    "deployments.csv",
    "Deployments of the projects, and those that you began in others.",
    {
        "id": "its id",
        "project_id": "the project",
        "workspace_id": "the workspace",
        "snapshot_id": "the snapshot that was deployed, as in snapshots.csv",
        "adapter": "where to",
        "trigger": "what began it: manual, chat or auto",
        "state": "how it stands",
        "url": "its address",
        "error": "why it failed or was taken back",
        "message": "what was written about it",
        "started_at": "when it began",
        "released_at": "when it was last made live",
        "completed_at": "when it ended",
    },
    _deployments,
    owners=BOTH,
)
add_json_lines(
    "deployment_logs.jsonl",
    "The logs of these deployments. Variables are in them by name.",
    {
        "deployment_id": "the deployment",
        "line": "the number of the line",
        "step": "install, build or deploy",
        "stream": "stdout or stderr",
        "content": "the text",
        "created_at": "when it was written",
    },
    _lines,
    owners=BOTH,
)
add_csv(
    "deployment_settings.csv",
    "How workspaces deploy. Secrets of webhooks are not included, and of their addresses only the host.",
    {
        "workspace_id": "the workspace",
        "project_id": "its project",
        "adapter": "where to",
        "auto_deploy": "whether it deploys by itself",
        "run_checks": "whether checks run before that",
        "folder": "the folder that is deployed",
        "runtime_override": "the runtime that was chosen",
        "build_command": "how it is built",
        "start_command": "how it is started",
        "webhook_host": "the host of one's own CI",
        "updated_at": "when they changed last",
    },
    _settings,
    owners=BOTH,
)
add_csv(
    "deployed_sites.csv",
    "Sites on this server.",
    {
        "workspace_id": "the workspace that it shows",
        "project_id": "its project",
        "name": "the first part of its host",
        "deployment_id": "the deployment that it shows",
        "created_at": "when it was made",
    },
    _sites,
    owners=BOTH,
)
add_csv(
    "site_traffic.csv",
    "What these sites served by day, for 90 days.",
    {
        "workspace_id": "the workspace",
        "day": "the day in UTC",
        "requests": "requests that were answered",
        "bytes": "bytes of bodies that were sent",
        "refused": "requests beyond the limits",
    },
    _traffic,
    owners=BOTH,
)
add_json_lines(
    "provider_credentials.jsonl",
    "Tokens of providers. The tokens themselves are not included.",
    {
        "id": "its id",
        "provider": "the provider",
        "last_four": "the last characters of the token",
        "about": "what the provider said of it, and what was added",
        "created_at": "when it was first stored",
        "updated_at": "when it was replaced last",
    },
    _credentials,
    owners=BOTH,
)
add_csv(
    "infrastructure_resources.csv",
    "What the projects have at providers. How to connect is not included.",
    {
        "id": "its id",
        "project_id": "the project",
        "type": "what it is",
        "provider": "the provider",
        "provider_resource_id": "what the provider calls it",
        "name": "its name",
        "status": "how it stands",
        "error": "what went wrong",
        "created_at": "when it was made",
        "updated_at": "when it changed last",
    },
    _resources,
    owners=BOTH,
)
