"""The switcher between the viewer's own account and organisations. It keeps the kind of page where it can."""

from typing import NamedTuple

from flask import current_app, g, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from models.accounts import User
from models.orgs import CAN, OrgMember, memberships
from views.orgs.pages.orgs_blueprint import bp

SECTIONS = {"usage": "usage", "api-keys": "keys", "billing": "billing", "statement": "billing"}
"""The section of an organisation with the same kind of page as a tab of one's own account."""
TABS = {"usage": "usage", "keys": "api-keys", "billing": "billing"}
"""The tab of one's own account with the same kind of page as a section of an organisation."""
BILLING = "see_billing"


class SwitchTarget(NamedTuple):
    """An account to switch to: its id and name for the picture, a note, the URL, and whether it is the page's."""

    id: str
    name: str
    note: str
    href: str
    current: bool
    square: bool


def switch_targets(viewer: User) -> list[SwitchTarget]:
    """The viewer's own account and organisations; empty without organisations. One statement."""
    found = memberships(viewer.id)
    here = g.get("org")
    if not found and here is None:
        return []
    section, capability = _section()
    own = SwitchTarget(
        viewer.id, viewer.display_name, "Your own account", _own_page(section), here is None, False
    )
    return [
        own,
        *(
            SwitchTarget(
                org.id,
                org.name,
                member.role.capitalize(),
                _org_page(org.slug, section if _may(member, capability) else ""),
                here is not None and here.id == org.id,
                True,
            )
            for org, member in found
        ),
    ]


def _section() -> tuple[str, str | None]:
    """The section of the page below an organisation's URL, and the capability it needs; empty if there is none."""
    parts = request.path.split("/")
    if parts[1] == "orgs":
        section = parts[3] if len(parts) > 3 else ""
    elif request.endpoint == "profile.profile":
        section = SECTIONS.get(request.args.get("tab", "usage"), "")
    else:
        section = {"runs": "runs", "publishers": "settings"}.get(parts[1], "")
    view = _view_of(_org_page("any", section)) if section else None
    if view is None:
        return "", None
    return section, BILLING if section == "billing" else getattr(view, "org_capability", None)


def _view_of(path: str) -> object | None:
    adapter = current_app.url_map.bind("")
    try:
        endpoint, _ = adapter.match(path, method="GET")
    except (HTTPException, RequestRedirect):
        return None
    return current_app.view_functions.get(endpoint)


def _may(member: OrgMember, capability: str | None) -> bool:
    return capability is None or member.role in CAN[capability]


def _org_page(slug: str, section: str) -> str:
    overview = url_for("orgs.overview", slug=slug)
    return f"{overview}/{section}" if section else overview


def _own_page(section: str) -> str:
    if section == "runs":
        return url_for("runs.runs")
    if section == "settings":
        return url_for("publishers.mine")
    return url_for("profile.profile", tab=TABS.get(section, "usage"))


bp.add_app_template_global(switch_targets)
