"""One file of a preview of a sync, with what changes in it; loaded into the preview, or a page of its own."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.projects.sync.sync_review import (
    ReviewedDecision,
    reviewed_change,
    reviewed_decisions,
    reviewed_sync,
)
from views.projects.pages.project_blueprint import asked, project_page, viewed_project, viewed_workspace
from views.web.htmx import render, see_other


@project_page("/<project_id>/workspaces/<workspace_id>/sync/<preview_id>/file")
def sync_file(project_id: str, workspace_id: str, preview_id: str) -> ResponseReturnValue:
    """What a sync changes in one file; to the preview without `path`. Query: `path`, and `view`, `split` for side by side. Raises NotFound,
    Forbidden, FilesUnavailable (503)."""
    project = viewed_project(project_id)
    workspace = viewed_workspace(project, workspace_id)
    stored = reviewed_sync(project, workspace, preview_id)
    path = asked("path")
    if not path:
        address = url_for(
            "projects.sync_preview", project_id=project.id, workspace_id=workspace.id, preview_id=preview_id
        )
        return see_other(address)
    decision: ReviewedDecision | None = reviewed_decisions(stored, [path]).get(path)
    return render(
        "projects/sync_file.html",
        partial="projects/_sync_file.html",
        project=project,
        workspace=workspace,
        preview=stored.preview,
        path=path,
        decision=decision,
        compared_sides=None if decision else reviewed_change(stored, path),
        split=asked("view") == "split",
    )
