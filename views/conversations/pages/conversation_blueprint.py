"""The blueprint of the pages of conversations, how their routes are made, and whose conversations they show."""

from collections.abc import Callable
from typing import ParamSpec

from flask import Blueprint
from flask.typing import ResponseReturnValue

from models.conversations import FoundConversation, own_conversation
from models.conversations.conversation_access import conversation_not_found
from views.projects.pages.project_blueprint import viewed_project, viewer
from views.web.guards import limiter
from views.web.org_guards import account_page_for, org_caller

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

bp = Blueprint("conversations", __name__)


def conversation_page(path: str = "") -> Callable[[View[P]], View[P]]:
    """Decorator: a page below `/projects/<project_id>/conversations` of the signed-in account, and of an organisation."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/projects/<project_id>/conversations{path}")(guarded)
        return guarded

    return decorate


def conversation_form(path: str = "", limit: str = "120/minute") -> Callable[[View[P]], View[P]]:
    """Decorator: a form that posts below `/projects/<project_id>/conversations`, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page_for("see_projects")(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/projects/<project_id>/conversations{path}")(guarded)
        return guarded

    return decorate


def viewed_conversation(project_id: str, id: str, capability: str = "see_projects") -> FoundConversation:
    """A conversation of a project of the viewed account. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, capability)
    found = own_conversation(viewer(), id, capability)
    if found.project.id != project.id or found.conversation.purpose != "chat":
        raise conversation_not_found()
    return found
