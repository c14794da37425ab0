"""The history of a project as a graph and a list, one snapshot, and what differs between any two."""

from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound
from models.projects import Project, Snapshot
from models.projects.project_listing import (
    main_first,
    people_of,
    snapshots_named,
    snapshots_page,
    workspaces_named,
)
from models.projects.project_states import tree_of
from models.projects.snapshots.history_graph import history_graph, lanes_of
from models.projects.snapshots.manifest_store import manifest_row
from models.projects.snapshots.snapshot_changes import SnapshotChanges, snapshot_changes
from models.projects.snapshots.snapshot_making import parents_of, snapshot_in
from models.projects.workspaces.workspace_editing import workspaces_of
from models.runs import AgentRun
from models.runs.history import find_run
from views.projects.pages.project_blueprint import asked, project_page, viewed_project
from views.projects.pages.project_stories import short_id, snapshot_title
from views.web.htmx import render
from views.web.keyset import cursor, cursor_text
from views.web.org_guards import viewed_member

PAGE = 50
CHOICES = 100
"""Snapshots that the forms of a comparison offer; others by their id in the address."""


@project_page("/<project_id>/history")
def history(project_id: str) -> ResponseReturnValue:
    """The snapshots of a project, newest first, with the lines to their parents. Query: `before`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    rows = snapshots_page(project.id, PAGE + 1, cursor())
    shown = rows[:PAGE]
    parents = parents_of(project.id, [each.id for each in shown])
    graph = history_graph((each.id, parents[each.id]) for each in shown)
    next_href = None
    if len(rows) > PAGE:
        at = cursor_text(shown[-1].created_at, shown[-1].id)
        next_href = url_for("projects.history", project_id=project.id, before=at)
    return render(
        "projects/history.html",
        project=project,
        rows=list(zip(shown, graph, strict=True)),
        lanes=lanes_of(graph),
        parents=parents,
        titles=_titles(project, shown, parents),
        heads=_heads(project),
        people=people_of(each.created_by for each in shown),
        next_href=next_href,
        first=cursor() is None,
    )


@project_page("/<project_id>/snapshot")
def snapshot(project_id: str) -> ResponseReturnValue:
    """One snapshot, and what it changed. Query: `id`; the newest one without. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    found = _chosen(project, "id") or _newest(project)
    if found is None:
        raise NotFound("The project has no snapshots yet.")
    parent_ids = parents_of(project.id, [found.id])[found.id]
    parents = snapshots_named(project.id, parent_ids)
    named = workspaces_named(project.id, [found.workspace_id])
    return render(
        "projects/snapshot.html",
        project=project,
        snapshot=found,
        parents=[parents[id] for id in parent_ids],
        manifest=manifest_row(project.account_id, found.manifest_hash),
        workspace=named.get(found.workspace_id or ""),
        people=people_of([found.created_by]),
        run=_run(project, found),
        heads=_heads(project),
        changes=_changes(project, parents[parent_ids[0]] if parent_ids else None, found),
    )


@project_page("/<project_id>/comparison")
def comparison(project_id: str) -> ResponseReturnValue:
    """What differs between two snapshots. Query: `before`, empty for no files, and `after`; by default the newest one and its first
    parent. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    after = _chosen(project, "after") or _newest(project)
    before = _chosen(project, "before")
    if before is None and after is not None and "before" not in request.args:
        ids = parents_of(project.id, [after.id])[after.id]
        before = snapshot_in(project.id, ids[0]) if ids else None
    offered = snapshots_page(project.id, CHOICES)
    extra = [each for each in (before, after) if each is not None and each not in offered]
    return render(
        "projects/comparison.html",
        project=project,
        before=before,
        after=after,
        choices=[
            (each.id, f"{snapshot_title(each)[:60]} ({short_id(each.id)})") for each in [*offered, *extra]
        ],
        changes=_changes(project, before, after),
    )


def _changes(project: Project, before: Snapshot | None, after: Snapshot | None) -> SnapshotChanges | None:
    """What differs; None if the files of one of them are not known to the server."""
    trees = tree_of(project, before), tree_of(project, after)
    if any(each is not None and tree is None for each, tree in zip((before, after), trees, strict=True)):
        return None
    return snapshot_changes(project.account_id, *trees)


def _run(project: Project, snapshot: Snapshot) -> AgentRun | None:
    """The run that made a snapshot, if the viewer sees it."""
    id = snapshot.run_id
    return find_run(project.account_id, id, user_id=viewed_member()) if id else None


def _chosen(project: Project, parameter: str) -> Snapshot | None:
    """The snapshot that the query names; None if it names none. Raises NotFound."""
    id = asked(parameter)
    if not id:
        return None
    found = snapshot_in(project.id, id)
    if found is None:
        raise NotFound("The project has no such snapshot.")
    return found


def _newest(project: Project) -> Snapshot | None:
    return next(iter(snapshots_page(project.id, 1)), None)


def _heads(project: Project) -> dict[str, list[Any]]:
    """The workspaces by the snapshot that is their head."""
    found: dict[str, list[Any]] = {}
    for each in main_first(project, workspaces_of(project.id)):
        found.setdefault(each.current_snapshot_id or "", []).append(each)
    return found


def _titles(project: Project, shown: Any, parents: Any) -> dict[str, str]:
    """Titles of the snapshots and of their parents, by id."""
    ids = {id for each in parents.values() for id in each[:3]} | {each.id for each in shown}
    return {id: snapshot_title(each) for id, each in snapshots_named(project.id, ids).items()}
