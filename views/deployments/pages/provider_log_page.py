"""What a provider tells of a deployment, read there at that moment."""

from collections.abc import Sequence

from flask.typing import ResponseReturnValue

from models.core.db import db
from models.deployments import provider_deploying
from models.deployments.deployment_adapter import DeploymentFailed, ProviderLine, adapters
from models.projects.project_listing import snapshots_named
from views.deployments.pages.ship_blueprint import ship_page, viewed_deployment
from views.projects.pages.project_blueprint import viewed_project
from views.web.guards import limiter
from views.web.htmx import render
from views.web.org_guards import org_caller

READS = "30/minute;1000/day"


@ship_page("/deployments/<deployment_id>/provider")
@limiter.limit(READS, key_func=org_caller)
def provider_lines(project_id: str, deployment_id: str) -> ResponseReturnValue:
    """The last lines that the provider tells, or why it tells none. Raises NotFound, Forbidden."""
    row = viewed_deployment(viewed_project(project_id), deployment_id)
    lines: Sequence[ProviderLine] = ()
    problem = None
    try:
        place = provider_deploying.place_logs(row)
        db.session.rollback()  # no transaction is open while the provider is asked
        lines = provider_deploying.read_place_logs(place)
    except DeploymentFailed as failed:
        problem = str(failed)
    project = viewed_project(project_id)
    row = viewed_deployment(project, deployment_id)
    return render(
        "deployments/provider_lines.html",
        project=project,
        row=row,
        lines=lines,
        problem=problem,
        title=adapters()[row.adapter].capabilities.title if row.adapter in adapters() else row.adapter,
        snapshot=snapshots_named(project.id, [row.snapshot_id]).get(row.snapshot_id),
    )
