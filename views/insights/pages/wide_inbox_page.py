"""The inbox over all projects of a person, or of an organisation: what waits for them, everything that is open, and what sleeps."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from flask import g, has_request_context, url_for
from flask.typing import ResponseReturnValue

from models.core.errors import Invalid
from models.insights.action_item import ITEM_TYPES, SEVERITIES
from models.insights.item_listing import ItemFilter, ItemPlace, ListedItem, items_of, seen_projects
from models.insights.item_run_reading import waiting_patches
from models.insights.wide_inbox import MOST_COUNTED, begun_syncs, proposed_decisions, waiting_count
from models.orgs import can, memberships
from models.projects import Project
from models.projects.project_listing import people_of
from views.insights.pages.inbox_pages import TYPES
from views.insights.pages.insight_blueprint import bp
from views.projects.pages.project_blueprint import asked, viewer, viewer_may
from views.web.guards import cookie_user
from views.web.htmx import render
from views.web.org_guards import account_page_for, signed_in

PAGE = 50
VIEWS = {"": "For you", "all": "Everything", "snoozed": "Snoozed"}
ASSIGNEES = {"": "anybody", "me": "me", "none": "nobody"}


class InboxPlace(NamedTuple):
    """The arguments of addresses of a project's pages, and whether the viewer may change it."""

    at: dict[str, str]
    may_edit: bool


@bp.get("/inbox")
@bp.get("/orgs/<slug>/inbox")
@account_page_for("see_projects")
def wide_inbox() -> ResponseReturnValue:
    """List what waits for the viewer in all projects that they see, on an organisation's page in its own. Query: `view` (`all`, `snoozed`),
    `project`, `type`, `severity`, `assignee` (`me`, `none`), and `after`, a place in the list. Raises Invalid for another place."""
    org = g.get("org")
    query = {name: asked(name) for name in ("view", "project", "type", "severity", "assignee")}
    after = _place(asked("after"))
    projects = seen_projects(viewer(), account_id=org.id if org else None)
    chosen = [each for each in projects if query["project"] in ("", each.id)]
    items = _items(query, chosen, org.id if org else None, after)
    filtered = any(query[name] for name in ("project", "type", "severity", "assignee"))
    waiting = query["view"] in ("", "all") and after is None and not filtered
    ids = [each.id for each in chosen]
    shown, more = items[:PAGE], len(items) > PAGE
    return render(
        "insights/wide_inbox.html",
        query=query,
        segment_links=[
            (text, url_for("insights.wide_inbox", view=name or None), query["view"] == name)
            for name, text in VIEWS.items()
        ],
        assignees=ASSIGNEES,
        projects=projects,
        project_choices=[(each.id, each.name[:60]) for each in projects],
        places=_places([*projects, *(each.project for each in shown)]),
        items=shown,
        patches=waiting_patches(ids) if waiting else [],
        syncs=begun_syncs(ids, signed_in().id) if waiting else [],
        proposed=proposed_decisions(chosen) if waiting else [],
        people=people_of(each.row.assignee_id for each in shown if each.row),
        types=TYPES,
        filtered=filtered,
        first=after is None,
        more_href=_address(query, shown[-1].place) if more else "",
    )


def inbox_badge() -> str:
    """How much waits for the viewer, for the rail; empty for nothing. One statement. Pages of errors have none."""
    user = cookie_user() if has_request_context() and not g.get("bug") else None
    org = g.get("org")
    if user is None or (org is not None and not viewer_may("see_projects")):
        return ""
    count = waiting_count(user.id, org.id if org is not None else None)
    return f"{MOST_COUNTED - 1}+" if count >= MOST_COUNTED else str(count or "")


@bp.app_context_processor
def _rail() -> dict[str, Any]:
    return {"inbox_badge": inbox_badge}


def _items(
    query: dict[str, str], chosen: list[Project], account_id: str | None, after: ItemPlace | None
) -> list[ListedItem]:
    if query["project"] and not chosen:
        return []
    wanted = ItemFilter(
        project_id=query["project"] or None,
        status="pending",
        type=query["type"] if query["type"] in ITEM_TYPES else None,
        severity=query["severity"] if query["severity"] in SEVERITIES else None,
        assignee={"me": signed_in().id, "none": "none"}.get(query["assignee"]),
        snoozed=query["view"] == "snoozed",
        account_id=account_id,
        urgent_for=signed_in().id if query["view"] == "" else None,
    )
    return items_of(viewer(), wanted, PAGE + 1, after)


def _places(projects: list[Project]) -> dict[str, InboxPlace]:
    """Where the pages of these projects are, by id: below an organisation's address if it owns them."""
    own = signed_in()
    orgs = {org.id: (org.slug, can(member, "edit_projects")) for org, member in memberships(own.id)}
    found = {}
    for each in projects:
        slug, may_edit = orgs.get(each.account_id, ("", each.account_id == own.id))
        found[each.id] = InboxPlace({"project_id": each.id, **({"slug": slug} if slug else {})}, may_edit)
    return found


def _place(text: str) -> ItemPlace | None:
    """The place after which a page begins. Raises Invalid."""
    if not text:
        return None
    parts = text.split("~")
    try:
        rank, weight, seconds, id = int(parts[0][:1]), int(parts[1][:12]), parts[2], parts[3]
        at = datetime.fromisoformat(seconds)
        if len(parts) != 4 or at.tzinfo is None or "\0" in id or len(id) > 300:
            raise ValueError
        return ItemPlace(rank, weight, at, id)
    except (ValueError, IndexError, OverflowError):
        raise Invalid("Invalid page: 'after' must be a place in the list.") from None


def _address(query: Mapping[str, Any], place: ItemPlace) -> str:
    after = f"{place.rank}~{place.weight}~{place.created_at.isoformat()}~{place.id}"
    return url_for(
        "insights.wide_inbox", **{name: value for name, value in query.items() if value}, after=after
    )
