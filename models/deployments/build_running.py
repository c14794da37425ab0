"""Deployments that are built first: a job builds the snapshot in a sandbox of this server, and releases what came of it."""

from collections.abc import Mapping
from typing import NamedTuple
from zlib import crc32

from models.core import jobs
from models.core.db import db, extension, lock_name
from models.core.errors import DomainError
from models.deployments.build_environment import build_variables
from models.deployments.built_output import find_folder, pack, read_folder
from models.deployments.deployed_process import begin_release, forget_archives
from models.deployments.deployment import Deployment
from models.deployments.deployment_adapter import DeploymentFailed, adapter_of
from models.deployments.deployment_running import DAMAGED, fail, release_here, write_log
from models.deployments.log_writer import LogWriter
from models.deployments.static_adapter import FOLDERS
from models.deployments.tree_building import BuildWishes, build_limits, build_tree
from models.projects import Project, Snapshot, Workspace
from models.projects.snapshots.blob_garbage import name_manifests
from models.projects.snapshots.blob_packs import BlobDamaged
from models.projects.snapshots.manifest_store import manifest_row, readable_tree, tree_entries
from models.runners import Limits, ProcessWorkplace, open_workplace, store_changes

AT_ONCE = 2
"""Builds at once: other jobs go on beside them."""

name_manifests(Deployment, Deployment.built_manifest)


class BuildWork(NamedTuple):
    """What a build needs, as plain values. Never log the variables' values."""

    account_id: str
    manifest_hash: str
    adapter: str
    folder: str | None
    wishes: BuildWishes
    limits: Limits
    env: Mapping[str, str]


class BuildResult(NamedTuple):
    """What is released: the manifest of the built files, and of a site the folder that they were in."""

    manifest: str
    folder: str = "."


def enqueue_build(deployment: Deployment) -> None:
    """Have a deployment built by a job."""
    place = crc32(deployment.workspace_id.encode()) % AT_ONCE
    jobs.enqueue(jobs.build_deployment, lock=f"build {place}", id=deployment.id)


def run_build(id: str) -> None:
    """Build a deployment and release it; one whose worker died is built again, one that ended is left alone. Commits."""
    with jobs.transaction():
        work = _claim(id)
    if work is None:
        return
    log = LogWriter(id, work.env.values())
    result, reason = None, ""
    try:
        result = _built(work, log)
    except DeploymentFailed as failed:
        reason = str(failed)
    except BlobDamaged:
        reason = DAMAGED
    except DomainError as error:
        reason = error.message
    log.flush()
    with jobs.transaction():
        _end(id, result, reason)


def _claim(id: str) -> BuildWork | None:
    deployment = _locked(id)
    if deployment is None or deployment.state not in ("queued", "building"):
        return None
    project = db.session.get_one(Project, deployment.project_id)
    workspace = db.session.get_one(Workspace, deployment.workspace_id)
    snapshot = db.session.get_one(Snapshot, (project.id, deployment.snapshot_id))
    deployment.state = "building"
    facts = deployment.detail["build"]
    try:
        env = build_variables(project, workspace)
    except DeploymentFailed as failed:
        fail(deployment, str(failed))
        return None
    return BuildWork(
        project.account_id,
        snapshot.manifest_hash,
        deployment.adapter,
        facts["folder"],
        BuildWishes(facts["install"], facts["build"], facts["hosts"]),
        build_limits(extension("settings")),
        env,
    )


def _built(work: BuildWork, log: LogWriter) -> BuildResult:
    def on_host(host: str, allowed: bool) -> None:
        log.line("install", f"{'Reaches' if allowed else 'May not reach'} {host[:253]}.")

    with jobs.transaction():
        place = open_workplace(
            "process",
            work.account_id,
            work.manifest_hash,
            limits=work.limits,
            hosts=work.wishes.hosts,
            on_host=on_host,
        )
    try:
        assert isinstance(place, ProcessWorkplace)
        build_tree(place, work.wishes, work.limits, work.env, log)
        if work.adapter == "process":
            return BuildResult(pack(place, work.account_id))
        folder = find_folder(place, work.folder, [each for each in FOLDERS if each != "."])
        files = read_folder(place, folder)
        for path, problem in list(files.refused.items())[:10]:
            log.line("build", f"Left out {path[:200]}: {problem}")
        with jobs.transaction():
            return BuildResult(store_changes(work.account_id, None, files), folder)
    finally:
        place.close()


def _end(id: str, result: BuildResult | None, reason: str) -> None:
    deployment = _locked(id)
    if deployment is None or deployment.state != "building":
        return
    if result is None:
        fail(deployment, reason)
        return
    project = db.session.get_one(Project, deployment.project_id)
    workspace = db.session.get_one(Workspace, deployment.workspace_id)
    if project.deleted_at is not None or workspace.deleted_at is not None:
        fail(deployment, "The project or the workspace was deleted while it was built.")
        return
    deployment.built_manifest = result.manifest
    if deployment.adapter == "process":
        write_log(deployment, "deploy", ["It is built. Its process is started."])
        begin_release(deployment, "stopped")
        forget_archives(workspace.id)
        return
    row = manifest_row(project.account_id, result.manifest)
    assert row is not None
    deployment.tree_hash = readable_tree(row)
    entries = tree_entries(project.account_id, deployment.tree_hash)
    size = sum(each.size for each in entries)
    deployment.detail = {
        **deployment.detail,
        **{"folder": result.folder, "files": len(entries), "bytes": size},
    }
    write_log(deployment, "build", [f"Built {len(entries):,} files, {size:,} bytes, in {result.folder}."])
    try:
        release_here(project, workspace, deployment)
    except DomainError as error:
        fail(deployment, error.message)


def _locked(id: str) -> Deployment | None:
    found = db.session.get(Deployment, id)
    if found is None:
        return None
    lock_name(f"deploy {found.workspace_id}")
    db.session.refresh(found)
    adapter_of(found.adapter)
    return found
