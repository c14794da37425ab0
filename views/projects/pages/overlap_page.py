"""Which files several workspaces changed in different ways, as a matrix of workspaces and a list; it follows while they work."""

import hashlib
from typing import Any

from flask import Response, url_for
from flask.typing import ResponseReturnValue

from models.projects import Project, Workspace
from models.projects.project_listing import workspaces_named
from models.projects.workspaces.overlap_board import OverlapBoard, overlap_board
from models.projects.workspaces.overlap_matrix import OverlapMatrix, overlap_matrix, overlapping_paths
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.project_blueprint import asked, project_page, viewed_project
from views.web.htmx import render, wants_fragment

MAX_WORDS = 200
MAIN = "main"
"""How the query names the main workspace, whichever it is."""


@project_page("/<project_id>/overlaps")
def overlaps(project_id: str) -> ResponseReturnValue:
    """The overlaps of a project. Query: `q`, a part of the path; `first` and `other`, two workspaces, of which `main` is the main one. With htmx
    and `seen`, 204 if nothing changed. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    words, pair = asked("q").strip()[:MAX_WORDS], _pair(project)
    ids = [each.id for each in pair if each.id != project.main_workspace_id]
    with_main = len(ids) < len(pair)
    paths, more = overlapping_paths(project, words=words, between=ids, main=with_main)
    board, matrix = overlap_board(project, paths), overlap_matrix(project)
    seen = _digest(board, matrix)
    if wants_fragment() and asked("seen") == seen:
        return Response(status=204, headers={"Vary": "HX-Request"})
    query: dict[str, Any] = {
        "q": words or None,
        "first": asked("first") if pair else None,
        "other": asked("other") if pair else None,
    }
    return render(
        "projects/overlaps.html",
        partial="projects/_overlaps.html",
        project=project,
        main=workspaces_named(project.id, [project.main_workspace_id]).get(project.main_workspace_id or ""),
        board=board,
        matrix=matrix,
        more=more,
        words=words,
        pair=pair,
        query=query,
        poll=url_for("projects.overlaps", project_id=project.id, seen=seen, **query),
        unread=[each for each in board.workspaces if each.state != "complete"],
    )


def _pair(project: Project) -> list[Workspace]:
    """The two workspaces that the query names; none unless both are there."""
    ids = [project.main_workspace_id if id == MAIN else id for id in (asked("first"), asked("other"))]
    named = {each.id: each for each in workspaces_of(project.id)}
    found = [named[id] for id in dict.fromkeys(ids) if id in named]
    return found if len(found) == 2 else []


def _digest(board: OverlapBoard, matrix: OverlapMatrix) -> str:
    """What tells whether the page would show something else."""
    paths = [
        (each.path, each.main_changed, [(change.workspace.name, change.change) for change in each.changes])
        for each in board.paths
    ]
    pairs = sorted((sorted(pair), count) for pair, count in matrix.pairs.items())
    states = [(each.workspace.id, each.state) for each in board.workspaces]
    shown = repr((paths, [each.id for each in matrix.workspaces], pairs, sorted(matrix.main.items()), states))
    return hashlib.sha256(shown.encode()).hexdigest()[:16]
