"""A project with a main workspace and another one, its pushes and syncs."""

import json
from typing import Any

from tests.projects.project_calls import ProjectsApi, typed

LINES = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n"


class SyncedProject:
    """Both workspaces start from one snapshot of the files `base`."""

    def __init__(self, api: ProjectsApi, base: dict[str, str], query: str = "") -> None:
        self.api, self.query = api, query
        self.id = api.project("Shop", query)
        self.main = api.workspace(self.id)
        self.base = self.push(self.main, base)
        self.copy = api.workspace(self.id, "copy", base_snapshot_id=self.base)

    def tree(self, files: dict[str, str]) -> str:
        for text in set(files.values()):
            self.api.blob(text, self.query)
        return self.api.manifest(typed(files), self.query)

    def push(self, workspace: str, files: dict[str, str]) -> str:
        """Push these files as the next snapshot of a workspace."""
        return self.push_manifest(workspace, self.tree(files))

    def push_manifest(self, workspace: str, hash: str) -> str:
        head = self.state(workspace)["current_snapshot_id"]
        parents = [head] if head else []
        return self.api.push(self.id, hash, workspace_id=workspace, parent_snapshot_ids=parents)

    def state(self, workspace: str) -> Any:
        return self.api("get", f"/workspaces/{workspace}")[1]["workspace"]

    def prepare(self, api: ProjectsApi | None = None) -> Any:
        """The preview of a sync of the copy."""
        status, body = (api or self.api)("post", f"/workspaces/{self.copy}/sync/prepare")
        assert status == 200, body
        return body["preview"]

    def execute(
        self, preview: str | None, api: ProjectsApi | None = None, version: str = "*", **body: Any
    ) -> tuple[int, Any]:
        path = f"/workspaces/{self.copy}/sync/execute"
        return (api or self.api)("post", path, {"preview_id": preview, **body}, {"If-Match": version})

    def sync(self, **body: Any) -> Any:
        """Prepare and execute."""
        status, done = self.execute(self.prepare()["id"], **body)
        assert status == 200, done
        return done

    def files(self, workspace: str | None = None) -> dict[str, str]:
        """What a workspace, by default the copy, has by path."""
        state = self.state(workspace or self.copy)
        hash = state["current_manifest_hash"] or self.snapshot(state["current_snapshot_id"])["manifest_hash"]
        return self.files_of(hash)

    def files_of(self, manifest_hash: str) -> dict[str, str]:
        text = self.api.raw("get", f"/blobs/manifests/{manifest_hash}{self.query}").data
        entries = json.loads(text)["files"]
        return {
            each["path"]: self.api.raw("get", f"/blobs/download/{each['hash']}{self.query}").text
            for each in entries
        }

    def snapshot(self, id: str) -> Any:
        return self.api("get", f"/snapshots/{id}")[1]["snapshot"]

    def operations(self) -> list[Any]:
        return list(self.api("get", f"/workspaces/{self.copy}/operations")[1]["operations"])
