"""The user's own page, `/profile`, with tabs registered by the rooms (contract section 6.3)."""

from collections.abc import Callable

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound

bp = Blueprint("profile", __name__)

Tab = Callable[[], ResponseReturnValue]

_tabs: dict[str, Tab] = {}


def tab(name: str) -> Callable[[Tab], Tab]:
    """Register a view at `/profile?tab=<name>`. The view checks access itself."""

    def register(view: Tab) -> Tab:
        _tabs[name] = view
        return view

    return register


@bp.get("/profile")
def profile() -> ResponseReturnValue:
    """Show the requested tab, by default usage."""
    view = _tabs.get(request.args.get("tab") or "usage")
    if view is None:
        raise NotFound("There is no such page")
    return view()
