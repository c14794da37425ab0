"""Every move of the workspaces of a project as a story, and the undo of any of them with its preview."""

from collections.abc import Mapping
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Conflict, Invalid
from models.projects import Project, WorkspaceOperation
from models.projects.project_listing import (
    operation_in,
    people_of,
    snapshots_named,
    undone_among,
    workspaces_named,
)
from models.projects.workspaces.head_moves import StaleWorkspace, operations_page
from models.projects.workspaces.operation_undo import UndecidedUndo, UndoPlan, preview_undo, undo_operation
from models.runs.history import agents_of_runs
from views.projects.pages.project_blueprint import (
    entered,
    project_form,
    project_page,
    viewed_project,
    viewed_workspace,
    viewer,
    viewer_may,
    web_mover,
)
from views.projects.pages.project_stories import operation_story
from views.web.htmx import render, see_other, toast
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import viewed_member

PAGE = 50
MAX_SHOWN = 500
"""Paths of an undo that are listed, beside all that need a choice."""
MAX_CHOICES = 400
"""Choices of one form; an undo with more is one for a client."""


@project_page("/<project_id>/operations")
def operations(project_id: str) -> ResponseReturnValue:
    """The moves of all workspaces, newest first. Query: `before`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    before = cursor()
    rows = operations_page(project.id, PAGE + 1, before=before)
    shown = rows[:PAGE]
    next_href = None
    if len(rows) > PAGE:
        at = cursor_text(shown[-1].created_at, shown[-1].id)
        next_href = url_for("projects.operations", project_id=project.id, before=at)
    people = people_of(each.user_id for each in shown)
    named = workspaces_named(project.id, (each.workspace_id for each in shown))
    ids = (id for each in shown for id in (each.before_snapshot_id, each.after_snapshot_id))
    return render(
        "projects/operations.html",
        partial="projects/_more_operations.html" if before else None,
        project=project,
        operations=[(each, operation_story(each, people, named)) for each in shown],
        workspaces=named,
        snapshots=snapshots_named(project.id, ids),
        runs=agents_of_runs(project.account_id, [each.cause for each in shown if each.cause]),
        member=viewed_member(),
        undone=undone_among(project.id, (each.id for each in shown)),
        next_href=next_href,
        may_edit=viewer_may("edit_projects"),
    )


@project_page("/<project_id>/operations/<operation_id>/undo")
def undo_preview(project_id: str, operation_id: str) -> ResponseReturnValue:
    """What undoing an operation would change, with a choice for each file that changed since. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    return _preview(project, operation_in(project, operation_id))


@project_form("/<project_id>/operations/<operation_id>/undo")
def undo(project_id: str, operation_id: str) -> ResponseReturnValue:
    """Undo an operation by a new one, unless the workspace moved since the preview. 422 without a choice for each conflict. Raises
    NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    operation = operation_in(project, operation_id)
    version = entered("version")
    try:
        undo_operation(
            viewer(),
            operation.workspace_id,
            operation.id,
            web_mover(),
            decisions=_decisions(),
            expected=int(version) if version.isascii() and version.isdigit() and len(version) < 10 else None,
        )
    except (UndecidedUndo, Invalid):
        db.session.rollback()
        return _preview(project, operation, problem="Choose for each file below what happens to it.")
    except StaleWorkspace:
        db.session.rollback()
        toast("The workspace moved meanwhile. This is the preview of now.", "bad")
        return see_other(url_for("projects.undo_preview", project_id=project_id, operation_id=operation_id))
    except Conflict as error:
        db.session.rollback()
        toast(error.message, "bad")
        return see_other(url_for("projects.operations", project_id=project_id))
    db.session.commit()
    toast("Undone. This can be undone too.")
    return see_other(url_for("projects.operations", project_id=project_id))


def _preview(project: Project, operation: WorkspaceOperation, problem: str = "") -> ResponseReturnValue:
    workspace = viewed_workspace(project, operation.workspace_id)
    plan: UndoPlan | None = None
    impossible = ""
    try:
        plan = preview_undo(viewer(), workspace.id, operation.id)
    except Conflict as error:
        impossible = error.message
    people = people_of([operation.user_id])
    return render(
        "projects/undo.html",
        status=422 if problem else 200,
        project=project,
        operation=operation,
        workspace=workspace,
        story=operation_story(operation, people, {workspace.id: workspace}),
        impossible=impossible,
        problem=problem,
        chosen=_decisions(),
        may_edit=viewer_may("edit_projects"),
        **_shown(plan),
    )


def _shown(plan: UndoPlan | None) -> Mapping[str, Any]:
    """What the page shows of a plan: conflicts first, then the other paths, as many as fit."""
    if plan is None:
        return {"exact": False, "conflicts": (), "changes": [], "more": 0, "too_many": False}
    waiting = set(plan.conflicts)
    others = [(path, entry) for path, entry in plan.changes.items() if path not in waiting]
    return {
        "exact": plan.exact,
        "conflicts": [(path, plan.changes[path]) for path in plan.conflicts[:MAX_CHOICES]],
        "changes": others[:MAX_SHOWN],
        "more": max(0, len(others) - MAX_SHOWN),
        "too_many": len(plan.conflicts) > MAX_CHOICES,
    }


def _decisions() -> dict[str, str]:
    """The choices of the form by path: fields `path-1` and `choice-1`, and so on."""
    found = {}
    for number in range(1, MAX_CHOICES + 1):
        path = request.form.get(f"path-{number}")
        if path is None:
            break
        if choice := request.form.get(f"choice-{number}"):
            found[path] = choice
    return found
