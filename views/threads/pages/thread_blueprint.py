"""The blueprint of the pages of threads, and how their routes are made."""

from collections.abc import Callable
from typing import ParamSpec

from flask import Blueprint
from flask.typing import ResponseReturnValue

from models.threads import Thread, own_thread
from views.web.guards import limiter
from views.web.org_guards import account_page, org_caller, signed_in, viewed_account

P = ParamSpec("P")

bp = Blueprint("threads", __name__)


def thread_page(path: str) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Decorator: a page below `/threads` of the signed-in account, and of an organisation."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        guarded = account_page(view)
        for start in ("", "/orgs/<slug>"):
            bp.get(f"{start}/threads{path}")(guarded)
        return guarded

    return decorate


def thread_form(
    path: str, limit: str = "120/minute"
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Decorator: a form that posts below `/threads` of the signed-in account, and of an organisation, with a limit for each caller."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        guarded = account_page(limiter.limit(limit, key_func=org_caller)(view))
        for start in ("", "/orgs/<slug>"):
            bp.post(f"{start}/threads{path}")(guarded)
        return guarded

    return decorate


def viewed_thread(thread_id: str, *, deleted: bool = False) -> Thread:
    """The viewer's thread of the viewed account. Raises NotFound, also for other members' threads."""
    return own_thread(signed_in().id, viewed_account().id, thread_id, deleted=deleted)
