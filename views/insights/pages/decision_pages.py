"""The decisions of a project: proposals to review, with the words that they come from, and what was accepted."""

from collections.abc import Mapping
from typing import Any

from flask import Response, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Invalid
from models.insights.decision_extracting import change_setting, extractions_today, setting_of
from models.insights.decision_extraction import DAILY_CREDITS
from models.insights.decision_verbs import (
    adr_text,
    conversations_to_read,
    decisions_in,
    review_decision,
    write_decision,
)
from models.insights.model_asking import ask_nobody, find_decisions
from models.insights.project_decision import DECISION_CATEGORIES, DECISION_STATES
from models.projects import Project
from models.projects.project_listing import people_of
from views.insights.api.decision_routes import markdown_file
from views.insights.pages.insight_blueprint import (
    insight_form,
    insight_page,
    listed_models,
)
from views.projects.pages.project_blueprint import (
    asked,
    entered,
    problems_of,
    viewed_project,
    viewer,
    viewer_may,
)
from views.web.htmx import render, see_other, toast
from views.web.org_guards import check_spending, may_spend

CONVERSATIONS, MESSAGES = 10, 20
"""How much is read when somebody looks for decisions."""
SHOWN = 200
NOTHING: Mapping[str, str] = {}
CATEGORY_NAMES = {
    each: each.replace("_", " ").replace("tech", "technical").capitalize() for each in DECISION_CATEGORIES
}


@insight_page("/decisions")
def decisions(project_id: str) -> ResponseReturnValue:
    """List the decisions of a project. Query: `state`. Raises NotFound, Forbidden."""
    return _page(viewed_project(project_id), NOTHING, {})


@insight_form("/decisions")
def add_decision(project_id: str) -> ResponseReturnValue:
    """Write a decision down; 422 with what was entered. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    values = {name: entered(name).strip() for name in ("decision", "rationale", "category")}
    try:
        write_decision(
            viewer(), project.id, values["decision"], values["rationale"], values["category"] or None
        )
    except Invalid as error:
        db.session.rollback()
        return _page(project, values, problems_of(error, "decision"))
    db.session.commit()
    toast("The decision is written down. Agents are told it.")
    return see_other(url_for("insights.decisions", project_id=project.id))


@insight_form("/decisions/search", "20/minute;300/day")
def look_for_decisions(project_id: str) -> ResponseReturnValue:
    """Look for decisions that the last conversations say in so many words. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    chosen = conversations_to_read(viewer(), project, None, CONVERSATIONS)
    new = len(find_decisions(chosen, MESSAGES, None, ask_nobody).decisions)
    db.session.commit()
    said = f"{new} to review." if new else "The last conversations say none in so many words."
    toast(said, "good" if new else "info")
    return see_other(url_for("insights.decisions", project_id=project.id, state="proposed" if new else None))


@insight_form("/decisions/settings", "30/minute;300/day")
def save_decision_settings(project_id: str) -> ResponseReturnValue:
    """Let a model read the conversations by itself, up to so many credits a day, or none; 422 with what was entered. Raises NotFound,
    Forbidden."""
    project = viewed_project(project_id, "manage_projects")
    check_spending()
    values = {"model": entered("model").strip(), "daily_credits": entered("daily_credits").strip()}
    text = values["daily_credits"]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    try:
        change_setting(viewer(), project.id, values["model"] or None, number)
    except Invalid as error:
        db.session.rollback()
        return _page(project, NOTHING, {}, setting=values, setting_errors=problems_of(error, "model"))
    db.session.commit()
    toast("A model reads along from now on." if values["model"] else "No model reads along.")
    return see_other(url_for("insights.decisions", project_id=project.id, _anchor="by-itself"))


@insight_form("/decisions/<decision_id>")
def review(project_id: str, decision_id: str) -> ResponseReturnValue:
    """Accept, reject or replace a decision, or take that back. Raises NotFound, Forbidden, Invalid."""
    project = viewed_project(project_id, "edit_projects")
    state = entered("state")
    try:
        review_decision(viewer(), project.id, decision_id, state, entered("superseded_by") or None)
    except Invalid as error:
        db.session.rollback()
        toast(error.message, "bad")
    else:
        db.session.commit()
        toast(
            {"accepted": "Accepted.", "rejected": "Rejected: it is not proposed again."}.get(
                state, "Changed."
            )
        )
    shown = asked("state") if asked("state") in DECISION_STATES else None
    return see_other(url_for("insights.decisions", project_id=project.id, state=shown))


@insight_page("/decisions.md")
def decisions_file(project_id: str) -> Response:
    """The accepted and superseded decisions as architecture decision records. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    return markdown_file(adr_text(project, decisions_in(project)))


def _page(
    project: Project,
    values: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    setting: Mapping[str, str] | None = None,
    setting_errors: Mapping[str, str] = NOTHING,
) -> ResponseReturnValue:
    every = decisions_in(project)
    counts = {state: sum(each.state == state for each in every) for state in DECISION_STATES}
    state = (
        asked("state")
        if asked("state") in DECISION_STATES
        else "proposed"
        if counts["proposed"]
        else "accepted"
    )
    shown = [each for each in every if each.state == state][:SHOWN]
    accepted = [(each.id, each.decision[:80]) for each in every if each.state == "accepted"][:SHOWN]
    return render(
        "insights/decisions.html",
        status=422 if errors or setting_errors else 200,
        project=project,
        state=state,
        counts=counts,
        decisions=shown,
        by_id={each.id: each for each in every},
        accepted=accepted,
        people=people_of(each.reviewed_by for each in shown),
        categories=CATEGORY_NAMES,
        values={"decision": "", "rationale": "", "category": "", **values},
        errors=errors,
        may_edit=viewer_may("edit_projects"),
        may_spend=may_spend(),
        **_by_itself(project, setting, setting_errors),
    )


def _by_itself(
    project: Project, entered: Mapping[str, str] | None, errors: Mapping[str, str]
) -> dict[str, Any]:
    """What the part about the looks by themselves needs; the fields only for those who may change them."""
    stored, may = setting_of(project.id), viewer_may("manage_projects") and may_spend()
    limit = stored.daily_credits if stored else DAILY_CREDITS
    return {
        "setting": entered
        or {"model": (stored.model if stored else None) or "", "daily_credits": str(limit)},
        "setting_errors": errors,
        "reads_along": stored.model if stored else None,
        "daily_limit": limit,
        "may_manage": may,
        "today": extractions_today(project.id),
        "models": listed_models() if may else [],
    }
