"""The blueprint of the pages of insights, and how their routes are made."""

from collections.abc import Callable
from typing import ParamSpec

from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue

from views.gateway.api.model_calls import gateway
from views.web.guards import limiter
from views.web.org_guards import account_page_for, org_caller

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

bp = Blueprint("insights", __name__)

MAX_SUGGESTED = 400


def insight_page(path: str) -> Callable[[View[P]], View[P]]:
    """Decorator: a page below `/projects/<project_id>` of the signed-in account, and of an organisation."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/projects/<project_id>{path}")(guarded)
        return guarded

    return decorate


def insight_form(path: str, limit: str = "120/minute;3000/day") -> Callable[[View[P]], View[P]]:
    """Decorator: a form that posts there, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/projects/<project_id>{path}")(guarded)
        return guarded

    return decorate


def listed_models() -> list[str]:
    """The models that a page suggests."""
    return [each.requested for each in gateway(current_app).routes.models()][:MAX_SUGGESTED]
