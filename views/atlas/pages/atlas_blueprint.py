"""The blueprint of the tab Knowledge, how its routes are made, and what its pages share."""

from collections.abc import Callable
from typing import ParamSpec

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from models.projects import Project
from views.web.guards import limiter
from views.web.org_guards import account_page_for, org_caller

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

bp = Blueprint("atlas", __name__)


def knowledge_page(path: str) -> Callable[[View[P]], View[P]]:
    """Decorator: a page below a project of the signed-in account, and of an organisation."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/projects/<project_id>{path}")(guarded)
        return guarded

    return decorate


def knowledge_form(path: str, limit: str = "30/minute;600/day") -> Callable[[View[P]], View[P]]:
    """Decorator: a form that posts below a project, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/projects/<project_id>{path}")(guarded)
        return guarded

    return decorate


def concept_href(project: Project, concept_id: str) -> str:
    """The page of a concept."""
    return url_for("atlas.concept", project_id=project.id, id=concept_id)


def line_href(project: Project, path: str, line: int, at: str | None = None) -> str:
    """A line of a file, of the snapshot `at`, else as the project has it now."""
    return url_for("projects.files", project_id=project.id, path=path, at=at, _anchor=f"L{line}")
