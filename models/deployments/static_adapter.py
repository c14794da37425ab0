"""The adapter `static`: serves a folder of a snapshot, or of what was built from it, straight from the stored bytes, on an origin of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.core.db import db
from models.core.errors import DomainError
from models.deployments.build_planning import build_plan, found_commands
from models.deployments.deployment import Deployment
from models.deployments.deployment_adapter import (
    Capabilities,
    DeploymentFailed,
    DeploymentHealth,
    DeploymentOutcome,
    DeploymentPlan,
    DeploymentTask,
    Log,
    NotDeployable,
    ProviderLine,
    register_adapter,
)
from models.deployments.deployment_setting import DeploymentSetting
from models.deployments.site_addresses import site_hosts
from models.deployments.site_serving import INDEX, ServedTree, find_path, subtree
from models.projects.project import Project
from models.projects.snapshots.blob_packs import BlobDamaged, blob_row, existing_blobs
from models.projects.snapshots.manifest_store import tree_entries
from models.projects.snapshots.tree_reading import entries_at
from models.projects.workspaces.workspace import Workspace

FOLDERS = ("dist", "build", "out", "public", "_site", ".")
"""Where an index.html is looked for, in this order."""


class StaticAdapter:
    """Static sites of this server."""

    name = "static"
    capabilities = Capabilities("Static site on this server", instant=True, releases=True)

    def plan(self, project: Project, root: str, setting: DeploymentSetting) -> DeploymentPlan:
        """The folder that is served, and that all of its files are stored; or that it is built first. Raises NotDeployable."""
        if site_hosts() is None:
            raise NotDeployable(
                "This server serves no sites yet: the operator sets STOA_SITES_URL, such as https://{name}.sites.example.org."
            )
        if wants_build(project.account_id, root, setting):
            return build_plan(project, root, setting)
        plan = folder_plan(project.account_id, root, setting)
        missing = missing_files(project.account_id, plan.tree_hash)
        if missing:
            raise NotDeployable(
                f"The bytes of {len(missing)} files are not stored, such as {missing[0][:200]}. Push the snapshot again."
            )
        return plan

    def task(
        self, project: Project, workspace: Workspace, deployment: Deployment, plan: DeploymentPlan
    ) -> DeploymentTask:
        """Nothing is copied: the release is a pointer, which the caller moves."""
        raise NotImplementedError

    def deploy(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """As `task`."""
        raise NotImplementedError

    def release(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """As `task`."""
        raise NotImplementedError

    def logs(self, task: DeploymentTask) -> Sequence[ProviderLine]:
        """It runs nothing that could write."""
        raise DeploymentFailed("A static site writes no log.")

    def health(self, deployment: Deployment) -> DeploymentHealth:
        """Whether its first page can be read."""
        project = db.session.get(Project, deployment.project_id)
        if project is None or deployment.tree_hash is None:
            return DeploymentHealth(False, "There is nothing to show.")
        try:
            found = find_path(ServedTree(project.account_id, deployment.tree_hash), "/")
            stored = found.entry and blob_row(project.account_id, found.entry.hash or "")
        except (BlobDamaged, DomainError):
            stored = None
        if stored and found.status == 200:
            return DeploymentHealth(True, "Its first page answers.")
        return DeploymentHealth(False, "Its first page cannot be read.")

    def destroy(self, provider_resource_id: str, token: str, metadata: Mapping[str, Any]) -> None:
        """It makes no resources."""
        raise DeploymentFailed("Static sites have no resources.")


def folder_plan(account_id: str, root: str, setting: DeploymentSetting) -> DeploymentPlan:
    """The folder of a tree that has the site: that of the settings, else the first of `FOLDERS` with an index.html. Raises NotDeployable."""
    folder = setting.folder or _found_folder(account_id, root)
    tree = subtree(account_id, root, folder)
    if tree is None:
        raise NotDeployable(f"The snapshot has no folder {folder}. Choose another folder in the settings.")
    entries = [each for each in tree_entries(account_id, tree) if each.kind == "file"]
    if all(each.path != INDEX for each in entries):
        where = "The snapshot" if folder == "." else f"The folder {folder}"
        raise NotDeployable(f"{where} has no index.html. Choose the folder with the site in the settings.")
    return DeploymentPlan(tree, folder, len(entries), sum(each.size or 0 for each in entries))


def missing_files(account_id: str, tree: str) -> list[str]:
    """The paths of a tree whose bytes are not stored, in order."""
    files = [each for each in tree_entries(account_id, tree) if each.kind == "file"]
    stored = existing_blobs(account_id, {each.hash for each in files if each.hash})
    return sorted(each.path for each in files if each.hash not in stored)


def wants_build(account_id: str, root: str, setting: DeploymentSetting) -> bool:
    """Whether a site is built: if a build command is set; else if the files have one and no built folder, and none was chosen."""
    if setting.build_command or setting.folder:
        return bool(setting.build_command)
    built = [f"{folder}/{INDEX}" for folder in FOLDERS if folder != "."]
    if any(path in entries_at(account_id, root, built) for path in built):
        return False
    return found_commands(account_id, root).build_command is not None


def _found_folder(account_id: str, root: str) -> str:
    paths = {folder: INDEX if folder == "." else f"{folder}/{INDEX}" for folder in FOLDERS}
    found = entries_at(account_id, root, [*paths.values(), "package.json"])
    folder = next((each for each, path in paths.items() if path in found), None)
    if folder is not None:
        return folder
    if "package.json" in found:
        raise NotDeployable(
            "No built site was found: there is no index.html in dist, build, out, public or at the root. Set a build command, or"
            " build it and push the built folder too, or choose the folder in the settings."
        )
    raise NotDeployable(
        "No site was found: there is no index.html at the root, or in dist, build, out or public. Add one, or choose the folder"
        " in the settings."
    )


register_adapter(StaticAdapter())
