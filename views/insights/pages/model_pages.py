"""Asking a model for next steps or decisions in the browser: what it is shown and costs at most, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from flask import g, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db, extension
from models.core.errors import DomainError, Invalid
from models.gateway import GatewayCall
from models.gateway.model_suggestion import suggested_model
from models.insights.decision_verbs import conversations_to_read
from models.insights.model_asking import (
    check_purpose,
    decisions_cost,
    find_decisions,
    generate_steps,
    steps_cost,
)
from models.insights.model_words import ModelFailed
from models.projects import Project
from models.runs.internal_chat import CallFailed, InternalAnswer, chat_once
from views.insights.pages.insight_blueprint import (
    insight_form,
    insight_page,
    listed_models,
)
from views.projects.pages.project_blueprint import asked, entered, viewed_project, viewer
from views.web.format import exact_credits
from views.web.guards import cookie_token
from views.web.htmx import render, see_other, toast
from views.web.org_guards import check_spending, may_spend, viewed_account

CONVERSATIONS, MESSAGES = 4, 12
"""How much a model reads when somebody looks for decisions."""
MAX_MODEL = 200
CALLS = "20/minute;300/day"


@insight_page("/next-steps/ask")
def ask_for_steps(project_id: str) -> ResponseReturnValue:
    """What asking a model for next steps costs, and the button that does it. Query: `model`. Raises NotFound, Forbidden."""
    return _steps_page(viewed_project(project_id, "edit_projects"))


@insight_form("/next-steps/ask", CALLS)
def suggest_steps(project_id: str) -> ResponseReturnValue:
    """Ask the model of the form for next steps; 422 with the reason if it gave none. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    check_spending()
    model = entered("model").strip()
    try:
        new = generate_steps(project, _checked(model), _said)
    except DomainError as error:
        db.session.rollback()
        return _steps_page(project, model, error)
    db.session.commit()
    count = len(new.steps)
    said = "One new step." if count == 1 else f"{count} new steps." if count else "Nothing new."
    toast(f"{said} {_cost_of(new.calls)}", "good" if count else "info")
    return see_other(url_for("insights.next_steps", project_id=project.id))


@insight_page("/decisions/ask")
def ask_for_decisions(project_id: str) -> ResponseReturnValue:
    """Which conversations a model would read for decisions, at what cost, and the button that does it. Query: `model`. Raises NotFound,
    Forbidden."""
    return _decisions_page(viewed_project(project_id, "edit_projects"))


@insight_form("/decisions/ask", CALLS)
def read_for_decisions(project_id: str) -> ResponseReturnValue:
    """Let the model of the form read the last conversations for decisions; 422 with the reason if none could be read. Raises NotFound,
    Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    check_spending()
    model = entered("model").strip()
    chosen = conversations_to_read(viewer(), project, None, CONVERSATIONS)
    try:
        found = find_decisions(chosen, MESSAGES, _checked(model), _said)
        if found.problems and len(found.problems) == len(chosen) and not found.decisions:
            raise ModelFailed(found.problems[0])
    except DomainError as error:
        db.session.rollback()
        return _decisions_page(project, model, error)
    db.session.commit()
    count = len(found.decisions)
    said = "One to review." if count == 1 else f"{count} to review." if count else "It found none."
    failed = len(found.problems)
    missed = f" {failed} of {len(chosen)} conversations could not be read." if failed else ""
    toast(f"{said}{missed} {_cost_of(found.calls)}", "good" if count else "info")
    return see_other(
        url_for("insights.decisions", project_id=project.id, state="proposed" if count else None)
    )


# -- parts -----------------------------------------------------------------------------------------------------


def _steps_page(project: Project, model: str = "", failed: DomainError | None = None) -> ResponseReturnValue:
    problem = ""
    try:
        check_purpose(project)
    except Invalid as error:
        problem = error.message
    return _page(project, "steps", model, failed, lambda name: steps_cost(project, name), problem=problem)


def _decisions_page(
    project: Project, model: str = "", failed: DomainError | None = None
) -> ResponseReturnValue:
    chosen = conversations_to_read(viewer(), project, None, CONVERSATIONS)
    problem = "" if chosen else "The project has no conversations yet."
    return _page(
        project,
        "decisions",
        model,
        failed,
        lambda name: decisions_cost(chosen, MESSAGES, name),
        problem=problem,
        read=[(each.conversation.id, each.conversation.title or "Untitled") for each in chosen],
    )


def _page(
    project: Project,
    what: str,
    model: str,
    failed: DomainError | None,
    cost: Callable[[str], int],
    *,
    problem: str,
    read: Sequence[tuple[str, str]] = (),
) -> ResponseReturnValue:
    names = listed_models()
    usual = extension("settings").stoa_insights_model
    chosen = model or asked("model").strip() or usual or suggested_model(names, viewed_account().id)
    most, unknown = None, ""
    if not problem:
        try:
            most = cost(_checked(chosen))
        except DomainError as error:
            unknown = error.message
    return render(
        "insights/ask_model.html",
        status=422 if failed else 200,
        project=project,
        what=what,
        model=chosen[:MAX_MODEL],
        models=names,
        most=most,
        unknown=unknown,
        problem=problem,
        failed=failed.message if failed else "",
        no_credits=failed is not None and failed.status == 402,
        messages=MESSAGES,
        read=read,
        may_spend=may_spend(),
    )


def _checked(model: str) -> str:
    """The name of a model. Raises Invalid."""
    if not 0 < len(model) <= MAX_MODEL:
        raise Invalid("Choose a model.")
    return model


def _said(body: Mapping[str, Any], client_id: str) -> InternalAnswer:
    """The answer of a model, by a call that the viewed account pays; ends the transaction, in which the form's token is taken."""
    db.session.commit()
    org = g.get("org")
    try:
        return chat_once(cookie_token() or "", body, client_id=client_id, org_id=org.id if org else None)
    except CallFailed as failure:
        raise ModelFailed(failure.message) from failure


def _cost_of(calls: Sequence[str]) -> str:
    """What calls were charged, as a sentence."""
    rows = [db.session.get(GatewayCall, each) for each in calls]
    total = sum((row.micro_credits for row in rows if row is not None), 0)
    return f"It cost {exact_credits(Decimal(total) / 1_000_000)} credits." if total else "It was free."
