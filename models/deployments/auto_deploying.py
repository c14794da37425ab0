"""Deploys a workspace by itself when its head moves, if its settings say so."""

from sqlalchemy import select

from models.core import jobs
from models.core.db import db
from models.deployments.deployment_running import deploy
from models.deployments.deployment_setting import DeploymentSetting
from models.projects import Project, Workspace, WorkspaceOperation
from models.projects.snapshots.snapshot_making import snapshot_in
from models.projects.workspaces.head_moves import head_moved


@head_moved.connect
def _follow_head(operation: WorkspaceOperation) -> None:
    if operation.after_snapshot_id in (None, operation.before_snapshot_id):
        return
    wanted = select(DeploymentSetting.workspace_id).where(
        DeploymentSetting.workspace_id == operation.workspace_id, DeploymentSetting.auto_deploy.is_(True)
    )
    if db.session.scalars(wanted).one_or_none() is not None:
        jobs.enqueue(jobs.deploy_moved_head, operation_id=operation.id)


def deploy_operation(operation_id: str) -> None:
    """Deploy the head that an operation moved a workspace to, unless it moved on since: then the later move does. Idempotent. Flushes."""
    operation = db.session.get(WorkspaceOperation, operation_id)
    workspace = db.session.get(Workspace, operation.workspace_id) if operation else None
    if operation is None or workspace is None or workspace.deleted_at is not None:
        return
    project = db.session.get_one(Project, workspace.project_id)
    setting = db.session.get(DeploymentSetting, workspace.id)
    snapshot = snapshot_in(project.id, operation.after_snapshot_id or "")
    moved_on = workspace.current_snapshot_id != operation.after_snapshot_id
    if (
        moved_on
        or project.deleted_at is not None
        or snapshot is None
        or not (setting and setting.auto_deploy)
    ):
        return
    deploy(
        project,
        workspace,
        snapshot,
        user_id=operation.user_id,
        trigger="auto",
        key=f"operation {operation.id}",
    )
