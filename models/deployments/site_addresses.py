"""Names of sites, and the origin that each has: a host of its own, never the console's."""

import hashlib
import re
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import select

from models.core.db import db, extension, lock_name, now
from models.core.errors import Conflict, Invalid
from models.core.settings import Settings
from models.deployments.deployment import DeployedSite
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_workspace
from models.projects.workspaces.workspace import Workspace

MIN_NAME, MAX_NAME = 4, 40
_KEPT = """account accounts admin api app assets auth billing cdn console dashboard docs help login mail root sites static
    status stoa support system test www"""
RESERVED = frozenset(_KEPT.split())
_CHOSEN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class SiteHosts(NamedTuple):
    """The hosts of sites: `pattern` is an address with `{name}`, `suffix` what follows the name in the host."""

    pattern: str
    suffix: str

    def address(self, name: str) -> str:
        """The address of a site."""
        return self.pattern.replace("{name}", name) + "/"

    def name_in(self, host: str) -> str | None:
        """The name in a `Host` header that is one of a site's; None for any other."""
        plain = re.sub(r":[0-9]{1,5}$", "", host.lower(), flags=re.ASCII).removesuffix(".")
        name, dot, rest = plain.partition(".")
        return name if dot and rest == self.suffix else None


def site_hosts(settings: Settings | None = None) -> SiteHosts | None:
    """Where sites are served, None if this server serves none."""
    pattern = (settings or extension("settings")).sites_url
    if not pattern:
        return None
    host = urlsplit(pattern.replace("{name}", "name")).hostname or ""
    return SiteHosts(pattern, host.removeprefix("name."))


def site_of(workspace: Workspace) -> DeployedSite | None:
    """The site of a workspace; None before its first deployment."""
    return db.session.get(DeployedSite, workspace.id)


def site_for(project: Project, workspace: Workspace) -> DeployedSite:
    """The site of a workspace, made with a name that cannot be guessed if there is none; its row locked until the transaction ends.
    Flushes."""
    lock_name(f"site {workspace.id}")
    query = select(DeployedSite).where(DeployedSite.workspace_id == workspace.id).with_for_update()
    found = db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if found is None:
        found = DeployedSite(
            workspace_id=workspace.id,
            project_id=project.id,
            name=first_name(project, workspace),
            created_at=now(),
        )
        db.session.add(found)
        db.session.flush()
    return found


def sites_in(project_id: str) -> Collection[DeployedSite]:
    """The sites of a project."""
    return db.session.scalars(select(DeployedSite).where(DeployedSite.project_id == project_id)).all()


def first_name(project: Project, workspace: Workspace) -> str:
    """A name of the whole ids, of which 82 bits are random, with the project's in front for people."""
    slug = "-".join(re.findall(r"[a-z0-9]+", project.name.lower()))[:24].strip("-")
    digest = hashlib.sha256(f"{project.id} {workspace.id}".encode()).hexdigest()[:20]
    return f"{slug}-{digest}" if slug else digest


def name_site(caller: ProjectCaller, workspace_id: str, name: str) -> DeployedSite:
    """Give the site of a workspace a chosen name; its old address ends. Flushes. Raises Invalid (422), Conflict (409) for a name that
    another site has, NotFound, Forbidden."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects")
    name = name.strip().lower()
    site = site_for(project, workspace)
    if name == site.name:
        return site
    if not MIN_NAME <= len(name) <= MAX_NAME or not _CHOSEN.fullmatch(name) or name.startswith("xn-"):
        raise _wrong(
            f"Use {MIN_NAME} to {MAX_NAME} small letters and digits, with single hyphens between them."
        )
    if name in RESERVED:
        raise _wrong("This name is kept for the server. Choose another one.")
    lock_name(f"site name {name}")
    if db.session.scalars(select(DeployedSite.workspace_id).where(DeployedSite.name == name)).first():
        raise Conflict("Another site has this name. Choose another one.", code="site_name_taken")
    site.name = name
    db.session.flush()
    return site


def _wrong(message: str) -> Invalid:
    return Invalid(f"'site_name': {message}", fields={"site_name": message})
