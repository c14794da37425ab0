"""The overview of a project: what it is for, its figures, and what happened last."""

import json

from flask.typing import ResponseReturnValue

from models.projects import Project
from models.projects.project_listing import (
    events_page,
    main_first,
    people_of,
    snapshot_count,
    snapshots_named,
    snapshots_page,
)
from models.projects.project_states import state_of
from models.projects.workspaces.main_distance import main_distances
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.brief_shapes import label_of
from views.projects.pages.overview_parts import overview_parts
from views.projects.pages.project_blueprint import project_page, viewed_project, viewer_may
from views.projects.pages.project_list_page import PURPOSES
from views.projects.pages.project_stories import event_stories
from views.web.htmx import render

SHOWN = 5
"""Workspaces, snapshots and events of an overview."""


@project_page("/<project_id>")
def overview(project_id: str) -> ResponseReturnValue:
    """The overview of a project. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    workspaces = main_first(project, workspaces_of(project.id))
    snapshots = snapshots_page(project.id, SHOWN)
    events = events_page(project.id, SHOWN)
    told = snapshots_named(project.id, (each.snapshot_id for each in events))
    return render(
        "projects/overview.html",
        project=project,
        state=state_of(project),
        brief=shown_brief(project),
        purpose=next((name for key, name, _ in PURPOSES if key == project.intent), None),
        workspaces=workspaces[:SHOWN],
        workspace_count=len(workspaces),
        distances=main_distances(project),
        snapshots=snapshots,
        count=snapshot_count(project.id),
        events=event_stories(project.id, events, told),
        told=told,
        people=people_of(each.created_by for each in snapshots),
        parts=overview_parts(project),
        may_edit=viewer_may("edit_projects"),
    )


def shown_brief(project: Project) -> list[tuple[str, list[str]]]:
    """The fields of its brief, whatever a client put there, as names and texts. At most 20 of each."""
    found = []
    for key, value in list((project.brief or {}).items())[:20]:
        if key == "intent" or not value:
            continue
        texts = [_text(each) for each in (value[:20] if isinstance(value, list) else [value])]
        found.append((label_of(project.intent, key), [text[:2_000] for text in texts]))
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
