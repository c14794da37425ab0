"""The blueprint of the pages of runs of action items, how their routes are made, and which run they show."""

from collections.abc import Callable
from typing import ParamSpec

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from models.insights.item_run_reading import FoundRun, own_run, run_not_found
from views.projects.pages.project_blueprint import viewed_project, viewer
from views.web.guards import limiter
from views.web.org_guards import account_page_for, org_caller

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

bp = Blueprint("item_runs", __name__)


def run_page(path: str) -> Callable[[View[P]], View[P]]:
    """Decorator: a page below `/projects/<project_id>` of the signed-in account, and of an organisation."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/projects/<project_id>{path}")(guarded)
        return guarded

    return decorate


def run_form(path: str, limit: str = "60/minute;2000/day") -> Callable[[View[P]], View[P]]:
    """Decorator: a form that posts there, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/projects/<project_id>{path}")(guarded)
        return guarded

    return decorate


def viewed_run(project_id: str, run_id: str, capability: str = "see_projects") -> FoundRun:
    """A run in a project of the viewed account. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, capability)
    found = own_run(viewer(), run_id, capability)
    if found.project.id != project.id:
        raise run_not_found()
    return found


def run_address(found: FoundRun) -> str:
    """Where the page of a run is."""
    return url_for("item_runs.run", project_id=found.project.id, run_id=found.run.id)
