"""Computed action items of deployments: a workspace whose newest deployment failed (fastest contract 4.9, source 3)."""

from collections.abc import Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import distinct_on

from models.core.db import db
from models.deployments import Deployment, deployment_finished
from models.insights.item_listing import ListedItem, register_item_source
from models.insights.item_storing import resolve_items
from models.projects import Project, Workspace
from models.projects.snapshots.stored_objects import among

SOURCE = "deploy"
MAX_FAILURES = 100
MAX_ERROR = 2_000


def deploy_items(projects: Sequence[Project]) -> Iterator[ListedItem]:
    """An item for each workspace whose newest deployment failed or was taken back; a later one that succeeds ends it. One statement."""
    known = {each.id: each for each in projects}
    newest = (
        select(Deployment.id)
        .where(among(Deployment.project_id, known))
        .ext(distinct_on(Deployment.workspace_id))
        .order_by(Deployment.workspace_id, Deployment.started_at.desc(), Deployment.id.desc())
    )
    query = (
        select(Deployment, Workspace)
        .join(Workspace, Workspace.id == Deployment.workspace_id)
        .where(Deployment.id.in_(newest), Deployment.state == "failed", Workspace.deleted_at.is_(None))
        .order_by(Deployment.started_at.desc())
        .limit(MAX_FAILURES)
    )
    for deployment, workspace in db.session.execute(query):
        error = (deployment.error or "It gave no reason.")[:MAX_ERROR]
        yield ListedItem(
            f"deploy-{deployment.id}",
            "build_failure",
            "warning",
            known[deployment.project_id],
            workspace,
            f"The deployment of “{workspace.name[:80]}” failed",
            error,
            "navigate",
            {
                "deployment_id": deployment.id,
                "suggested_prompt": f"The deployment of the project failed: {error}\n\nFind the cause in the files and mend it.",
                "affected_files": [],
                "metadata": {"deployment_id": deployment.id},
            },
            deployment.completed_at or deployment.started_at,
        )


@deployment_finished.connect
def _resolve_stored(deployment: Deployment) -> None:
    """What was stored of failures, because somebody works on one, is over once a later deployment is live."""
    if deployment.state == "live":
        resolve_items(deployment.workspace_id, SOURCE)


register_item_source(SOURCE, deploy_items)
