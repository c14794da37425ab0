"""Settings of a project: its name, purpose and brief; deleting it, and restoring a deleted one."""

from collections.abc import Mapping

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import db
from models.core.errors import Invalid
from models.projects import Project
from models.projects.project_editing import delete_project, rename_project, restore_project
from views.projects.pages.brief_shapes import fields_of, texts_of
from views.projects.pages.project_blueprint import (
    problems_of,
    project_form,
    project_page,
    viewed_project,
    viewer,
    viewer_may,
)
from views.projects.pages.project_list_page import PURPOSES, ProjectDraft, brief_errors, save_brief
from views.web.guards import settings as server_settings
from views.web.htmx import render, see_other, toast


@project_page("/<project_id>/settings")
def project_settings(project_id: str) -> ResponseReturnValue:
    """The settings of a project. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    return _page(project, _saved(project), {})


@project_form("/<project_id>/settings")
def save_settings(project_id: str) -> ResponseReturnValue:
    """Save name, purpose and brief. 422 with what was entered. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    draft = ProjectDraft.read(request.form)
    saved = _saved(project)
    written = (draft.intent, draft.texts) != (saved.intent, saved.texts)
    errors = (brief_errors(draft) if written else {}) | ({} if draft.name else {"name": "Enter a name."})
    if errors:
        return _page(project, draft, errors)
    try:
        rename_project(viewer(), project.id, draft.name)
        if draft.intent and written:
            save_brief(project.id, draft, project.brief)
    except Invalid as error:
        db.session.rollback()
        return _page(viewed_project(project_id), draft, problems_of(error, "name"))
    db.session.commit()
    toast("Saved.")
    return see_other(url_for("projects.project_settings", project_id=project.id))


@project_page("/<project_id>/deletion")
def ask_deletion(project_id: str) -> ResponseReturnValue:
    """Ask whether to delete a project. Raises NotFound, Forbidden."""
    return render(
        "projects/deletion.html",
        partial="projects/_deletion.html",
        project=viewed_project(project_id, "manage_projects"),
        days=server_settings().stoa_deleted_project_days,
    )


@project_form("/<project_id>/deletion")
def delete(project_id: str) -> ResponseReturnValue:
    """Delete a project; it can be restored for a while. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "manage_projects")
    delete_project(viewer(), project.id)
    db.session.commit()
    toast(f"“{project.name[:80]}” is deleted. Restore it from the deleted projects.")
    return see_other(url_for("projects.project_list"))


@project_form("/<project_id>/restoration")
def restore(project_id: str) -> ResponseReturnValue:
    """Restore a deleted project. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "manage_projects", deleted=True)
    restore_project(viewer(), project.id)
    db.session.commit()
    toast("The project is back.")
    return see_other(url_for("projects.overview", project_id=project.id))


def _saved(project: Project) -> ProjectDraft:
    """What the form shows of a project; what a client wrote in another shape is left out of it."""
    return ProjectDraft(project.name, project.intent or "", **texts_of(project.intent, project.brief))


def _page(project: Project, draft: ProjectDraft, errors: Mapping[str, str]) -> ResponseReturnValue:
    return render(
        "projects/settings.html",
        partial="projects/_settings_form.html" if errors else None,
        status=422 if errors else 200,
        project=project,
        draft=draft,
        errors=errors,
        brief_fields=fields_of(draft.intent),
        purposes=[
            *([] if project.intent else [("", "Not chosen")]),
            *((key, name) for key, name, _ in PURPOSES),
        ],
        may_edit=viewer_may("edit_projects"),
        may_manage=viewer_may("manage_projects"),
    )
