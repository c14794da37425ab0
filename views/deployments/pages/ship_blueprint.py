"""The blueprint of the pages below “Ship” of a project, how their routes are made, and which workspace they show."""

from collections.abc import Callable, Sequence
from typing import ParamSpec

from flask import Blueprint
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound
from models.deployments import Deployment
from models.deployments.deployment_running import own_deployment
from models.projects import Project, Workspace
from models.projects.project_listing import main_first
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.project_blueprint import asked, viewer
from views.web.guards import limiter
from views.web.org_guards import account_page_for, org_caller

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

bp = Blueprint("deployments", __name__)

STATES = {
    "queued": ("Waiting", "running"),
    "building": ("Building", "running"),
    "releasing": ("Releasing", "running"),
    "checking": ("Checking", "running"),
    "live": ("Live", "ok"),
    "restarting": ("Restarting", "running"),
    "failed": ("Failed", "bad"),
    "rolled_back": ("Rolled back", "held"),
    "stopped": ("Replaced", "plain"),
}
"""What pages call a state, and the kind of its badge."""
TRIGGERS = {"manual": "by hand", "chat": "by a conversation", "auto": "by itself"}


def ship_page(path: str) -> Callable[[View[P]], View[P]]:
    """Decorator: a page below `/projects/<project_id>/ship` of the signed-in account, and of an organisation."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/projects/<project_id>/ship{path}")(guarded)
        return guarded

    return decorate


def ship_form(path: str, limit: str = "60/minute;2000/day") -> Callable[[View[P]], View[P]]:
    """Decorator: a form that posts there, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/projects/<project_id>/ship{path}")(guarded)
        return guarded

    return decorate


def shown_workspace(project: Project, id: str | None = None) -> tuple[Workspace | None, Sequence[Workspace]]:
    """The workspace with this id, else of the query, else the main one, and all of them, the main one first. Raises NotFound."""
    every = main_first(project, workspaces_of(project.id))
    wanted = asked("workspace") if id is None else id
    if not wanted:
        return (every[0] if every else None), every
    found = next((each for each in every if each.id == wanted), None)
    if found is None:
        raise NotFound("The project has no such workspace.")
    return found, every


def viewed_deployment(project: Project, id: str, capability: str = "see_projects") -> Deployment:
    """A deployment of the project. Raises NotFound, Forbidden."""
    of, found = own_deployment(viewer(), id, capability)
    if of.id != project.id:
        raise NotFound("There is no such deployment.")
    return found
