"""Answers of the routes of documents in workspaces (fastest contract 3.4)."""

from collections.abc import Sequence
from typing import Any

from models.projects.project_documents import WorkspaceDocuments
from views.web.operation import ResponseModel


class DocumentFile(ResponseModel):
    path: str
    workspace_id: str
    workspace_name: str
    size: int
    hash: str


class DocumentsOfWorkspace(ResponseModel):
    workspace_id: str
    workspace_name: str
    files: list[DocumentFile]


class DocumentsList(ResponseModel):
    workspaces: list[DocumentsOfWorkspace]
    total_files: int


class DocumentContent(ResponseModel):
    content: str
    path: str
    workspace_id: str
    workspace_name: str
    size: int


def documents_json(found: Sequence[WorkspaceDocuments]) -> dict[str, Any]:
    """A `DocumentsList`."""
    workspaces = []
    for workspace, files in found:
        named = {"workspace_id": workspace.id, "workspace_name": workspace.name}
        listed = [{"path": each.path, **named, "size": each.size, "hash": each.hash} for each in files]
        workspaces.append({**named, "files": listed})
    return {"workspaces": workspaces, "total_files": sum(len(each.files) for each in found)}
