"""Next steps of a project: those that wait with their reasons, and what became of the others; and a part of its overview."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Invalid
from models.insights.next_step import STEP_STATUSES
from models.insights.step_rules import facts_of, steps_by_rules
from models.insights.step_verbs import keep_steps, rate_step, set_step_status, steps_in
from models.projects import Project
from views.insights.pages.insight_blueprint import insight_form, insight_page
from views.projects.pages.overview_parts import OverviewPart, register_overview_part
from views.projects.pages.project_blueprint import asked, entered, viewed_project, viewer, viewer_may
from views.web.htmx import render, see_other, toast
from views.web.org_guards import may_spend

SHOWN = 3
"""Steps on the overview."""
CATEGORIES = {
    "feature": "Feature",
    "validation": "Validation",
    "launch": "Launch",
    "technical": "Technical",
    "user_research": "User research",
}
SAID = {
    "started": "It is begun.",
    "completed": "It is done.",
    "dismissed": "It is not proposed again.",
    "pending": "It is open again.",
}


@insight_page("/next-steps")
def next_steps(project_id: str) -> ResponseReturnValue:
    """List the next steps of a project. Query: `status`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    status = asked("status") if asked("status") in STEP_STATUSES else "pending"
    return render(
        "insights/next_steps.html",
        project=project,
        shown=status,
        steps=steps_in(project, status, 100),
        categories=CATEGORIES,
        may_edit=viewer_may("edit_projects"),
        may_spend=may_spend(),
    )


@insight_form("/next-steps", "30/minute;300/day")
def propose_steps(project_id: str) -> ResponseReturnValue:
    """Propose what follows from the facts of the project, by rules. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    new = keep_steps(project, steps_by_rules(facts_of(project)), None)
    db.session.commit()
    count = "One new step." if len(new) == 1 else f"{len(new)} new steps."
    toast(count if new else "Nothing new follows from what is known.", "good" if new else "info")
    return see_other(url_for("insights.next_steps", project_id=project.id))


@insight_form("/next-steps/<step_id>")
def change_step(project_id: str, step_id: str) -> ResponseReturnValue:
    """Begin, finish, dismiss or rate a step, as the field `do` says. Raises NotFound, Forbidden, Invalid."""
    project = viewed_project(project_id, "edit_projects")
    verb = entered("do")
    if verb in ("helpful", "not_helpful"):
        rate_step(viewer(), project.id, step_id, helpful=verb == "helpful")
        said = "Thank you."
    elif verb in SAID:
        set_step_status(viewer(), project.id, step_id, verb)
        said = SAID[verb]
    else:
        raise Invalid("Choose what to do with the step.")
    db.session.commit()
    toast(said)
    status = asked("status") if asked("status") in STEP_STATUSES else None
    return see_other(url_for("insights.next_steps", project_id=project.id, status=status))


def _on_overview(project: Project) -> OverviewPart:
    return OverviewPart("insights/_overview_steps.html", {"steps": steps_in(project, "pending", SHOWN)})


register_overview_part(_on_overview)
