"""Releasing an earlier deployment again at its provider: another deployment, which brings back what the provider kept."""

from sqlalchemy import select

from models.core.db import db, now
from models.core.errors import Conflict
from models.deployments.deployment import UNDER_WAY, Deployment
from models.deployments.deployment_running import write_log
from models.deployments.provider_deploying import enqueue_run
from models.projects import ProjectCaller, Workspace
from models.projects.activity_log import add_event
from models.projects.project_ids import new_id


def release_elsewhere(caller: ProjectCaller, former: Deployment) -> Deployment:
    """A deployment that brings `former`, whose workspace is locked, back at its provider; the one under way that does so already, if there is
    one. Flushes. Raises Conflict (409) if the provider kept nothing of it, or its workspace is deleted."""
    if not former.detail.get("noted"):
        raise Conflict(
            "This deployment cannot be released again. Deploy its snapshot anew.", code="not_releasable"
        )
    if db.session.get_one(Workspace, former.workspace_id).deleted_at is not None:
        raise Conflict("The workspace of this deployment is deleted.")
    waiting = select(Deployment).where(
        Deployment.workspace_id == former.workspace_id,
        Deployment.state.in_(UNDER_WAY),
        Deployment.detail["releases"].astext == former.id,
    )
    if (known := db.session.scalars(waiting.limit(1)).one_or_none()) is not None:
        return known
    kept = {name: former.detail[name] for name in ("folder", "files", "bytes", "variables")}
    deployment = Deployment(
        id=new_id(),
        project_id=former.project_id,
        workspace_id=former.workspace_id,
        snapshot_id=former.snapshot_id,
        user_id=caller.user_id,
        adapter=former.adapter,
        trigger="manual",
        state="queued",
        tree_hash=former.tree_hash,
        message=former.message,
        detail={**kept, "releases": former.id, "former": former.detail["noted"]},
        started_at=now(),
    )
    db.session.add(deployment)
    db.session.flush()
    write_log(deployment, "deploy", [f"Releases the deployment {former.id} again."])
    add_event(
        deployment.project_id,
        "deployment.rolled_back",
        "web" if caller.session.type == "web" else "cli",
        caller.user_id,
        workspace_id=deployment.workspace_id,
        snapshot_id=deployment.snapshot_id,
    )
    enqueue_run(deployment)
    return deployment
