"""A person's own page, `/profile`: one address whose tabs belong to the rooms (contract section 6.3)."""

from collections.abc import Callable

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound

bp = Blueprint("profile", __name__)

Tab = Callable[[], ResponseReturnValue]

_tabs: dict[str, Tab] = {}


def tab(name: str) -> Callable[[Tab], Tab]:
    """Show the view at `/profile?tab=<name>`. The view guards its own door."""

    def keep(view: Tab) -> Tab:
        _tabs[name] = view
        return view

    return keep


@bp.get("/profile")
def profile() -> ResponseReturnValue:
    """The tab that is asked for; usage when none is."""
    view = _tabs.get(request.args.get("tab") or "usage")
    if view is None:
        raise NotFound("There is no such page")
    return view()
