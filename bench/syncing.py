"""Preview, execution and undo of a sync between two workspaces of 10,000 files, 200 of them changed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from bench import merge
from bench.load import quantile
from models.projects.snapshots.manifest_text import Entry, read_entries, write_text

FILES, CHANGED, OVERLAPS = 10_000, 200, 20
ROUNDS = 6
PREVIEW_BUDGET, UNDO_BUDGET = 300, 200
"""Milliseconds."""

Line = tuple[str, str, str, str, bool]


class Api(Protocol):
    """Calls of the JSON API with one person's key: what a call answers, and the seconds that it took."""

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[Any, float]: ...

    def project(self, name: str) -> str: ...

    def workspace(self, project: str, name: str, base: str | None = None) -> str: ...

    def push(
        self, project: str, manifest: str, workspace: str | None = None, *parents: str
    ) -> tuple[str, float]: ...


@dataclass(slots=True)
class SyncTimes:
    """Seconds that each step took."""

    files: int
    prepare: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    execute: list[float] = field(default_factory=list)
    undo: list[float] = field(default_factory=list)
    undo_old: list[float] = field(default_factory=list)
    preview_old: list[float] = field(default_factory=list)


class _Synced:
    """A project whose main workspace and a copy of it both changed, by the API."""

    def __init__(self, client: Api, files: int) -> None:
        self._client, self.times = client, SyncTimes(files)
        trees = merge.Project(files, CHANGED, OVERLAPS)
        for hash, data in trees.blobs.items():
            client("PUT", f"/v1/blobs/upload/{hash}", data)
        self._project = client.project("sync")
        main = client.workspace(self._project, "main")
        base, _ = client.push(self._project, self._manifest(trees.base), main)
        self._copy = client.workspace(self._project, "copy", base)
        self._head, _ = client.push(self._project, self._manifest(trees.workspace), self._copy, base)
        client.push(self._project, self._manifest(trees.main), main, base)

    def round(self, number: int) -> None:
        """Sync and undo, sync again, work on, and undo the sync that is an old operation by then."""
        self._undo(self._sync(), self.times.undo)
        operation = self._sync()
        self._work_on(f"later{number}.py")
        _, took = self._call("GET", f"/operations/{operation}/undo")
        self.times.preview_old.append(took)
        self._undo(operation, self.times.undo_old)
        self._call("POST", "/sync/undo", {"snapshot_id": self._head})

    def _work_on(self, path: str) -> None:
        """Push what the workspace has with one more file."""
        state = self._call("GET", "")[0]["workspace"]
        text, _ = self._client("GET", f"/v1/blobs/manifests/{state['current_manifest_hash']}")
        entries = read_entries(orjson.dumps(text)) or []
        more = self._stored([*entries, entries[0]._replace(path=path)])
        self._client.push(self._project, more, self._copy, state["current_snapshot_id"])

    def _sync(self) -> str:
        answer, took = self._call("POST", "/sync/prepare")
        self.times.prepare.append(took)
        preview = answer["preview"]
        self.times.read.append(self._call("GET", f"/sync/previews/{preview['id']}")[1])
        decisions = {each["path"]: "use_main" for each in preview["decisions_needed"]}
        done, took = self._call(
            "POST", "/sync/execute", {"preview_id": preview["id"], "decisions": decisions}
        )
        self.times.execute.append(took)
        return str(done["operation_id"])

    def _undo(self, operation: str, times: list[float]) -> None:
        path = f"/operations/{operation}/undo"
        plan, _ = self._call("GET", path)
        body = {"decisions": dict.fromkeys(plan["conflicts"], "undo")}
        times.append(self._call("POST", path, body)[1])

    def _call(self, method: str, path: str, body: Any = None) -> tuple[Any, float]:
        return self._client(method, f"/v1/workspaces/{self._copy}{path}", body)

    def _manifest(self, tree: merge.Tree) -> str:
        return self._stored(
            [
                Entry(path, "file", each.mode, (each.hash or "").strip(), each.size)
                for path, each in tree.items()
            ]
        )

    def _stored(self, entries: list[Entry]) -> str:
        text = write_text(entries, "typed")
        hash = hashlib.sha256(text).hexdigest()
        self._client("PUT", f"/v1/blobs/manifests/{hash}", text)
        return hash


def measure(client: Api, files: int = FILES) -> SyncTimes:
    """Make a project of that many files, and sync its two workspaces some times."""
    synced = _Synced(client, files)
    for number in range(ROUNDS):
        synced.round(number)
    return synced.times


def lines(times: SyncTimes) -> Iterator[Line]:
    """Rows of the table."""
    for name, took, budget in (
        (f"preview of a sync, {CHANGED} changed, {OVERLAPS} by both sides", times.prepare, PREVIEW_BUDGET),
        ("a stored preview read again", times.read, PREVIEW_BUDGET),
        ("execution of a sync", times.execute, PREVIEW_BUDGET),
        ("undo of the last sync", times.undo, UNDO_BUDGET),
        ("preview of the undo of an old sync", times.preview_old, UNDO_BUDGET),
        ("undo of an old sync", times.undo_old, UNDO_BUDGET),
    ):
        middle, late = (quantile(took, part) * 1000 for part in (0.5, 0.95))
        yield (
            f"{name}, {times.files:,} files",
            f"p50 {middle:.0f} ms, p95 {late:.0f}",
            "",
            f"at most {budget} ms",
            middle <= budget,
        )
