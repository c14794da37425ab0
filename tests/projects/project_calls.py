"""Calls of the JSON routes of projects, and manifests and blobs to send."""

import hashlib
import json
from typing import Any

from flask.testing import FlaskClient

from models.projects.snapshots.manifest_text import Entry, write_text
from tests.factories import Person


def sha(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def typed(files: dict[str, str], *more: Entry) -> bytes:
    """The typed manifest of files with these contents."""
    entries = [Entry(path, "file", 420, sha(text), len(text.encode())) for path, text in files.items()]
    return write_text([*entries, *more], "typed")


def indented(files: list[dict[str, Any]]) -> bytes:
    """A manifest with these entries as they are, in the layout of the contract."""
    return json.dumps({"version": "1", "files": files}, indent=2, ensure_ascii=False).encode()


class ProjectsApi:
    """A client with one person's key."""

    def __init__(self, client: FlaskClient, person: Person) -> None:
        self.client, self.headers = client, person.headers

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        answer = self.client.open(
            f"/v1{path}", method=method, json=body, headers={**self.headers, **(headers or {})}
        )
        return answer.status_code, answer.json

    def raw(self, method: str, path: str, data: bytes = b"") -> Any:
        return self.client.open(f"/v1{path}", method=method, data=data, headers=self.headers)

    def project(self, name: str = "Shop", query: str = "") -> str:
        status, body = self("post", f"/projects{query}", {"name": name})
        assert status == 201, body
        return str(body["project"]["id"])

    def workspace(self, project: str, name: str = "main", **more: Any) -> str:
        status, body = self("post", f"/projects/{project}/workspaces", {"name": name, **more})
        assert status == 201, body
        return str(body["workspace"]["id"])

    def blob(self, data: bytes | str, query: str = "") -> str:
        data = data.encode() if isinstance(data, str) else data
        assert self.raw("put", f"/blobs/upload/{sha(data)}{query}", data).status_code in (200, 201)
        return sha(data)

    def manifest(self, text: bytes, query: str = "") -> str:
        answer = self.raw("put", f"/blobs/manifests/{sha(text)}{query}", text)
        assert answer.status_code in (200, 201), answer.text
        return sha(text)

    def tree(self, files: dict[str, str]) -> str:
        """Store files and their manifest."""
        for text in set(files.values()):
            self.blob(text)
        return self.manifest(typed(files))

    def push(self, project: str, manifest_hash: str, **more: Any) -> str:
        status, body = self(
            "post", f"/projects/{project}/snapshots", {"manifest_hash": manifest_hash, **more}
        )
        assert status in (200, 201), body
        return str(body["snapshot"]["id"])
