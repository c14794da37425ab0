"""What happened in a project, newest first."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.projects.project_listing import events_page, snapshots_named
from views.projects.pages.project_blueprint import project_page, viewed_project
from views.projects.pages.project_stories import event_stories
from views.web.htmx import render
from views.web.keyset import cursor, cursor_text

PAGE = 50


@project_page("/<project_id>/activity")
def activity(project_id: str) -> ResponseReturnValue:
    """The events of a project. Query: `before`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    before = cursor()
    rows = events_page(project.id, PAGE + 1, before)
    shown = rows[:PAGE]
    snapshots = snapshots_named(project.id, (each.snapshot_id for each in shown))
    next_href = None
    if len(rows) > PAGE:
        at = cursor_text(shown[-1].created_at, shown[-1].id)
        next_href = url_for("projects.activity", project_id=project.id, before=at)
    return render(
        "projects/activity.html",
        partial="projects/_more_events.html" if before else None,
        project=project,
        events=event_stories(project.id, shown, snapshots),
        snapshots=snapshots,
        next_href=next_href,
    )
