"""Deployments that reach a network: a job does them, in short transactions around calls that hold none."""

from datetime import datetime, timedelta

from sqlalchemy import select

from models.core import jobs
from models.core.db import db, lock_name
from models.deployments.deployment import UNDER_WAY, Deployment
from models.deployments.deployment_adapter import (
    DeploymentAdapter,
    DeploymentFailed,
    DeploymentOutcome,
    DeploymentTask,
    adapter_of,
)
from models.deployments.deployment_running import fail, plan_of, succeed, write_log
from models.deployments.infrastructure_resource import record_resource
from models.projects import Project, Workspace

SILENT = timedelta(hours=1)
"""How long a deployment may be under way."""


def run_deployment(id: str) -> None:
    """Do a deployment that waits, or continue one whose worker died; one that ended is left alone. Commits."""
    with jobs.transaction():
        claimed = _claim(id)
    if claimed is None:
        return
    adapter, task = claimed
    try:
        outcome = adapter.deploy(task, lambda step, line: _log(id, step, line))
    except DeploymentFailed as error:
        with jobs.transaction():
            _end(id, None, str(error))
        return
    with jobs.transaction():
        _end(id, outcome, None)


def fail_silent(moment: datetime) -> None:
    """Let deployments fail that are under way for longer than `SILENT`. Flushes."""
    old = select(Deployment).where(Deployment.state.in_(UNDER_WAY), Deployment.started_at < moment - SILENT)
    for deployment in db.session.scalars(old.with_for_update(skip_locked=True).limit(500)).all():
        fail(deployment, "Nothing was heard of it for an hour.")


def _claim(id: str) -> tuple[DeploymentAdapter, DeploymentTask] | None:
    deployment = _locked(id)
    if deployment is None or deployment.state not in UNDER_WAY:
        return None
    project = db.session.get_one(Project, deployment.project_id)
    workspace = db.session.get_one(Workspace, deployment.workspace_id)
    try:
        adapter = adapter_of(deployment.adapter)
        task = adapter.task(project, workspace, deployment, plan_of(deployment))
    except DeploymentFailed as error:
        fail(deployment, str(error))
        return None
    if deployment.state != "checking":
        deployment.state = "releasing"
    return adapter, task


def _end(id: str, outcome: DeploymentOutcome | None, reason: str | None) -> None:
    deployment = _locked(id)
    if deployment is None or deployment.state not in UNDER_WAY:
        return
    if reason is not None or outcome is None:
        fail(deployment, reason or "It did not work.")
        return
    deployment.external_id = outcome.external_id or deployment.external_id
    for type, provider_id, name in outcome.resources:
        record_resource(deployment.project_id, type, deployment.adapter, provider_id, name)
    if outcome.done:
        write_log(deployment, "deploy", [f"Live at {outcome.url}" if outcome.url else "Live."])
        succeed(deployment, outcome.url)


def _locked(id: str) -> Deployment | None:
    found = db.session.get(Deployment, id)
    if found is None:
        return None
    lock_name(f"deploy {found.workspace_id}")
    db.session.refresh(found)
    return found


def _log(id: str, step: str, line: str) -> None:
    with jobs.transaction():
        if (found := db.session.get(Deployment, id)) is not None:
            write_log(found, step, [line])
