"""The environment variables of a project and of its workspaces: secret values by their last characters only, set and removed."""

from collections.abc import Mapping

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, Invalid, NotFound
from models.projects import Project, environment
from models.projects.environment import NewVariable, all_variables, variables_of
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.project_blueprint import (
    asked,
    entered,
    project_form,
    project_page,
    viewed_project,
    viewer,
    viewer_may,
)
from views.web.htmx import render, see_other, toast


@project_page("/<project_id>/environment")
def environment_variables(project_id: str) -> ResponseReturnValue:
    """List the variables, secret ones masked, with the form that sets one. Raises NotFound, Forbidden."""
    return _page(viewed_project(project_id), {"key": "", "secret": "1", "workspace": ""}, {})


@project_form("/<project_id>/environment")
def set_variable(project_id: str) -> ResponseReturnValue:
    """Set a variable. 422 without its value if it cannot be stored. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    key = entered("key").strip()
    values = {"key": key, "secret": entered("secret"), "workspace": entered("workspace")}
    if not key:
        return _page(project, values, {"key": "Enter a key."})
    try:
        new = NewVariable(key, entered("value"), bool(values["secret"]))
        environment.set_variable(viewer(), project.id, new, values["workspace"] or None)
    except (Invalid, Conflict) as error:
        db.session.rollback()
        field = "value" if error.message.startswith("'value'") else "key"
        return _page(
            project,
            values,
            {field: error.message.replace("'key' must", "It must").replace("'value' must", "It must")},
        )
    db.session.commit()
    toast(f"{key} is set.")
    return see_other(url_for("projects.environment_variables", project_id=project.id))


@project_page("/<project_id>/environment/<key>/removal")
def ask_variable_removal(project_id: str, key: str) -> ResponseReturnValue:
    """Ask whether to remove a variable. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    id = asked("workspace") or None
    listed = variables_of(viewer(), project.id, id)
    if (key, id) not in {(each.row.key, each.row.workspace_id) for each in listed}:
        raise NotFound("The project has no such variable.")
    return render(
        "projects/variable_removal.html",
        partial="projects/_variable_removal.html",
        project=project,
        key=key,
        workspace_id=id,
    )


@project_form("/<project_id>/environment/<key>/removal")
def remove_variable(project_id: str, key: str) -> ResponseReturnValue:
    """Remove a variable if there is one. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    environment.remove_variable(viewer(), project.id, key, asked("workspace") or None)
    db.session.commit()
    toast(f"{key[:80]} is removed.")
    return see_other(url_for("projects.environment_variables", project_id=project.id))


def _page(project: Project, values: Mapping[str, str], errors: Mapping[str, str]) -> ResponseReturnValue:
    response = render(
        "projects/environment.html",
        partial="projects/_variable_form.html" if errors else None,
        status=422 if errors else 200,
        project=project,
        variables=all_variables(viewer(), project.id),
        places=[("", "All workspaces"), *((each.id, each.name[:50]) for each in workspaces_of(project.id))],
        values=values,
        errors=errors,
        may_edit=viewer_may("edit_projects"),
    )
    response.headers["Cache-Control"] = "no-store"
    return response
