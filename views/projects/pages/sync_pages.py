"""Sync of a workspace with main: prepare it, review what would change, decide where both sides changed a file, and do it."""

from collections.abc import Mapping
from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import DomainError
from models.projects import Project, SyncPreview, Workspace
from models.projects.project_listing import people_of, snapshots_named, workspaces_named
from models.projects.sync.sync_candidates import sync_candidates
from models.projects.sync.sync_executing import SyncChoices, execute_sync
from models.projects.sync.sync_plan import is_empty
from models.projects.sync.sync_preparing import prepare_sync
from models.projects.sync.sync_reading import StoredSync
from models.projects.sync.sync_refusals import PreviewGone, PreviewStale, SyncFilesMissing, SyncRefused
from models.projects.sync.sync_review import (
    operation_of,
    planned_changes,
    preview_state,
    reviewed_decisions,
    reviewed_sides,
    reviewed_sync,
)
from models.projects.workspaces.drift_report import latest_reports
from models.projects.workspaces.main_distance import main_distances
from views.projects.pages.project_blueprint import (
    asked,
    project_form,
    project_page,
    viewed_project,
    viewed_workspace,
    viewer,
    viewer_may,
    web_mover,
)
from views.projects.pages.sync_answers import SyncAnswers
from views.projects.pages.sync_words import decision_words, plan_words
from views.web.htmx import render, see_other, toast
from views.web.org_guards import signed_in

MAX_SHOWN = 500
"""Files of a preview that are listed, beside those that need a decision."""
MAX_DECISIONS = 200
"""Decisions of one form; a sync with more is one for a client."""
PREPARATIONS = "30/minute;1000/day"
"""A merge may take seconds."""


@project_page("/<project_id>/sync")
def sync_list(project_id: str) -> ResponseReturnValue:
    """List the workspaces that main can be merged into. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    candidates = sync_candidates(project, signed_in().id)
    named = workspaces_named(project.id, [project.main_workspace_id])
    return render(
        "projects/sync_list.html",
        project=project,
        main=named.get(project.main_workspace_id or ""),
        candidates=candidates,
        distances=main_distances(project),
        reports=latest_reports([each.workspace.id for each in candidates]),
        may_edit=viewer_may("edit_projects"),
    )


@project_form("/<project_id>/workspaces/<workspace_id>/sync", PREPARATIONS)
def prepare_preview(project_id: str, workspace_id: str) -> ResponseReturnValue:
    """Prepare a sync, and go to its preview; to the list if there is nothing to do or it cannot be prepared. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    workspace = viewed_workspace(project, workspace_id, "edit_projects")
    back = see_other(url_for("projects.sync_list", project_id=project.id))
    name = workspace.name[:80]
    try:
        preview = prepare_sync(viewer(), workspace.id)
    except DomainError as error:
        db.session.rollback()
        missing = (
            "Files that the merge needs were never sent. Push them from their client, then prepare again."
        )
        toast(missing if isinstance(error, SyncFilesMissing) else error.message, "bad")
        return back
    if is_empty(preview.plan):
        db.session.rollback()
        toast(f"“{name}” has all of main already. There is nothing to sync.", "info")
        return back
    db.session.commit()
    return see_other(_address(project, preview))


@project_page("/<project_id>/workspaces/<workspace_id>/sync/<preview_id>")
def sync_preview(project_id: str, workspace_id: str, preview_id: str) -> ResponseReturnValue:
    """What a sync would change, with the form that decides and does it; once it is done, what it did. Query: `view`, `split` for texts side by
    side. Raises NotFound, Forbidden, FilesUnavailable (503)."""
    project = viewed_project(project_id)
    workspace = viewed_workspace(project, workspace_id)
    stored = reviewed_sync(project, workspace, preview_id)
    preview, state = stored.preview, preview_state(stored)
    if state == "open":
        return _open_page(stored, SyncAnswers({}, {}, ""))
    operation = operation_of(preview)
    ids = (operation.before_snapshot_id, operation.after_snapshot_id) if operation else ()
    return render(
        "projects/sync_done.html",
        project=project,
        workspace=workspace,
        preview=preview,
        state=state,
        main=_main(project, preview),
        operation=operation,
        snapshots=snapshots_named(project.id, ids),
        people=people_of([preview.user_id]),
        words=plan_words(preview),
        may_edit=viewer_may("edit_projects"),
    )


@project_form("/<project_id>/workspaces/<workspace_id>/sync/<preview_id>")
def execute_preview(project_id: str, workspace_id: str, preview_id: str) -> ResponseReturnValue:
    """Do what a preview says. 422 with the answers so far if some are missing or wrong. Raises NotFound, Forbidden, FilesUnavailable (503)."""
    project = viewed_project(project_id, "edit_projects")
    workspace = viewed_workspace(project, workspace_id, "edit_projects")
    stored = reviewed_sync(project, workspace, preview_id)
    preview, address = stored.preview, _address(project, stored.preview)
    if preview_state(stored) != "open":
        # the page says what happened, and what to do
        return see_other(address)
    answers = SyncAnswers.read(preview)
    if problems := answers.problems(preview):
        return _open_page(stored, answers, problems=problems)
    choices = SyncChoices(answers.decisions(preview), answers.texts(stored))
    try:
        done = execute_sync(viewer(), workspace.id, preview.id, web_mover(), choices)
    except (PreviewStale, PreviewGone):
        db.session.rollback()
        return see_other(address)
    except SyncRefused as error:
        db.session.rollback()
        return _open_page(stored, answers, problem=error.message)
    db.session.commit()
    toast(f"“{done.workspace.name[:80]}” is synced. This can be undone.")
    return see_other(address)


def _open_page(
    stored: StoredSync,
    answers: SyncAnswers,
    *,
    problems: Mapping[str, str] | None = None,
    problem: str = "",
) -> ResponseReturnValue:
    """The preview with its form; with problems by path, or one of all, 422."""
    project, preview = stored.project, stored.preview
    count = len(preview.plan["changes"])
    paths = [each["path"] for each in preview.plan["decisions"]][:MAX_DECISIONS]
    mine = preview.user_id == signed_in().id
    return render(
        "projects/sync_preview.html",
        status=422 if problems or problem else 200,
        project=project,
        workspace=stored.workspace,
        preview=preview,
        main=_main(project, preview),
        sides=reviewed_sides(stored),
        words=plan_words(preview),
        decisions=decision_words(preview, paths, reviewed_decisions(stored, paths)),
        changes=planned_changes(stored, MAX_SHOWN),
        more=max(0, count - MAX_SHOWN),
        too_many=len(preview.plan["decisions"]) > MAX_DECISIONS,
        answers=answers,
        left=len(answers.missing(preview)),
        problems=problems or {},
        problem=problem,
        split=asked("view") == "split",
        maker=people_of([preview.user_id]).get(preview.user_id),
        mine=mine,
        may_sync=mine and viewer_may("edit_projects"),
        may_edit=viewer_may("edit_projects"),
    )


def _main(project: Project, preview: SyncPreview) -> Workspace:
    return workspaces_named(project.id, [preview.main_workspace_id])[preview.main_workspace_id]


def _address(project: Project, preview: SyncPreview, **query: Any) -> str:
    return url_for(
        "projects.sync_preview",
        project_id=project.id,
        workspace_id=preview.workspace_id,
        preview_id=preview.id,
        **query,
    )
