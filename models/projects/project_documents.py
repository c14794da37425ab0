"""Documents in the workspaces of a project: Markdown, text, README and the like (fastest contract 3.4)."""

from typing import NamedTuple

from models.core.cooperative import in_slices
from models.core.errors import Invalid, NotFound
from models.projects.project import Project
from models.projects.snapshots.blob_packs import blob_bytes
from models.projects.snapshots.manifest_store import manifest_entries, manifest_row
from models.projects.snapshots.manifest_text import Entry
from models.projects.workspaces.workspace import Workspace
from models.projects.workspaces.workspace_editing import workspaces_of

ENDINGS = (".md", ".txt", ".mdx")
NAMES = frozenset({"readme", "changelog", "license", "contributing", "todo", "notes"})


class WorkspaceDocuments(NamedTuple):
    """A workspace and its documents by path."""

    workspace: Workspace
    files: list[Entry]


class ReadDocument(NamedTuple):
    """A document of a workspace; bytes that are no UTF-8 are replaced."""

    workspace: Workspace
    content: str
    size: int


def documents_in(project: Project) -> list[WorkspaceDocuments]:
    """The documents of each workspace whose files are known: that named `main` first, then by name, without those that have none."""
    found = []
    for workspace in sorted(workspaces_of(project.id), key=_place):
        row = manifest_row(project.account_id, workspace.current_manifest_hash or "")
        if row is None or row.tree_hash is None:
            continue
        files = [entry for entry in in_slices(manifest_entries(row)) if _is_document(entry)]
        if files:
            found.append(WorkspaceDocuments(workspace, sorted(files, key=_path)))
    return found


def document_in(project: Project, workspace_id: str, path: str) -> ReadDocument:
    """A file of a workspace as text. Raises Invalid (422) for a missing parameter, NotFound, ManifestUnreadable (500), FilesUnavailable (503)."""
    if not workspace_id or not path:
        raise Invalid("'workspace' and 'path' are needed.")
    workspace = next((each for each in workspaces_of(project.id) if each.id == workspace_id), None)
    hash = workspace.current_manifest_hash if workspace else None
    row = manifest_row(project.account_id, hash) if hash else None
    if workspace is None or row is None:
        raise NotFound("The project has no such workspace, or its files are not stored.")
    entry = next((each for each in manifest_entries(row) if each.path == path and each.kind == "file"), None)
    data = blob_bytes(project.account_id, entry.hash) if entry and entry.hash else None
    if data is None:
        raise NotFound("The workspace has no such document.")
    return ReadDocument(workspace, data.decode(errors="replace"), len(data))


def _is_document(entry: Entry) -> bool:
    name = entry.path.rpartition("/")[2].lower()
    return entry.kind == "file" and (name.endswith(ENDINGS) or name in NAMES)


def _place(workspace: Workspace) -> tuple[bool, str, str]:
    return workspace.name != "main", workspace.name, workspace.id


def _path(entry: Entry) -> str:
    return entry.path
