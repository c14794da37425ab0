"""What a deployment that is built will do, and the commands that its files name."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from models.core.db import extension
from models.core.errors import DomainError
from models.deployments.deployment_adapter import DeploymentPlan, NotDeployable, variable_names
from models.deployments.deployment_setting import DeploymentSetting
from models.deployments.runtime_detection import MAX_READ, DetectedNeeds, needs_of
from models.projects.project import Project
from models.projects.snapshots.blob_packs import BlobDamaged, read_blobs
from models.projects.snapshots.manifest_store import tree_entries
from models.projects.snapshots.tree_reading import entries_at
from models.runners import detect_checks, level_state, open_workplace
from models.runners.changed_tree import tree_of

NAMED_IN = ("package.json", "Procfile")


def build_plan(project: Project, root: str, setting: DeploymentSetting, **facts: str) -> DeploymentPlan:
    """The plan of a tree that is built as the settings say; what they say is kept, so that a later change does not reach this deployment. Raises
    NotDeployable where nothing can be built."""
    state = level_state("process")
    if not state.available:
        raise NotDeployable(f"It cannot be built here. {state.sentence}")
    entries = [each for each in tree_entries(project.account_id, root) if each.kind == "file"]
    wishes = {
        "install": setting.install_command,
        "build": setting.build_command,
        "folder": setting.folder,
        "hosts": list(setting.build_hosts),
        **facts,
    }
    return DeploymentPlan(
        root,
        ".",
        len(entries),
        sum(each.size for each in entries),
        variable_names(project.id, setting.workspace_id),
        builds=True,
        facts={"build": wishes},
    )


def found_commands(account_id: str, root: str) -> DetectedNeeds:
    """The commands that a tree names: of what is found, only these are told. Reads two files. Raises FilesUnavailable (503), BlobDamaged."""
    entries = entries_at(account_id, root, NAMED_IN)

    def read(paths: Collection[str]) -> Mapping[str, str]:
        wanted = {
            path: entries[path].hash or ""
            for path in paths
            if path in entries and entries[path].kind == "file" and entries[path].size <= MAX_READ
        }
        found = dict(read_blobs(account_id, set(wanted.values())))
        return {path: found[hash].decode(errors="replace") for path, hash in wanted.items() if hash in found}

    return needs_of(entries.keys(), read)


class BuildCommands(NamedTuple):
    """The commands that are run where the settings name none; None: nothing is."""

    install: str | None = None
    build: str | None = None
    start: str | None = None


def commands_of(account_id: str, manifest_hash: str | None) -> BuildCommands:
    """The commands that the files of a manifest name; none if they cannot be read. Reads a dozen files."""
    if manifest_hash is None:
        return BuildCommands()
    try:
        place = open_workplace("virtual", account_id, manifest_hash)
        try:
            checks = detect_checks(place)
        finally:
            place.close()
        root = tree_of(account_id, manifest_hash)
        start = found_commands(account_id, root).start_command if root else None
    except (DomainError, BlobDamaged):
        return BuildCommands()
    found = {kind: [each.command for each in checks if each.kind == kind] for kind in ("install", "build")}
    return BuildCommands(" && ".join(found["install"]) or None, " && ".join(found["build"]) or None, start)


def processes_offered() -> bool:
    """Whether the operator lets deployments run as processes of this server."""
    return bool(extension("settings").stoa_processes)
