"""The files of a project: folders, and files with colours, of a workspace or of any snapshot."""

from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound
from models.projects import Project
from models.projects.code_highlighting import code_lines
from models.projects.merge.text_shape import is_binary
from models.projects.project_states import ProjectState, state_of
from models.projects.snapshots.blob_packs import blob_bytes, blob_stream
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.tree_reading import TreeFolder, read_path
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.project_blueprint import asked, project_page, viewed_project
from views.projects.pages.project_stories import snapshot_title
from views.projects.streamed_files import streamed
from views.web.htmx import render, see_other

MAX_SHOWN = 512 << 10
"""Bytes of a file that is shown."""
MAX_LINES = 3_000


@project_page("/<project_id>/files")
def files(project_id: str) -> ResponseReturnValue:
    """A folder or a file. Query: `path`, and of which `workspace` or snapshot (`at`); the main workspace by default. Raises NotFound,
    Forbidden, FilesUnavailable (503)."""
    project = viewed_project(project_id)
    state = state_of(project, workspace_id=asked("workspace"), snapshot_id=asked("at"))
    found = read_path(project.account_id, state.tree, asked("path")) if state.tree else None
    if found is None and asked("path"):
        raise NotFound("There is no such file or folder.")
    return render(
        "projects/files.html",
        project=project,
        state=state,
        state_query=_state_query(state),
        where=_where(state),
        folder=found if isinstance(found, TreeFolder) else None,
        entry=found if isinstance(found, Entry) else None,
        crumbs_of=_crumbs(found.path) if found else [],
        workspaces=workspaces_of(project.id),
        **_content(project, found),
    )


@project_page("/<project_id>/file")
def download(project_id: str) -> ResponseReturnValue:
    """The bytes of a file. Query as `files`; to the files without `path`. Raises NotFound, Forbidden, FilesUnavailable (503)."""
    project = viewed_project(project_id)
    if not asked("path"):
        return see_other(url_for("projects.files", project_id=project.id))
    state = state_of(project, workspace_id=asked("workspace"), snapshot_id=asked("at"))
    found = read_path(project.account_id, state.tree, asked("path")) if state.tree else None
    hash = found.hash if isinstance(found, Entry) else None
    stored = blob_stream(project.account_id, hash) if hash else None
    if stored is None or not isinstance(found, Entry):
        raise NotFound("There is no such file, or its bytes are not stored.")
    name = found.path.rpartition("/")[2]
    plain = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in name)
    headers = {"Content-Disposition": f'attachment; filename="{plain[:100]}"', "Cache-Control": "no-store"}
    return streamed(*stored, **headers)


def _content(project: Project, found: TreeFolder | Entry | None) -> dict[str, Any]:
    """The lines of a file, or why they are not shown."""
    nothing: dict[str, Any] = {"lines": None, "cut": False, "problem": ""}
    if not isinstance(found, Entry) or found.kind != "file":
        return nothing
    if found.size > MAX_SHOWN:
        return nothing | {"problem": "This file is too large to show. Download it."}
    data = blob_bytes(project.account_id, found.hash or "")
    if data is None:
        return nothing | {"problem": "No client has sent the bytes of this file yet."}
    if is_binary(data):
        return nothing | {"problem": "This file is no text. Download it."}
    text = data.decode(errors="replace").replace("\r\n", "\n")
    lines = code_lines(found.path, text)
    return nothing | {"lines": lines[:MAX_LINES], "cut": len(lines) > MAX_LINES}


def _state_query(state: ProjectState) -> dict[str, str]:
    """The parameters of a query that name the state."""
    if state.snapshot is not None:
        return {"at": state.snapshot.id}
    return {"workspace": state.workspace.id} if state.workspace is not None else {}


def _where(state: ProjectState) -> str:
    if state.snapshot is not None:
        return f"Snapshot “{snapshot_title(state.snapshot)}”"
    return f"Workspace “{state.workspace.name}”" if state.workspace is not None else "No workspace"


def _crumbs(path: str) -> list[tuple[str, str]]:
    """The names and paths of the folders above, and of itself."""
    parts = [each for each in path.split("/") if each]
    return [(name, "/".join(parts[: at + 1])) for at, name in enumerate(parts)]
