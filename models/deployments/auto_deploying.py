"""Deploys a workspace by itself when its head moves, if its settings say so."""

from typing import NamedTuple

from sqlalchemy import select

from models.core import jobs
from models.core.db import db
from models.deployments.deployment import Deployment
from models.deployments.deployment_checks import CheckReport, check_tree
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
        jobs.enqueue(
            jobs.deploy_moved_head,
            lock=f"deploy {operation.workspace_id}",
            operation_id=operation.id,
        )


class DueDeployment(NamedTuple):
    """What is to be deployed, and whether its checks run before."""

    account_id: str
    manifest_hash: str
    run_checks: bool


def deploy_operation(operation_id: str) -> None:
    """Deploy the head that an operation moved a workspace to, after its checks if the settings say so, unless the workspace moved on: then the
    later move does. Idempotent. Commits."""
    with jobs.transaction():
        due = _due(operation_id)
        if due is None:
            return
        if not due.run_checks:
            _deploy(operation_id, None)
            return
    report = check_tree(due.account_id, due.manifest_hash)
    with jobs.transaction():
        if _due(operation_id) is not None:
            _deploy(operation_id, report)


def _due(operation_id: str) -> DueDeployment | None:
    operation = db.session.get(WorkspaceOperation, operation_id)
    workspace = (
        db.session.get(Workspace, operation.workspace_id, populate_existing=True) if operation else None
    )
    if operation is None or workspace is None or workspace.deleted_at is not None:
        return None
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
        return None
    known = select(Deployment.id).where(
        Deployment.project_id == project.id, Deployment.idempotency_key == _key(operation_id)
    )
    if db.session.scalars(known).one_or_none() is not None:
        return None
    return DueDeployment(project.account_id, snapshot.manifest_hash, setting.run_checks)


def _deploy(operation_id: str, report: CheckReport | None) -> None:
    operation = db.session.get_one(WorkspaceOperation, operation_id)
    workspace = db.session.get_one(Workspace, operation.workspace_id)
    snapshot = snapshot_in(workspace.project_id, operation.after_snapshot_id or "")
    assert snapshot is not None
    deploy(
        db.session.get_one(Project, workspace.project_id),
        workspace,
        snapshot,
        user_id=operation.user_id,
        trigger="auto",
        key=_key(operation_id),
        report=report,
    )


def _key(operation_id: str) -> str:
    return f"operation {operation_id}"
