"""Deploying: the first state to the last, releasing an earlier deployment again, taking a site offline."""

from collections.abc import Sequence

from blinker import Signal
from sqlalchemy import func, select, update

from models.core.db import db, lock_name, now
from models.core.errors import Conflict, DomainError, Invalid, NotFound
from models.deployments.deployed_process import begin_release
from models.deployments.deployment import (
    SHOWN,
    STEPS,
    UNDER_WAY,
    DeployedSite,
    Deployment,
    DeploymentLogLine,
)
from models.deployments.deployment_adapter import DeploymentPlan, NotDeployable, adapter_of
from models.deployments.deployment_checks import CheckReport
from models.deployments.deployment_listing import live_deployment
from models.deployments.deployment_setting import setting_of
from models.deployments.site_addresses import site_for, site_hosts, site_of
from models.projects import Project, ProjectCaller, Snapshot, Workspace
from models.projects.activity_log import add_event
from models.projects.project_access import own_project, own_workspace, workspace_not_found
from models.projects.project_ids import fits, new_id
from models.projects.project_states import tree_of
from models.projects.snapshots.blob_packs import BlobDamaged
from models.projects.snapshots.snapshot_making import snapshot_in

deployment_finished = Signal()
"""Sent with a `Deployment` that became live or failed, in its transaction."""
deployment_logged = Signal()
"""Sent with a `Deployment` and the `lines` that were added to its log, in their transaction."""
MAX_MESSAGE, MAX_KEY, MAX_LINE, MAX_LINES = 2_000, 200, 4_000, 5_000
DAMAGED = "Files of the snapshot cannot be read: the storage lost or changed their bytes. Tell the operator."


class NoSnapshot(Invalid):
    """The workspace has no snapshot that could be deployed."""

    status = 400
    code = "no_snapshot"

    def __init__(self) -> None:
        super().__init__("The workspace has no snapshot yet. Push one first.")


def start_deployment(
    caller: ProjectCaller,
    workspace_id: str,
    *,
    snapshot_id: str | None = None,
    trigger: str = "manual",
    message: str | None = None,
    key: str | None = None,
    project_id: str | None = None,
    again: bool = True,
) -> Deployment:
    """Deploy a snapshot as a workspace's settings say, by default the workspace's head. One with the same `key` is the earlier one; without
    `again`, so is the live one of the same snapshot. What cannot be deployed is a deployment that failed. Flushes. Raises NoSnapshot (400),
    Invalid (422), NotFound, also for a workspace of another project than `project_id`, Forbidden."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects")
    if project_id not in (None, project.id):
        raise workspace_not_found()
    id = snapshot_id or workspace.current_snapshot_id
    if id is None:
        raise NoSnapshot
    snapshot = snapshot_in(project.id, id)
    if snapshot is None:
        raise NotFound("The project has no such snapshot.")
    for name, text, most in (("message", message, MAX_MESSAGE), ("idempotency_key", key, MAX_KEY)):
        if text is not None and (len(text) > most or "\0" in text):
            raise Invalid(f"'{name}' must have at most {most:,} characters, and no NUL.")
    live = None if again else live_deployment(workspace.id)
    if live is not None and live.snapshot_id == snapshot.id:
        return live
    return deploy(
        project, workspace, snapshot, user_id=caller.user_id, trigger=trigger, message=message, key=key
    )


def deploy(
    project: Project,
    workspace: Workspace,
    snapshot: Snapshot,
    *,
    user_id: str | None,
    trigger: str,
    message: str | None = None,
    key: str | None = None,
    report: CheckReport | None = None,
) -> Deployment:
    """As `start_deployment`, for whoever checked who may; with the report of checks, which fail it if they did. Deployments of a workspace wait
    for each other. Flushes."""
    lock_name(f"deploy {workspace.id}")
    if key is not None and (known := _with_key(project, key)) is not None:
        return known
    setting = setting_of(project.id, workspace.id)
    deployment = Deployment(
        id=new_id(),
        project_id=project.id,
        workspace_id=workspace.id,
        snapshot_id=snapshot.id,
        user_id=user_id,
        adapter=setting.adapter,
        trigger=trigger,
        state="queued",
        message=message,
        idempotency_key=key,
        detail={},
        started_at=now(),
    )
    db.session.add(deployment)
    db.session.flush()
    write_log(
        deployment, "deploy", [f"Deploys the snapshot {snapshot.id} of the workspace {workspace.name}."]
    )
    if report is not None:
        for step in STEPS:
            write_log(deployment, step, [line for at, line in report.lines if at == step])
        if not report.passed:
            fail(deployment, report.reason)
            return deployment
    try:
        plan = _planned(project, workspace, snapshot, deployment)
        if plan.builds:
            _enqueue_build(deployment)
        elif adapter_of(deployment.adapter).capabilities.instant:
            release_here(project, workspace, deployment)
        else:
            _enqueue(deployment)
    except (NotDeployable, BlobDamaged) as error:
        fail(deployment, error.message if isinstance(error, DomainError) else DAMAGED)
    return deployment


def release_again(caller: ProjectCaller, id: str) -> Deployment:
    """Roll back, or forward: make an earlier deployment the live one, with the bytes that it had. The one that was live is `rolled_back`; where a process must
    start, once that is healthy. At a provider that is another deployment, which a job does and which is returned. Idempotent. Flushes. Raises NotFound, Forbidden,
    Conflict (409) for one that cannot be released, or whose files cannot be read."""
    project, deployment = own_deployment(caller, id, "edit_projects")
    lock_name(f"deploy {deployment.workspace_id}")
    db.session.refresh(deployment)
    adapter = adapter_of(deployment.adapter)
    hosted = adapter.capabilities.hosted
    if deployment.state in SHOWN or (hosted and deployment.state in UNDER_WAY):
        return deployment
    kept = deployment.built_manifest if hosted else deployment.tree_hash
    if not adapter.capabilities.releases or deployment.released_at is None or not kept:
        raise Conflict(
            "This deployment cannot be released again. Deploy its snapshot anew.", code="not_releasable"
        )
    if adapter.capabilities.provider is not None:
        from models.deployments.provider_release import release_elsewhere  # it imports this module

        return release_elsewhere(caller, deployment)
    health = None if hosted else adapter.health(deployment)
    if health is not None and not health.ok:
        raise Conflict(f"It is not released: {health.sentence[0].lower()}{health.sentence[1:]}")
    workspace = db.session.get_one(Workspace, deployment.workspace_id)
    if workspace.deleted_at is not None or site_hosts() is None:
        raise Conflict("The workspace of this deployment is deleted, or this server serves no sites now.")
    if hosted:
        write_log(deployment, "deploy", ["It is released again once its process is healthy."])
        begin_release(deployment, "rolled_back")
        return deployment
    write_log(deployment, "deploy", ["Released again."])
    point_site(project, workspace, deployment, "rolled_back")
    add_event(
        project.id,
        "deployment.rolled_back",
        "web" if caller.session.type == "web" else "cli",
        caller.user_id,
        workspace_id=deployment.workspace_id,
        snapshot_id=deployment.snapshot_id,
    )
    return deployment


def take_offline(caller: ProjectCaller, workspace_id: str) -> None:
    """Let the site of a workspace show nothing. Idempotent. Flushes. Raises NotFound, Forbidden."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects")
    lock_name(f"deploy {workspace.id}")
    if site_of(workspace) is None:
        return
    site = site_for(project, workspace)
    live = db.session.get(Deployment, site.deployment_id) if site.deployment_id else None
    site.deployment_id = None
    if live is not None and live.state in SHOWN:
        live.state = "stopped"
        write_log(live, "deploy", ["Taken offline."])
    db.session.flush()


def own_deployment(
    caller: ProjectCaller, id: str, capability: str = "see_projects"
) -> tuple[Project, Deployment]:
    """A deployment that the caller may see or change, and its project. Raises NotFound, Forbidden."""
    found = db.session.get(Deployment, id) if fits(id) else None
    if found is None:
        raise NotFound("There is no such deployment.")
    try:
        return own_project(caller, found.project_id, capability), found
    except NotFound:
        raise NotFound("There is no such deployment.") from None


def write_log(deployment: Deployment, step: str, lines: Sequence[str], *, stream: str = "stdout") -> None:
    """Add lines to the log of a deployment; beyond `MAX_LINES` nothing is kept. They must have no secret. Flushes."""
    assert step in STEPS
    last = select(func.coalesce(func.max(DeploymentLogLine.line), 0)).where(
        DeploymentLogLine.deployment_id == deployment.id
    )
    start = db.session.scalar(last) or 0
    moment = now()
    rows = [
        DeploymentLogLine(
            deployment_id=deployment.id,
            line=number,
            step=step,
            stream=stream,
            content=content.replace("\0", "")[:MAX_LINE],
            created_at=moment,
        )
        for number, content in enumerate(lines[: max(0, MAX_LINES - start)], start=start + 1)
    ]
    db.session.add_all(rows)
    db.session.flush()
    if rows:
        deployment_logged.send(deployment, lines=rows)


def fail(deployment: Deployment, reason: str) -> None:
    """The deployment failed; what was live before stays. Flushes."""
    deployment.state, deployment.error, deployment.completed_at = "failed", reason[:2_000], now()
    write_log(deployment, "deploy", [reason], stream="stderr")
    add_event(
        deployment.project_id,
        "deployment.failed",
        "system",
        deployment.user_id,
        workspace_id=deployment.workspace_id,
        snapshot_id=deployment.snapshot_id,
    )
    db.session.flush()
    deployment_finished.send(deployment)


def succeed(deployment: Deployment, url: str | None) -> None:
    """The deployment is live elsewhere, and healthy. Those of the workspace that were live are `stopped`, or `rolled_back` if it is an earlier
    one again, and its site on this server is offline. Flushes."""
    site = db.session.get(DeployedSite, deployment.workspace_id)
    if site is not None and site.deployment_id is not None:
        site.deployment_id = None
        write_log(deployment, "deploy", ["The site on this server is offline now."])
    _make_live(deployment, url, "rolled_back" if deployment.detail.get("releases") else "stopped")
    add_event(
        deployment.project_id,
        "deployment.live",
        "system",
        deployment.user_id,
        workspace_id=deployment.workspace_id,
        snapshot_id=deployment.snapshot_id,
    )
    deployment_finished.send(deployment)


def _planned(
    project: Project, workspace: Workspace, snapshot: Snapshot, deployment: Deployment
) -> DeploymentPlan:
    deployment.state = "building"
    root = tree_of(project, snapshot)
    if root is None:
        raise NotDeployable("The files of this snapshot are not stored in a form that the server can read.")
    setting = setting_of(project.id, workspace.id)
    plan = adapter_of(deployment.adapter).plan(project, root, setting)
    deployment.tree_hash = plan.tree_hash
    deployment.detail = {
        "folder": plan.folder,
        "files": plan.files,
        "bytes": plan.bytes,
        "variables": list(plan.variables),
        **plan.facts,
    }
    where = "the whole snapshot" if plan.folder == "." else f"the folder {plan.folder}"
    write_log(deployment, "build", [f"Takes {where}: {plan.files:,} files, {plan.bytes:,} bytes."])
    if plan.variables:
        write_log(deployment, "build", [f"Variables, by name: {', '.join(plan.variables)}."])
    return plan


def plan_of(deployment: Deployment) -> DeploymentPlan:
    """The plan of a deployment that was planned before, as it was."""
    facts = deployment.detail
    return DeploymentPlan(
        deployment.tree_hash or "", facts["folder"], facts["files"], facts["bytes"], facts["variables"]
    )


def release_here(project: Project, workspace: Workspace, deployment: Deployment) -> None:
    """Let the site show this deployment, whose files are stored. Flushes. Raises NotDeployable if its first page cannot be read."""
    deployment.state = "checking"
    health = adapter_of(deployment.adapter).health(deployment)
    write_log(deployment, "deploy", [f"Every file is stored. {health.sentence}"])
    if not health.ok:
        raise NotDeployable(health.sentence)
    point_site(project, workspace, deployment, "stopped")
    write_log(deployment, "deploy", [f"Live at {deployment.url}"])
    add_event(
        project.id,
        "deployment.live",
        "system",
        deployment.user_id,
        workspace_id=workspace.id,
        snapshot_id=deployment.snapshot_id,
    )
    deployment_finished.send(deployment)


def point_site(project: Project, workspace: Workspace, deployment: Deployment, before: str) -> None:
    """Let the site of the workspace show this deployment; those that were live become `before`. Flushes."""
    site, hosts = site_for(project, workspace), site_hosts()
    site.deployment_id = deployment.id
    _make_live(deployment, hosts.address(site.name) if hosts else None, before)


def _make_live(deployment: Deployment, url: str | None, before: str) -> None:
    moment = now()
    others = update(Deployment).where(
        Deployment.workspace_id == deployment.workspace_id,
        Deployment.state.in_(SHOWN),
        Deployment.id != deployment.id,
    )
    told = (
        {"error": "Rolled back: an earlier deployment was released again."} if before == "rolled_back" else {}
    )
    db.session.execute(others.values(state=before, **told))
    deployment.state, deployment.url, deployment.error = "live", url, None
    deployment.released_at = moment
    deployment.completed_at = deployment.completed_at or moment
    db.session.flush()


def _with_key(project: Project, key: str) -> Deployment | None:
    query = select(Deployment).where(Deployment.project_id == project.id, Deployment.idempotency_key == key)
    return db.session.scalars(query).one_or_none()


def _enqueue_build(deployment: Deployment) -> None:
    from models.deployments.build_running import enqueue_build  # it imports this module

    enqueue_build(deployment)


def _enqueue(deployment: Deployment) -> None:
    from models.core import jobs

    jobs.enqueue(jobs.run_deployment, lock=f"deploy {deployment.workspace_id}", id=deployment.id)
