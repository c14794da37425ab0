"""Runs of action items in the browser: start one, watch it, stop it or let it go on, and apply its patch."""

import hashlib
import json
from collections.abc import Mapping

from flask import current_app, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.insights.item_listing import computed_items, source_of
from models.insights.item_run import ActionItemRun
from models.insights.item_run_applying import BaseChanged, apply_run
from models.insights.item_run_control import resume_run, stop_run
from models.insights.item_run_reading import (
    WrongState,
    attempts_of,
    files_now,
    runs_of_item,
    runs_page,
    taken_back,
)
from models.insights.item_run_review import reviewed_patch
from models.insights.item_run_starting import (
    DEFAULT_BUDGET,
    MAX_BUDGET,
    RunWishes,
    default_level,
    run_quote,
    start_run,
)
from models.insights.item_verbs import item_in, item_not_found
from models.projects import Project
from models.projects.project_listing import people_of
from models.runners.isolation_levels import levels
from models.runners.workplace import LEVELS, Level
from views.gateway.api.model_calls import gateway
from views.insights.pages.item_run_blueprint import (
    run_address,
    run_form,
    run_page,
    viewed_run,
)
from views.projects.pages.project_blueprint import (
    entered,
    viewed_project,
    viewer,
    viewer_may,
    web_mover,
)
from views.threads.pages.thread_forms import credits_of
from views.turns.api import turn_engine
from views.web.format import number
from views.web.guards import session_key
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import check_spending, may_spend

PAGE = 50
MAX_SUGGESTED = 400
STARTS = "30/minute;500/day"
FIELDS = (("level", "level-virtual", "Level"), ("model", "model", "Model"), ("budget", "budget", "Budget"))
"""Fields of the form that may be wrong: their name, id and label."""


@run_page("/runs")
def runs(project_id: str) -> ResponseReturnValue:
    """List the runs of a project, newest first. Query: `before`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    found = runs_page(project.id, PAGE + 1, cursor())
    shown, next_href = found[:PAGE], None
    if len(found) > PAGE:
        at = cursor_text(shown[-1].run.created_at, shown[-1].run.id)
        next_href = url_for("item_runs.runs", project_id=project.id, before=at)
    return render(
        "insights/item_runs.html",
        project=project,
        rows=shown,
        people=people_of(each.run.user_id for each in shown),
        next_href=next_href,
        first=cursor() is None,
    )


@run_page("/items/<item_id>/run")
def new_run(project_id: str, item_id: str) -> ResponseReturnValue:
    """The form that starts a run of an item, with what it may cost. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    values = {"level": default_level(project.account_id), "budget": str(DEFAULT_BUDGET), "model": ""}
    return _form(project, item_id, values, {})


@run_form("/items/<item_id>/run", STARTS)
def begin_run(project_id: str, item_id: str) -> ResponseReturnValue:
    """Start a run, and show it; the one that is in progress if there is one. 422 with what was entered if it cannot start. Raises NotFound,
    Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    check_spending()
    _title_of(project, item_id)
    values = {name: entered(name).strip() for name in ("level", "budget", "model", "allow_test_changes")}
    engine = turn_engine()
    try:
        run, turn = start_run(viewer(), item_id, _wishes(values), key=session_key(), owner=engine.owner)
    except DomainError as error:
        db.session.rollback()
        fields = error.fields if isinstance(error, Invalid) else {}
        return _form(project, item_id, values, fields, problem="" if fields else error.message)
    db.session.commit()
    engine.run(turn.id)
    return see_other(url_for("item_runs.run", project_id=project.id, run_id=run.id))


@run_page("/runs/<run_id>")
def run(project_id: str, run_id: str) -> ResponseReturnValue:
    """A run: how it goes, its attempts and checks, and its patch. Query: `seen`, for a fragment only if there is news. Raises NotFound, Forbidden,
    FilesUnavailable (503)."""
    found = viewed_run(project_id, run_id)
    if wants_fragment() and request.args.get("seen") == _mark(found.run):
        return "", 204
    return _page(project_id, run_id)


@run_form("/runs/<run_id>/stop")
def stop(project_id: str, run_id: str) -> ResponseReturnValue:
    """Stop a run; one that has ended stays as it is. Raises NotFound, Forbidden."""
    found = viewed_run(project_id, run_id, "edit_projects")
    engine = turn_engine()
    stopped = stop_run(viewer(), found.run.id, engine.owner)
    active = found.run.active
    db.session.commit()
    for turn_id in stopped.turns:
        engine.run(turn_id)
    toast("The run stops. What it has spent is charged." if active else "The run has ended already.")
    return see_other(run_address(found))


@run_form("/runs/<run_id>/resume", STARTS)
def resume(project_id: str, run_id: str) -> ResponseReturnValue:
    """Let a paused run go on, with a new `budget` in credits if one is entered. 422 for one that it has spent. Raises NotFound, Forbidden."""
    found = viewed_run(project_id, run_id, "edit_projects")
    check_spending()
    engine = turn_engine()
    try:
        resumed = resume_run(
            viewer(), found.run.id, owner=engine.owner, key=session_key(), budget=credits_of("budget")
        )
    except WrongState as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(run_address(found))
    except Invalid as error:
        db.session.rollback()
        return _page(project_id, run_id, entered("budget"), error.message)
    db.session.commit()
    for turn_id in resumed.turns:
        engine.run(turn_id)
    return see_other(run_address(found))


@run_form("/runs/<run_id>/apply")
def apply(project_id: str, run_id: str) -> ResponseReturnValue:
    """Apply the patch of a ready run. If the workspace moved, its page says what to do. Raises NotFound, Forbidden."""
    found = viewed_run(project_id, run_id, "edit_projects")
    try:
        apply_run(viewer(), found.run.id, web_mover())
    except (BaseChanged, WrongState) as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(run_address(found))
    db.session.commit()
    toast(f"The patch is in “{found.workspace.name[:80]}”. This can be undone.")
    return see_other(run_address(found))


def _page(project_id: str, run_id: str, budget: str = "", problem: str = "") -> ResponseReturnValue:
    """The page of a run; with what is wrong with the budget that was entered, 422."""
    found = viewed_run(project_id, run_id)
    project, row = found.project, found.run
    others = [each for each in runs_of_item(found.item.id) if each.id != row.id]
    return render(
        "insights/item_run.html",
        partial="insights/_item_run.html",
        status=422 if problem else 200,
        project=project,
        workspace=found.workspace,
        item=found.item,
        run=row,
        attempts=attempts_of(row),
        mark=_mark(row),
        moved=row.status == "ready" and files_now(project, found.workspace) != row.base_manifest_hash,
        gone=found.workspace.deleted_at is not None,
        undone=row.status == "applied" and taken_back(row),
        changes=None if row.active else reviewed_patch(project, row),
        people=people_of([row.user_id]),
        others=others[:10],
        budget=budget or str(min(max(row.budget, row.credits) * 2, MAX_BUDGET)),
        problem=problem,
        may_edit=viewer_may("edit_projects"),
        may_spend=may_spend(),
    )


def _mark(run: ActionItemRun) -> str:
    """Is the same as long as the page of an active run says the same."""
    attempts = [(each["number"], each["state"], each["problem"]) for each in run.attempts]
    facts = json.dumps([run.status, run.error, run.credits, run.budget, attempts])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _form(
    project: Project, item_id: str, values: Mapping[str, str], errors: Mapping[str, str], problem: str = ""
) -> ResponseReturnValue:
    title, stored = _title_of(project, item_id)
    states = levels(project.account_id)
    earlier = runs_of_item(item_id) if stored else []
    return render(
        "insights/new_item_run.html",
        status=422 if errors or problem else 200,
        project=project,
        item_id=item_id,
        title=title,
        values=values,
        errors=errors,
        faults=[(id, label, errors[name]) for name, id, label in FIELDS if name in errors],
        problem=problem,
        running=next((each for each in earlier if each.active), None),
        levels=[(level, states[level]) for level in LEVELS],
        quote=run_quote(project.account_id),
        models=[each.requested for each in gateway(current_app).routes.models()][:MAX_SUGGESTED],
        may_spend=may_spend(),
    )


def _title_of(project: Project, item_id: str) -> tuple[str, bool]:
    """The title of an item of the project, and whether it is stored. Raises NotFound."""
    name = source_of(item_id)
    if name is None:
        return item_in(project, item_id).item.title, True
    found = next((each for each in computed_items([project], name) if each.id == item_id), None)
    if found is None:
        raise item_not_found()
    return found.title, False


def _wishes(values: Mapping[str, str]) -> RunWishes:
    """What the form asks for. Raises Invalid with `fields`."""
    chosen: Level | None = next((each for each in LEVELS if each == values["level"]), None)
    if chosen is None:
        raise Invalid("Choose a level.", fields={"level": "Choose one."})
    text = values["budget"]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MAX_BUDGET and len(text) < 9):
        message = f"Enter a number of credits from 1 to {number(MAX_BUDGET)}."
        raise Invalid(message, fields={"budget": message})
    if len(values["model"]) > 200:
        raise Invalid("Choose a model.", fields={"model": "The name is too long."})
    return RunWishes(
        chosen, values["model"] or None, int(text), allow_test_changes=bool(values["allow_test_changes"])
    )
