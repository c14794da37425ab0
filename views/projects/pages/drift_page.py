"""How a workspace differs from another one, by default main, and what that means."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Invalid
from models.projects import Project, Workspace
from models.projects.workspaces.drift_comparison import (
    DriftComparison,
    Incomparable,
    analyse,
    compare,
    store_comparison,
)
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.project_blueprint import (
    asked,
    entered,
    project_form,
    project_page,
    viewed_project,
    viewed_workspace,
    viewer,
    viewer_may,
)
from views.web.htmx import render, see_other, toast

MAX_LISTED = 200
"""Paths of each list of the page."""
MAX_CHARACTERS = 100_000


@project_page("/<project_id>/workspaces/<workspace_id>/drift")
def drift(project_id: str, workspace_id: str) -> ResponseReturnValue:
    """How a workspace differs now. Query: `source`, the workspace to compare with. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    workspace = viewed_workspace(project, workspace_id)
    return _page(project, workspace, _compared(workspace, asked("source")))


@project_form("/<project_id>/workspaces/<workspace_id>/drift")
def store_drift(project_id: str, workspace_id: str) -> ResponseReturnValue:
    """Compare again, and store the report unless the last one says the same. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    workspace = viewed_workspace(project, workspace_id, "edit_projects")
    source = entered("source")
    found = _compared(workspace, source)
    if isinstance(found, Incomparable):
        toast(found.message, "bad")
    else:
        _, new = store_comparison(found)
        db.session.commit()
        toast("The report is stored." if new else "Nothing moved since the last report.")
    address = url_for(
        "projects.drift", project_id=project.id, workspace_id=workspace.id, source=source or None
    )
    return see_other(address)


def _compared(workspace: Workspace, source: str) -> DriftComparison | Incomparable:
    try:
        return compare(viewer(), workspace.id, source or None)
    except Invalid as error:
        return Incomparable(error.message)


def _page(
    project: Project, workspace: Workspace, found: DriftComparison | Incomparable
) -> ResponseReturnValue:
    comparison = found if isinstance(found, DriftComparison) else None
    others = [each for each in workspaces_of(project.id) if each.id != workspace.id]
    return render(
        "projects/drift.html",
        project=project,
        workspace=workspace,
        found=comparison,
        problem=found.message if isinstance(found, Incomparable) else "",
        words=analyse(comparison) if comparison else None,
        lists=comparison.listed(MAX_LISTED, MAX_CHARACTERS)[0] if comparison else {},
        others=[(each.id, each.name) for each in others],
        may_edit=viewer_may("edit_projects"),
    )
