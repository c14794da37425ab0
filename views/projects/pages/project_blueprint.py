"""The blueprint of the pages of projects, how their routes are made, and whose projects they show."""

from collections.abc import Callable
from typing import ParamSpec, cast

from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue

from models.accounts import Session
from models.core.errors import DomainError, Invalid, NotFound
from models.orgs import can
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_access import own_project, own_workspace, project_not_found
from models.projects.workspaces.head_moves import Mover
from views.web.guards import current_session, limiter
from views.web.org_guards import account_page_for, current_membership, org_caller, signed_in, viewed_account

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

bp = Blueprint("projects", __name__)


def project_page(path: str) -> Callable[[View[P]], View[P]]:
    """Decorator: a page below `/projects` of the signed-in account, and of an organisation."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/projects{path}")(guarded)
        return guarded

    return decorate


def project_form(path: str, limit: str = "60/minute;2000/day") -> Callable[[View[P]], View[P]]:
    """Decorator: a form that posts below `/projects` of the signed-in account, and of an organisation, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/projects{path}")(guarded)
        return guarded

    return decorate


def viewer() -> ProjectCaller:
    """Who looks, as the domain knows callers."""
    return ProjectCaller(signed_in().id, viewed_account(), cast(Session, current_session()))


def viewed_project(id: str, capability: str = "see_projects", *, deleted: bool = False) -> Project:
    """A project of the viewed account. Raises NotFound, Forbidden."""
    found = own_project(viewer(), id, capability, deleted=deleted)
    if found.account_id != viewed_account().id:
        raise project_not_found()
    return found


def viewed_workspace(project: Project, id: str, capability: str = "see_projects") -> Workspace:
    """A workspace of the project. Raises NotFound, Forbidden."""
    of, found = own_workspace(viewer(), id, capability)
    if of.id != project.id:
        raise NotFound("There is no such workspace.")
    return found


def viewer_may(capability: str) -> bool:
    """Whether the viewer's role allows it; in one's own account, everything is."""
    return "org" not in g or can(current_membership(), capability)


def web_mover() -> Mover:
    """A move by whoever is signed in."""
    return Mover(signed_in().id, "web")


def asked(name: str) -> str:
    """A parameter of the query, without NUL."""
    return request.args.get(name, "").replace("\0", "")


def entered(name: str) -> str:
    """A field of the form, with plain line ends and without NUL."""
    return request.form.get(name, "").replace("\0", "").replace("\r\n", "\n")


def problems_of(error: DomainError, field: str) -> dict[str, str]:
    """The messages of an error by field; those without one go to `field`."""
    fields = (error.fields or {}) if isinstance(error, Invalid) else {}
    return {field: error.message} if len(fields) < 2 else dict(fields)
