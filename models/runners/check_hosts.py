"""The hosts that the checks of a project may fetch packages from: none unless its managers name some, and only while an install runs."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from models.core.db import db, now
from models.core.errors import DomainError, Invalid
from models.orgs import record_org
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project import MAX_CHECK_HOSTS
from models.projects.project_access import own_project
from models.projects.workspaces.workspace_files import head_manifest
from models.runners.check_detection import Check, detect_checks
from models.runners.isolation_levels import open_workplace

MAX_HOST = 253
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
HELP = "Write names such as packages.example.com, or *.example.com for all below it."


class FoundChecks(NamedTuple):
    """The checks of the files of a project's main workspace, and the hosts that their installs fetch from; none without files."""

    checks: list[Check]
    hosts: list[str]


def hosts_for_checks(project_id: str) -> tuple[str, ...]:
    """The hosts that installs of the project may reach now."""
    project = db.session.get(Project, project_id)
    return tuple(project.check_hosts) if project is not None else ()


def set_check_hosts(caller: ProjectCaller, project_id: str, hosts: Sequence[str]) -> Project:
    """Let installs of the project reach these hosts, and no others; none to keep them offline. Locks the project, flushes. Raises NotFound,
    Forbidden unless the caller manages the project, Invalid (422)."""
    project = own_project(caller, project_id, "manage_projects", lock=True)
    wanted, before = checked_hosts(hosts), list(project.check_hosts)
    if wanted == before:
        return project
    project.check_hosts, project.updated_at = wanted, now()
    db.session.flush()
    if project.org_id is not None:
        record_org(
            project.org_id,
            "project.check_hosts",
            project.id,
            before={"hosts": before},
            after={"hosts": wanted},
        )
    return project


def checked_hosts(hosts: Iterable[str]) -> list[str]:
    """Names of hosts in lower case, sorted, each once; blank ones are left out. Raises Invalid (422)."""
    found = sorted({name for each in hosts if (name := each.strip().lower().removesuffix("."))})
    for name in found:
        if problem := host_problem(name):
            message = f"{name[:80]!r} {problem}. {HELP}"
            raise Invalid(message, fields={"hosts": message})
    if len(found) > MAX_CHECK_HOSTS:
        message = f"A project has at most {MAX_CHECK_HOSTS} hosts for its checks."
        raise Invalid(message, fields={"hosts": message})
    return found


def host_problem(name: str) -> str:
    """What is wrong with the name of a host, in words after it; empty if nothing is."""
    labels = name.removeprefix("*.").split(".")
    if "://" in name or "/" in name:
        return "is an address, not the name of a host"
    if ":" in name:
        return "has a port; only HTTPS at its usual port is reached"
    if len(name) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        return "is no name of a host"
    if len(labels) < 2 or labels[-1].isdigit():
        return "is no public name"
    return ""


def found_checks(project: Project) -> FoundChecks:
    """What the main workspace of the project is checked with. Reads a dozen files. Raises FilesUnavailable (503), BlobDamaged."""
    main = db.session.get(Workspace, project.main_workspace_id) if project.main_workspace_id else None
    hash = main.current_manifest_hash if main is not None else None
    if main is not None and hash is None:
        hash = head_manifest(project.id, main.current_snapshot_id)
    if hash is None:
        return FoundChecks([], [])
    try:
        workplace = open_workplace("virtual", project.account_id, hash)
    except DomainError as error:
        if error.status >= 500:
            raise
        return FoundChecks([], [])
    try:
        checks = detect_checks(workplace)
    finally:
        workplace.close()
    return FoundChecks(checks, sorted({host for check in checks for host in check.hosts}))
