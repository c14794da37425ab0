"""Lists of deployments and their logs, and what pages and other rooms say about them."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from models.core.db import db
from models.deployments.deployment import SHOWN, UNDER_WAY, Deployment, DeploymentLogLine
from models.projects.project import Project
from models.projects.project_editing import register_last_deploy
from models.projects.snapshots.merge_base import ancestors_of
from models.projects.workspaces.workspace import Workspace


def deployments_page(
    project_id: str,
    limit: int,
    *,
    workspace_id: str | None = None,
    before: tuple[datetime, str] | None = None,
) -> Sequence[Deployment]:
    """The deployments of a project or of one of its workspaces, newest first, before the one with this time and id."""
    query = select(Deployment).where(Deployment.project_id == project_id)
    if workspace_id is not None:
        query = query.where(Deployment.workspace_id == workspace_id)
    if before is not None:
        query = query.where(tuple_(Deployment.started_at, Deployment.id) < tuple_(*before))
    newest = query.order_by(Deployment.started_at.desc(), Deployment.id.desc())
    return db.session.scalars(newest.limit(limit)).all()


def live_deployment(workspace_id: str) -> Deployment | None:
    """The deployment of a workspace that is live, or would be but for its process, which is started again."""
    query = select(Deployment).where(Deployment.workspace_id == workspace_id, Deployment.state.in_(SHOWN))
    return db.session.scalars(query.order_by(Deployment.released_at.desc()).limit(1)).one_or_none()


def noted_before(workspace_id: str, adapter: str) -> Mapping[str, str]:
    """What was noted of the newest deployment of a workspace at a provider: that goes on to be used, though the project is named anew."""
    noted = Deployment.detail["noted"]
    query = select(noted).where(
        Deployment.workspace_id == workspace_id,
        Deployment.adapter == adapter,
        noted["resource"].astext.is_not(None),
    )
    newest = query.order_by(Deployment.started_at.desc(), Deployment.id.desc()).limit(1)
    return db.session.scalars(newest).one_or_none() or {}


def is_under_way(deployment: Deployment) -> bool:
    """Whether it has not ended yet."""
    return deployment.state in UNDER_WAY


def failed_deployments(project: Project) -> Sequence[Deployment]:
    """The newest deployment of each workspace, where that failed: what somebody should look at."""
    newest = (
        select(Deployment)
        .join(Workspace, Workspace.id == Deployment.workspace_id)
        .where(Deployment.project_id == project.id, Workspace.deleted_at.is_(None))
        .ext(distinct_on(Deployment.workspace_id))
        .order_by(Deployment.workspace_id, Deployment.started_at.desc(), Deployment.id.desc())
    )
    return [each for each in db.session.scalars(newest) if each.state == "failed"]


def log_lines(deployment: Deployment, after: int = 0, limit: int = 1_000) -> Sequence[DeploymentLogLine]:
    """Lines of the log after the one with this number, in order."""
    query = select(DeploymentLogLine).where(
        DeploymentLogLine.deployment_id == deployment.id, DeploymentLogLine.line > after
    )
    return db.session.scalars(query.order_by(DeploymentLogLine.line).limit(limit)).all()


def snapshots_behind(deployment: Deployment, workspace: Workspace) -> int | None:
    """How many snapshots the head of the workspace has that this deployment has not; None if it is on another line of the history."""
    head = workspace.current_snapshot_id
    if head is None or head == deployment.snapshot_id:
        return 0
    above = ancestors_of(workspace.project_id, head)
    if deployment.snapshot_id not in above:
        return None
    return len(above - ancestors_of(workspace.project_id, deployment.snapshot_id))


def last_deploy_at(project_id: str) -> datetime | None:
    """When the project deployed last, whatever came of it."""
    newest = select(func.max(Deployment.started_at)).where(Deployment.project_id == project_id)
    return db.session.scalar(newest)


register_last_deploy(last_deploy_at)
