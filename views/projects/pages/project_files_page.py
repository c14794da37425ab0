"""The files of a project: folders, and files with colours, of a workspace or of any snapshot."""

from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.core.errors import NotFound
from models.projects import Project
from models.projects.code_highlighting import CodeWord, code_lines
from models.projects.merge.text_shape import is_binary
from models.projects.project_listing import main_first
from models.projects.project_states import ProjectState, state_of
from models.projects.snapshots.blob_packs import blob_bytes, blob_stream
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.tree_reading import TreeFolder, read_path
from models.projects.workspaces.workspace_editing import workspaces_of
from views.projects.pages.project_blueprint import asked, project_page, viewed_project
from views.web.htmx import render, see_other
from views.web.streamed_files import streamed

MAX_SHOWN = 512 << 10
"""Bytes of a file that is shown."""
MAX_LINES = 3_000
MAX_LINE = 2_000
"""Characters of a line that is shown."""
MAX_WORDS = 200
"""Characters of a search for names."""


@project_page("/<project_id>/files")
def files(project_id: str) -> ResponseReturnValue:
    """A folder or a file. Query: `path`, and of which `workspace` or snapshot (`at`); the main workspace by default; of a folder `q`, what
    names have, and `from`, after how many. With htmx and `from`: the next rows. Raises NotFound, Forbidden, FilesUnavailable (503)."""
    project = viewed_project(project_id)
    state = state_of(project, workspace_id=asked("workspace"), snapshot_id=asked("at"))
    words, start = asked("q").strip()[:MAX_WORDS], _start()
    found = (
        read_path(project.account_id, state.tree, asked("path"), words=words, start=start)
        if state.tree
        else None
    )
    if found is None and asked("path"):
        raise NotFound("There is no such file or folder.")
    return render(
        "projects/files.html",
        partial="projects/_more_files.html" if start and isinstance(found, TreeFolder) else None,
        project=project,
        state=state,
        state_query=_state_query(state),
        words=words,
        next_href=_next_href(project, found, _state_query(state), words, start),
        folder=found if isinstance(found, TreeFolder) else None,
        entry=found if isinstance(found, Entry) else None,
        crumbs_of=_crumbs(found.path) if found else [],
        workspaces=main_first(project, workspaces_of(project.id)),
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
    return streamed(*stored, headers)


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
    shown = [_shortened(line) for line in lines[:MAX_LINES]]
    return nothing | {"lines": shown, "cut": shown != lines}


def _shortened(line: list[CodeWord]) -> list[CodeWord]:
    """The words of a line up to `MAX_LINE` characters."""
    found: list[CodeWord] = []
    left = MAX_LINE
    for word in line:
        if left <= 0:
            break
        found.append(CodeWord(word.kind, word.text[:left]))
        left -= len(word.text)
    return found


def _start() -> int:
    """After how many rows of a folder to begin; 0 for anything odd."""
    text = asked("from")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0


def _next_href(
    project: Project, found: TreeFolder | Entry | None, of: dict[str, str], words: str, start: int
) -> str | None:
    """The address of the rows that follow in a folder."""
    if not isinstance(found, TreeFolder) or not found.more:
        return None
    query: dict[str, Any] = {
        **of,
        "path": found.path or None,
        "q": words or None,
        "from": start + len(found.rows),
    }
    return url_for("projects.files", project_id=project.id, **query)


def _state_query(state: ProjectState) -> dict[str, str]:
    """The parameters of a query that name the state."""
    if state.snapshot is not None:
        return {"at": state.snapshot.id}
    return {"workspace": state.workspace.id} if state.workspace is not None else {}


def _crumbs(path: str) -> list[tuple[str, str]]:
    """The names and paths of the folders above, and of itself."""
    parts = [each for each in path.split("/") if each]
    return [(name, "/".join(parts[: at + 1])) for at, name in enumerate(parts)]
