"""The blueprint of the pages of assistants, how their routes are made, and whose assistants they show."""

from collections.abc import Callable
from typing import ParamSpec

from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue

from models.assistants import SavedAssistant, readable_assistant
from models.core.errors import DomainError, Invalid
from models.orgs import can
from views.web.guards import limiter
from views.web.org_guards import account_page, current_membership, org_caller, signed_in, viewed_account

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

bp = Blueprint("assistants", __name__)


def assistant_page(path: str) -> Callable[[View[P]], View[P]]:
    """Decorator: a page below `/assistants` of the signed-in account, and of an organisation."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/assistants{path}")(guarded)
        return guarded

    return decorate


def assistant_action(path: str, limit: str = "60/minute;2000/day") -> Callable[[View[P]], View[P]]:
    """Decorator: a form that posts below `/assistants` of the signed-in account, and of an organisation, with a limit for each caller."""

    def decorate(view: View[P]) -> View[P]:
        guarded = account_page(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/assistants{path}")(guarded)
        return guarded

    return decorate


def viewed_assistant(
    assistant_id: str, version: int | None = None, *, deleted: bool = False
) -> SavedAssistant:
    """The viewed account's assistant, with its current version or this one. Raises NotFound, Forbidden."""
    return readable_assistant(signed_in().id, viewed_account(), assistant_id, version, deleted=deleted)


def viewer_may(capability: str) -> bool:
    """Whether the viewer's role allows it; in one's own account, everything is."""
    return "org" not in g or can(current_membership(), capability)


def form_text(name: str) -> str:
    """A field of the form, with plain line ends and without NUL."""
    return request.form.get(name, "").replace("\0", "").replace("\r\n", "\n")


def problems_of(error: DomainError, field: str) -> dict[str, str]:
    """The messages of an error by field; those without one go to `field`."""
    fields = (
        {name: text for name, text in (error.fields or {}).items() if name}
        if isinstance(error, Invalid)
        else {}
    )
    return fields or {field: error.message}
