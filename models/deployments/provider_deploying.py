"""Deployments that reach a network: a job does them, in short transactions around calls that hold none."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import and_, select

from models.core import jobs
from models.core.db import db, lock_name, now
from models.core.errors import DomainError
from models.deployments.deployed_process import RELEASING
from models.deployments.deployment import UNDER_WAY, Deployment
from models.deployments.deployment_adapter import (
    DeploymentAdapter,
    DeploymentFailed,
    DeploymentOutcome,
    DeploymentTask,
    ProviderBusy,
    ProviderLine,
    adapter_of,
)
from models.deployments.deployment_running import fail, plan_of, succeed, write_log
from models.deployments.infrastructure_resource import record_resource
from models.projects import Project, Workspace
from models.projects.snapshots.blob_packs import BlobDamaged

SILENT = timedelta(hours=1)
"""How long a deployment may be under way."""
TRIES = 5
"""How often a provider that does not answer, or allows no more calls, is asked."""
LONGEST = 900.0
"""The most seconds that a provider may ask to wait."""


def run_deployment(id: str) -> None:
    """Do a deployment that waits, or continue one whose worker died or that goes on at its provider; one that ended is left alone. Commits."""
    with jobs.transaction():
        claimed = _claim(id)
    if claimed is None:
        return
    adapter, task = claimed
    act = adapter.release if task.former else adapter.deploy
    outcome: DeploymentOutcome | DeploymentFailed
    try:
        outcome = act(task, lambda step, line: _log(id, step, line))
    except DeploymentFailed as error:
        outcome = error
    except BlobDamaged:
        outcome = DeploymentFailed("A file cannot be read: the storage lost or changed its bytes.")
    with jobs.transaction():
        _end(id, outcome)


def note(id: str, **facts: str) -> None:
    """Keep what a provider calls something of a deployment, so that a worker that continues it finds that again. Commits."""
    with jobs.transaction():
        if (found := db.session.get(Deployment, id, with_for_update=True)) is not None:
            found.detail = {**found.detail, "noted": {**found.detail.get("noted", {}), **facts}}


def place_logs(deployment: Deployment) -> tuple[DeploymentAdapter, DeploymentTask]:
    """What `read_place_logs` needs to read what the place tells of a deployment. Raises DeploymentFailed if it tells nothing."""
    try:
        adapter = adapter_of(deployment.adapter)
    except DomainError as error:
        raise DeploymentFailed(error.message) from None
    if not adapter.capabilities.logs or not deployment.detail.get("noted"):
        raise DeploymentFailed("There is no log of this deployment but its own.")
    return adapter, _task(adapter, deployment)


def read_place_logs(place: tuple[DeploymentAdapter, DeploymentTask]) -> Sequence[ProviderLine]:
    """Ask the place. Blocks; call it outside of a transaction. Raises DeploymentFailed."""
    adapter, task = place
    return adapter.logs(task)


def fail_silent(moment: datetime) -> None:
    """Let deployments fail that are under way for longer than `SILENT`. Flushes."""
    old = select(Deployment).where(
        Deployment.state.in_(UNDER_WAY),
        Deployment.started_at < moment - SILENT,
        # of processes that are started, `process_release` knows
        ~and_(Deployment.adapter == "process", Deployment.state.in_(RELEASING)),
    )
    for deployment in db.session.scalars(old.with_for_update(skip_locked=True).limit(500)).all():
        fail(deployment, "Nothing was heard of it for an hour.")


def enqueue_run(deployment: Deployment, seconds: float = 0.0) -> None:
    """Let a job do the deployment, or continue it after so many seconds."""
    jobs.enqueue(
        jobs.run_deployment,
        at=now() + timedelta(seconds=seconds) if seconds else None,
        lock=f"deploy {deployment.workspace_id}",
        id=deployment.id,
    )


def _claim(id: str) -> tuple[DeploymentAdapter, DeploymentTask] | None:
    deployment = _locked(id)
    if deployment is None or deployment.state not in UNDER_WAY:
        return None
    try:
        adapter = adapter_of(deployment.adapter)
        task = _task(adapter, deployment)
    except (DeploymentFailed, DomainError) as error:
        fail(deployment, error.message if isinstance(error, DomainError) else str(error))
        return None
    if deployment.state != "checking":
        deployment.state = "releasing"
    return adapter, task


def _task(adapter: DeploymentAdapter, deployment: Deployment) -> DeploymentTask:
    """What the adapter needs, with what was noted before. Raises DeploymentFailed."""
    project = db.session.get_one(Project, deployment.project_id)
    workspace = db.session.get_one(Workspace, deployment.workspace_id)
    task = adapter.task(project, workspace, deployment, plan_of(deployment))
    facts = deployment.detail
    return task._replace(
        noted=facts.get("noted", {}), former=facts.get("former", {}), polls=facts.get("polls", 0)
    )


def _end(id: str, outcome: DeploymentOutcome | DeploymentFailed) -> None:
    deployment = _locked(id)
    if deployment is None or deployment.state not in UNDER_WAY:
        return
    for type, provider_id, name in outcome.resources:
        record_resource(deployment.project_id, type, deployment.adapter, provider_id, name)
    if isinstance(outcome, ProviderBusy) and _try_again(deployment, outcome):
        return
    if isinstance(outcome, DeploymentFailed):
        fail(deployment, str(outcome))
        return
    deployment.external_id = outcome.external_id or deployment.external_id
    if outcome.done:
        write_log(deployment, "deploy", [f"Live at {outcome.url}" if outcome.url else "Live."])
        succeed(deployment, outcome.url)
    elif outcome.again is not None:
        deployment.detail = {**deployment.detail, "polls": deployment.detail.get("polls", 0) + 1, "tries": 0}
        enqueue_run(deployment, outcome.again)


def _try_again(deployment: Deployment, busy: ProviderBusy) -> bool:
    """Whether it is tried again: then in as many seconds as the provider asks for, and longer each time."""
    tries = deployment.detail.get("tries", 0) + 1
    seconds = busy.seconds * tries
    if tries >= TRIES or busy.seconds > LONGEST:
        return False
    deployment.detail = {**deployment.detail, "tries": tries}
    write_log(deployment, "deploy", [f"{busy} It is tried again in {seconds:.0f} seconds."], stream="stderr")
    enqueue_run(deployment, seconds)
    return True


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
            write_log(found, step, line.split("\n"))
