"""How the process of a deployment does, told to its deployment: what its status says is what the health check found."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select

from models.core.db import db, lock_name, now
from models.deployments.build_environment import build_variables
from models.deployments.deployed_process import RELEASING, DeployedProcess, forget_archives, process_of
from models.deployments.deployment import SHOWN, Deployment
from models.deployments.deployment_adapter import DeploymentFailed
from models.deployments.deployment_running import deployment_finished, fail, point_site, write_log
from models.deployments.site_addresses import site_for, site_hosts
from models.projects import Project, Workspace
from models.projects.activity_log import add_event

UNSTARTED = timedelta(minutes=10)
NOBODY = "Nobody started its process: the program that runs processes is not at work. `flask serve` starts it, or `flask processes`."


class ProcessStart(NamedTuple):
    """What a process is started with. Never log the variables' values. `address` is that of its site, `first` whether it is being released."""

    deployment_id: str
    account_id: str
    manifest: str
    command: str
    health: str
    address: str
    env: Mapping[str, str]
    first: bool


def load_start(id: str) -> ProcessStart:
    """What a deployment is started with. Flushes. Raises DeploymentFailed."""
    deployment = db.session.get_one(Deployment, id)
    project = db.session.get_one(Project, deployment.project_id)
    workspace = db.session.get_one(Workspace, deployment.workspace_id)
    if deployment.built_manifest is None:
        raise DeploymentFailed("What was built for it is no longer stored. Deploy its snapshot anew.")
    hosts = site_hosts()
    facts = deployment.detail["build"]
    return ProcessStart(
        id,
        project.account_id,
        deployment.built_manifest,
        facts["start"],
        facts["health"],
        hosts.address(site_for(project, workspace).name) if hosts else "",
        build_variables(project, workspace),
        deployment.state in RELEASING,
    )


def tell_starting(id: str) -> None:
    """Its process starts. One that was live is `restarting` until it answers. Flushes."""
    if (found := _locked(id)) is None:
        return
    deployment, row = found
    row.socket, row.started_at, row.updated_at = None, now(), now()
    if deployment.state in RELEASING:
        deployment.state = "checking"
    elif deployment.state in SHOWN:
        deployment.state = "restarting"
    db.session.flush()


def tell_healthy(id: str, socket: str) -> bool:
    """Its process is healthy and reached by this socket: it is live, and requests go there from now on. False if it is no longer wanted. Flushes."""
    if (found := _locked(id)) is None:
        return False
    deployment, row = found
    if deployment.state not in (*RELEASING, *SHOWN):
        return False
    row.socket, row.updated_at = socket, now()
    if deployment.state in SHOWN:
        if deployment.state == "restarting" and row.failures:
            write_log(deployment, "deploy", ["It answers again."])
        deployment.state = "live"
        db.session.flush()
        return True
    project = db.session.get_one(Project, deployment.project_id)
    workspace = db.session.get_one(Workspace, deployment.workspace_id)
    if project.deleted_at is not None or workspace.deleted_at is not None:
        return False
    row.failures, row.reason = 0, None
    point_site(project, workspace, deployment, row.replaces)
    write_log(deployment, "deploy", [f"Live at {deployment.url}"])
    forget_archives(workspace.id)
    kind = "deployment.live" if row.replaces == "stopped" else "deployment.rolled_back"
    add_event(
        project.id,
        kind,
        "system",
        deployment.user_id,
        workspace_id=workspace.id,
        snapshot_id=deployment.snapshot_id,
    )
    deployment_finished.send(deployment)
    return True


def tell_trouble(id: str, reason: str, failures: int, pause: float) -> None:
    """Its process ended or does not answer, and is started again after so many seconds. Flushes."""
    if (found := _locked(id)) is None or found[0].state not in SHOWN:
        return
    deployment, row = found
    row.socket, row.failures, row.reason, row.updated_at = None, failures, reason[:2_000], now()
    deployment.state = "restarting"
    write_log(deployment, "deploy", [f"{reason} It is started again in {pause:g} s."], stream="stderr")


def tell_steady(id: str) -> None:
    """It ran well for long enough: earlier trouble is forgotten. Flushes."""
    if (found := _locked(id)) is not None:
        found[1].failures, found[1].reason = 0, None
        db.session.flush()


def tell_failed(id: str, reason: str) -> None:
    """It is given up: what was live before it stays, if it never was. Flushes."""
    if (found := _locked(id)) is None:
        return
    deployment, row = found
    row.socket, row.reason, row.updated_at = None, reason[:2_000], now()
    if deployment.state in (*RELEASING, *SHOWN):
        fail(deployment, reason)
    db.session.flush()


def tell_ended(id: str) -> None:
    """Its process was ended, because it is no longer wanted, or because the server stops. Flushes."""
    if (found := _locked(id)) is not None:
        deployment, row = found
        row.socket, row.updated_at = None, now()
        if deployment.state == "live":
            deployment.state = "restarting"
        db.session.flush()


def fail_unstarted(moment: datetime) -> None:
    """Let deployments fail whose processes nobody starts. Flushes."""
    query = (
        select(Deployment)
        .join(DeployedProcess, DeployedProcess.deployment_id == Deployment.id)
        .where(Deployment.state.in_(RELEASING), DeployedProcess.updated_at < moment - UNSTARTED)
    )
    for deployment in db.session.scalars(query.with_for_update(skip_locked=True).limit(500)).all():
        fail(deployment, NOBODY)


def _locked(id: str) -> tuple[Deployment, DeployedProcess] | None:
    """The deployment and its process, after the other changes of its workspace."""
    deployment = db.session.get(Deployment, id)
    if deployment is None:
        return None
    lock_name(f"deploy {deployment.workspace_id}")
    db.session.refresh(deployment)
    row = process_of(deployment)
    if row is None:
        return None
    db.session.refresh(row)
    return deployment, row
