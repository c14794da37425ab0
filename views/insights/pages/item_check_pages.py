"""How a project is checked, in the browser: its checks, and the hosts that their installs may reach."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Invalid
from models.projects.project import MAX_CHECK_HOSTS
from models.runners.check_hosts import found_checks, set_check_hosts
from views.insights.pages.item_run_blueprint import run_form, run_page
from views.projects.pages.project_blueprint import entered, viewed_project, viewer, viewer_may
from views.web.htmx import render, see_other, toast

MAX_ENTERED = 20_000


@run_page("/checks")
def checks(project_id: str) -> ResponseReturnValue:
    """The checks of a project's main workspace, with the form for hosts. Raises NotFound, Forbidden, FilesUnavailable (503)."""
    return _page(project_id, None)


@run_form("/checks")
def save_checks(project_id: str) -> ResponseReturnValue:
    """Save the hosts: those of `hosts`, one a line, and those of `add`. 422 with what was entered. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "manage_projects")
    text = entered("hosts")[:MAX_ENTERED]
    if extra := entered("add"):
        text = f"{text.rstrip()}\n{extra[:MAX_ENTERED]}".strip()
    try:
        set_check_hosts(viewer(), project.id, text.replace(",", "\n").split("\n"))
    except Invalid as error:
        db.session.rollback()
        return _page(project_id, text, error.message)
    db.session.commit()
    toast("Saved." if text.strip() else "Saved. Checks are offline.")
    return see_other(url_for("item_runs.checks", project_id=project.id))


def _page(project_id: str, text: str | None, problem: str = "") -> ResponseReturnValue:
    project = viewed_project(project_id)
    found = found_checks(project)
    return render(
        "insights/item_checks.html",
        status=422 if problem else 200,
        project=project,
        found=found,
        suggested=[host for host in found.hosts if host not in project.check_hosts],
        text="\n".join(project.check_hosts) if text is None else text,
        problem=problem,
        most=MAX_CHECK_HOSTS,
        may_manage=viewer_may("manage_projects"),
    )
