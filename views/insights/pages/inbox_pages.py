"""The inbox of a project: what waits for somebody, an item of it, and one written by hand."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.conversations.engines.store_agent import NeedsClient
from models.core.db import db, now
from models.core.errors import Conflict, Invalid
from models.insights.action_item import ITEM_TYPES, SEVERITIES, STORED_TYPES
from models.insights.analysing import analyses_of, ask_analysis
from models.insights.decision_verbs import decisions_in
from models.insights.item_listing import ItemFilter, ListedItem, items_of, listed
from models.insights.item_run_reading import runs_of_item, waiting_patches
from models.insights.item_verbs import ItemChanges, NewItem, OwnedItem, change_item, create_item, item_in
from models.projects import Project
from models.projects.project_listing import main_first, people_of, workspaces_named
from models.projects.sync.sync_candidates import sync_candidates
from models.projects.workspaces.workspace_editing import workspaces_of
from models.store.catalogue.listing import newest_versions
from views.insights.pages.insight_blueprint import insight_form, insight_page
from views.projects.pages.project_blueprint import (
    asked,
    entered,
    problems_of,
    viewed_project,
    viewer,
    viewer_may,
)
from views.web.htmx import render, see_other, toast
from views.web.org_guards import signed_in

SHOWN = 200
"""Items of a view."""
FIELDS = ("title", "type", "severity", "workspace", "description", "suggested_prompt", "files")
VIEWS = {
    "": "pending",
    "running": "running",
    "done": "resolved",
    "applied": "applied",
    "dismissed": "dismissed",
}
"""The status that a view lists; `snoozed` lists pending ones that sleep."""
SNOOZES = {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}
TYPES = {
    "drift": "Drift",
    "refactoring": "Refactoring",
    "security": "Security",
    "test_coverage": "Tests",
    "build_failure": "Failure",
}
WATCHED = (
    "Security and complexity of the code, secrets in files, missing tests, citations and links that lead nowhere, cycles of imports,"
    " workspaces that drift from main, and deployments that fail. It looks again after each change; no model is asked."
)


@insight_page("/inbox")
def inbox(project_id: str) -> ResponseReturnValue:
    """List what waits in a project: patches, syncs that were begun, decisions to review, and items. Query: `view`, `type`, `severity`,
    `workspace`, `mine`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    query = {name: asked(name) for name in ("view", "type", "severity", "workspace", "mine")}
    items = _items(project, query)
    first = query["view"] == ""
    filtered = any(query[name] for name in ("type", "severity", "workspace", "mine"))
    waiting = first and not filtered
    workspaces = main_first(project, workspaces_of(project.id))
    analyses = analyses_of(project.id)
    return render(
        "insights/inbox.html",
        project=project,
        query=query,
        items=items,
        filtered=filtered,
        cut=len([each for each in items if each.row]) == SHOWN,
        patches=waiting_patches([project.id]) if waiting else [],
        syncs=[each for each in sync_candidates(project, signed_in().id) if each.preview_id]
        if waiting
        else [],
        proposed=len(decisions_in(project, "proposed", 100)) if waiting else 0,
        people=people_of(each.row.assignee_id for each in items if each.row),
        choices=[(each.id, each.name[:60]) for each in workspaces],
        types=TYPES,
        watched=WATCHED,
        analysis=analyses.get(project.main_workspace_id or ""),
        may_edit=viewer_may("edit_projects"),
    )


@insight_form("/inbox", "20/minute;300/day")
def analyse_again(project_id: str) -> ResponseReturnValue:
    """Analyse the files of the main workspace now. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    main = workspaces_named(project.id, [project.main_workspace_id]).get(project.main_workspace_id or "")
    try:
        if main is None:
            raise Conflict("The project has no main workspace yet. Push a snapshot first.")
        queued = ask_analysis(project, main, at_once=True).queued
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "bad")
    else:
        db.session.commit()
        said = (
            "The files are being analysed. What is found shows here."
            if queued
            else "Nothing changed since the last analysis."
        )
        toast(said, "good" if queued else "info")
    return see_other(url_for("insights.inbox", project_id=project.id))


@insight_page("/items/new")
def new_item(project_id: str) -> ResponseReturnValue:
    """Show the form of an item. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    return _form(
        project, {"type": "refactoring", "severity": "info", "workspace": project.main_workspace_id or ""}, {}
    )


@insight_form("/items")
def add_item(project_id: str) -> ResponseReturnValue:
    """Write an item; 422 with what was entered. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    values = {name: entered(name).strip() for name in FIELDS}
    known = {each.id for each in workspaces_of(project.id)}
    if values["workspace"] not in known:
        return _form(project, values, {"workspace": "Choose a workspace."})
    new = NewItem(
        values["workspace"],
        values["type"],
        values["title"],
        values["severity"],
        values["description"],
        [line.strip() for line in values["files"].split("\n") if line.strip()],
        values["suggested_prompt"],
    )
    try:
        owned = create_item(viewer(), new)
    except Invalid as error:
        db.session.rollback()
        return _form(project, values, problems_of(error, "files"))
    db.session.commit()
    toast("The item is in the inbox.")
    return see_other(_address(owned))


@insight_page("/items/<item_id>")
def item(project_id: str, item_id: str) -> ResponseReturnValue:
    """An item, and what can be done with it. Raises NotFound, Forbidden."""
    return _item_page(item_in(viewed_project(project_id), item_id), "")


@insight_form("/items/<item_id>")
def change(project_id: str, item_id: str) -> ResponseReturnValue:
    """Snooze, wake, assign, dismiss or reopen an item, as the field `do` says; 422 with the reason. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    owned = item_in(project, item_id)
    try:
        changes, said = _wanted(entered("do"))
        owned = change_item(viewer(), owned.item.id, changes)
    except (Invalid, NeedsClient) as error:
        db.session.rollback()
        return _item_page(item_in(project, item_id), error.message)
    db.session.commit()
    toast(said)
    away = changes.status == "dismissed" or changes.snoozed_until not in ("unset", None)
    return see_other(url_for("insights.inbox", project_id=project.id) if away else _address(owned))


def _wanted(verb: str) -> tuple[ItemChanges, str]:
    """What a form wants, and what is said when it is done. Raises Invalid (422)."""
    if verb.removeprefix("snooze-") in SNOOZES:
        return ItemChanges(
            snoozed_until=now() + SNOOZES[verb.removeprefix("snooze-")]
        ), "It comes back later."
    match verb:
        case "wake":
            return ItemChanges(snoozed_until=None), "It is back in the inbox."
        case "dismiss":
            return ItemChanges(status="dismissed", reason=entered("reason")), "The item is dismissed."
        case "reopen":
            return ItemChanges(status="pending"), "The item is open again."
        case "mine":
            return ItemChanges(assignee_id=signed_in().id), "It is yours."
        case "nobody":
            return ItemChanges(assignee_id=None, assigned_agent=None), "Nobody has it any more."
        case "agent":
            return ItemChanges(assigned_agent=entered("agent")), "The agent has it."
    raise Invalid("Choose what to do with the item.")


def _items(project: Project, query: Mapping[str, str]) -> list[ListedItem]:
    view = query["view"]
    wanted = ItemFilter(
        project.id,
        query["workspace"] or None,
        VIEWS.get(view, "pending"),
        query["type"] if query["type"] in ITEM_TYPES else None,
        query["severity"] if query["severity"] in SEVERITIES else None,
        signed_in().id if query["mine"] == "1" else None,
        view == "snoozed",
    )
    return items_of(viewer(), wanted, SHOWN)


def _item_page(owned: OwnedItem, problem: str) -> ResponseReturnValue:
    row, may_edit = owned.item, viewer_may("edit_projects")
    return render(
        "insights/item.html",
        status=422 if problem else 200,
        project=owned.project,
        item=listed(row, owned.project, owned.workspace),
        row=row,
        types=TYPES,
        asleep=row.snoozed_until is not None and row.snoozed_until > now(),
        people=people_of([row.assignee_id, row.created_by, row.dismissed_by]),
        mine=row.assignee_id == signed_in().id,
        runs=runs_of_item(row.id, 5),
        agents=_agents() if may_edit and row.status == "pending" else [],
        chosen_agent=entered("agent") if problem else row.assigned_agent or "",
        problem=problem,
        may_edit=may_edit,
    )


def _agents() -> list[str]:
    """Agents of the store that a field suggests, those first that published last."""
    return list(dict.fromkeys(f"{each.publisher_id}/{each.agent_id}" for each in newest_versions(limit=100)))


def _form(project: Project, values: Mapping[str, Any], errors: Mapping[str, str]) -> ResponseReturnValue:
    workspaces: Sequence[Any] = main_first(project, workspaces_of(project.id))
    return render(
        "insights/new_item.html",
        status=422 if errors else 200,
        project=project,
        values={name: values.get(name, "") for name in FIELDS},
        errors=errors,
        workspaces=[(each.id, each.name) for each in workspaces],
        types=[(each, TYPES[each]) for each in STORED_TYPES],
        severities=[(each, each.capitalize()) for each in SEVERITIES],
    )


def _address(owned: OwnedItem) -> str:
    return url_for("insights.item", project_id=owned.project.id, item_id=owned.item.id)
