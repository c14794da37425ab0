"""The workspaces of a project: the list, a new one, the main one, and deleting one."""

from collections.abc import Mapping

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, Invalid
from models.projects import Project
from models.projects.project_listing import main_first, people_of, snapshots_named
from models.projects.workspaces import workspace_editing
from models.projects.workspaces.main_distance import main_distances
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.project_blueprint import (
    entered,
    problems_of,
    project_form,
    project_page,
    viewed_project,
    viewed_workspace,
    viewer,
    viewer_may,
    web_mover,
)
from views.web.htmx import render, see_other, toast


@project_page("/<project_id>/workspaces")
def workspaces(project_id: str) -> ResponseReturnValue:
    """List the workspaces of a project, with the form for a new one. Raises NotFound, Forbidden."""
    return _page(viewed_project(project_id), {"name": "", "base": ""}, {})


@project_form("/<project_id>/workspaces")
def add_workspace(project_id: str) -> ResponseReturnValue:
    """Make a workspace, empty or from the head of another. 422 with what was entered. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    values = {"name": entered("name").strip(), "base": entered("base")}
    base = next((each for each in workspaces_of(project.id) if each.id == values["base"]), None)
    if not values["name"]:
        return _page(project, values, {"name": "Enter a name."})
    try:
        made = workspace_editing.create_workspace(
            viewer(),
            project.id,
            values["name"],
            base_snapshot_id=base.current_snapshot_id if base else None,
            actor="web",
        )
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _page(project, values, problems_of(error, "name"))
    db.session.commit()
    toast(f"The workspace “{made.name[:80]}” is there.")
    return see_other(url_for("projects.workspaces", project_id=project.id))


@project_form("/<project_id>/workspaces/<workspace_id>/main")
def make_main(project_id: str, workspace_id: str) -> ResponseReturnValue:
    """Make the workspace the one that others are compared with. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    found = viewed_workspace(project, workspace_id, "edit_projects")
    workspace_editing.set_main(viewer(), found.id, web_mover())
    db.session.commit()
    toast(f"“{found.name[:80]}” is the main workspace.")
    return see_other(url_for("projects.workspaces", project_id=project.id))


@project_page("/<project_id>/workspaces/<workspace_id>/deletion")
def ask_workspace_deletion(project_id: str, workspace_id: str) -> ResponseReturnValue:
    """Ask whether to delete a workspace. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    return render(
        "projects/workspace_deletion.html",
        partial="projects/_workspace_deletion.html",
        project=project,
        workspace=viewed_workspace(project, workspace_id, "edit_projects"),
    )


@project_form("/<project_id>/workspaces/<workspace_id>/deletion")
def delete_workspace(project_id: str, workspace_id: str) -> ResponseReturnValue:
    """Delete a workspace; its snapshots and operations stay. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    found = viewed_workspace(project, workspace_id, "edit_projects")
    try:
        workspace_editing.delete_workspace(viewer(), found.id, actor="web")
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "bad")
    else:
        db.session.commit()
        toast(f"“{found.name[:80]}” is deleted. Its snapshots stay in the history.")
    return see_other(url_for("projects.workspaces", project_id=project_id))


def _page(project: Project, values: Mapping[str, str], errors: Mapping[str, str]) -> ResponseReturnValue:
    rows = main_first(project, workspaces_of(project.id))
    return render(
        "projects/workspaces.html",
        partial="projects/_workspace_form.html" if errors else None,
        status=422 if errors else 200,
        project=project,
        workspaces=rows,
        distances=main_distances(project),
        heads=snapshots_named(project.id, (row.current_snapshot_id for row in rows)),
        people=people_of(row.created_by for row in rows),
        bases=[("", "Empty"), *((row.id, row.name) for row in rows if row.current_snapshot_id)],
        values=values,
        errors=errors,
        may_edit=viewer_may("edit_projects"),
    )
