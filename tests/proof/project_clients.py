"""Clients of the proof of projects: each makes random moves in workspaces that it shares with others, and notes what the server confirmed."""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import urllib3

from tests.proof.cast import Person
from tests.proof.project_truth import Move, Tree, Truth, Turnstile, edited

TIMEOUT = urllib3.Timeout(connect=5, read=60)
TRIES = 40
WORKSPACES = 8
"""Live ones of a project."""


class Cut(Exception):
    """The connection broke: the server may have done it or not."""


class Answer(NamedTuple):
    status: int
    body: bytes
    version: int | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


@dataclass
class Shared:
    """A project, which several clients of one person move at the same time."""

    person: Person
    id: str = ""
    main: str = ""
    workspaces: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    """Projects that were deleted and not restored."""


class State(NamedTuple):
    """A workspace as a client read it."""

    snapshot_id: str | None
    manifest_hash: str | None
    version: int
    tree: Tree


class ProjectClient:
    """One client with random moves of its own seed."""

    def __init__(self, address: str, shared: Shared, truth: Truth, turnstile: Turnstile, seed: str) -> None:
        self.address, self.shared, self.truth, self.turnstile = address, shared, truth, turnstile
        self.chance = random.Random(seed)
        self._http = urllib3.PoolManager(retries=False, timeout=TIMEOUT)
        self._number = 0
        self._seed = seed

    # -- requests --------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, version: int | None = None) -> Answer:
        """One request. Raises Cut. Waits if there are too many, and while no worker or database answers (503)."""
        headers = {"Authorization": f"Bearer {self.shared.person.key}"}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if data is not None and not isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
        for _ in range(TRIES):
            try:
                got = self._http.request(method, f"{self.address}/v1{path}", body=data, headers=headers)
            except urllib3.exceptions.NewConnectionError:
                time.sleep(0.2)
                continue
            except urllib3.exceptions.HTTPError as error:
                raise Cut(f"{method} {path}: {error}") from error
            if got.status in (429, 503):
                self.truth.count(f"status {got.status}")
                time.sleep(min(float(got.headers.get("Retry-After", 1)), 5))
                continue
            if got.status >= 500:
                self.truth.fault(f"{method} {path}: {got.status} {got.data[:300]!r}")
            etag = got.headers.get("ETag", "").strip('"')
            return Answer(got.status, got.data, int(etag) if etag.isdigit() else None)
        raise Cut(f"{method} {path}: no answer")

    def safe(self, method: str, path: str, body: Any = None, version: int | None = None) -> Answer:
        """A request that may be repeated until it is answered."""
        for _ in range(TRIES):
            try:
                return self.call(method, path, body, version)
            except Cut:
                self.truth.count("cut")
                time.sleep(0.1)
        raise AssertionError(f"{method} {path} is never answered")

    def move(self, path: str, body: Any, version: int | None, attempt: Move) -> Answer | None:
        """A request that moves a workspace; None if a kill cut its answer off, so that it may have moved or not."""
        with self.truth.lock:
            self.truth.attempts.append(attempt)
        try:
            return self.call("POST", path, body, version)
        except Cut:
            self.truth.count("cut")
            with self.truth.lock:
                self.truth.unsure.append(attempt)
            return None

    def expect(self, answer: Answer, *statuses: int) -> bool:
        """Whether it has the first status; a fault unless it has one of them, or the workspace is deleted."""
        if answer.status not in statuses and not (answer.status == 404 and self.shared.deleted):
            self.truth.fault(f"expected {statuses}, got {answer.status}: {answer.body[:300]!r}")
        return answer.status == statuses[0]

    # -- reading and sending ---------------------------------------------------------------------------------

    def state(self, workspace: str) -> State | None:
        answer = self.safe("GET", f"/workspaces/{workspace}")
        if not self.expect(answer, 200):
            return None
        row = answer.json["workspace"]
        head, hash = row["current_snapshot_id"], row["current_manifest_hash"]
        assert answer.version is not None
        return State(
            head,
            hash,
            answer.version,
            self.tree(hash or self.truth.snapshots.get((self.shared.id, head or ""))),
        )

    def tree(self, hash: str | None) -> Tree:
        """The files of a manifest; those that the server made are read from it."""
        if hash is None:
            return {}
        found = self.truth.trees.get(hash)
        if found is None:
            answer = self.safe("GET", f"/blobs/manifests/{hash}")
            if answer.status != 200:
                self.truth.fault(f"the manifest {hash} is {answer.status}")
                return {}
            found = self.truth.learn(hash, answer.body)
        missing = [each for each in set(found.values()) if each not in self.truth.bytes]
        if missing:
            self.truth.bytes.update(self.download(missing))
        return found

    def download(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """The bytes of files; those that are missing are left out."""
        found: dict[str, bytes] = {}
        wanted = list(hashes)
        while wanted:
            answer = self.safe("POST", "/blobs/batch-download", {"hashes": wanted})
            got = dict(parts(answer.body))
            if not got:
                break
            found |= got
            wanted = [each for each in wanted if each not in got]
        return found

    def send(self, tree: Tree) -> str:
        """Send the files and the manifest that the server lacks; the hash of the manifest."""
        hash, text = self.truth.manifest(tree)
        missing = self.safe("POST", "/blobs/missing", {"hashes": sorted(set(tree.values()))}).json["missing"]
        if len(missing) == 1 or self.chance.random() < 0.2:
            for each in missing:
                self.expect(self.safe("PUT", f"/blobs/upload/{each}", self.truth.bytes[each]), 201, 200)
        elif missing:
            batch = b"".join(
                b"%s %d\n%s" % (each.encode(), len(self.truth.bytes[each]), self.truth.bytes[each])
                for each in missing
            )
            self.expect(self.safe("POST", "/blobs/batch", batch), 200)
        self.expect(self.safe("PUT", f"/blobs/manifests/{hash}", text), 201, 200)
        return hash

    # -- moves -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One random move."""
        weights: dict[Callable[[], None], int] = {
            self.push: 22,
            self.push_late: 6,
            self.edit: 12,
            self.restore: 6,
            self.undo_last: 8,
            self.undo_any: 10,
            self.sync: 18,
            self.abandon: 6,
            self.choose_main: 2,
            self.fork: 3,
            self.remove: 2,
            self.scratch: 2,
            self.collect: 2,
        }
        (move,) = self.chance.choices(list(weights), list(weights.values()))
        with self.turnstile.step():
            move()
        self.truth.count(move.__name__)

    def workspace(self) -> str:
        with self.truth.lock:
            live = [each for each in self.shared.workspaces if each not in self.shared.deleted]
        return self.chance.choice(live)

    def push(self, *, late: bool = False) -> None:
        """Send a snapshot of a workspace. `late`: with a version that the workspace had before, so that the head may not move."""
        workspace = self.workspace()
        if (state := self.state(workspace)) is None:
            return
        hash = self.send(edited(self.truth, state.tree, self.chance))
        self._number += 1
        id = f"proof-{self._seed}-{self._number}"
        body = {
            "manifest_hash": hash,
            "snapshot_id": id,
            "workspace_id": workspace,
            "parent_snapshot_ids": [state.snapshot_id] if state.snapshot_id else [],
        }
        version = state.version - 1 if late else state.version
        attempt = Move(workspace, "snapshot", id, hash)
        with self.truth.lock:
            self.truth.attempts.append(attempt)
        answer = self.safe("POST", f"/projects/{self.shared.id}/snapshots", body, version)
        if answer.status == 409 and answer.code == "VERSION_CONFLICT":
            self.truth.count("lost a race")
            assert answer.json["error"]["details"]["snapshot_id"] == id
        elif answer.status == 422 and workspace in self.shared.deleted:
            return
        elif answer.status in (200, 201):
            with self.truth.lock:
                self.truth.confirmed[id] = attempt
            if late:
                self.truth.fault(f"the snapshot {id} moved {workspace} from a version that it did not have")
        else:
            self.expect(answer, 201)
            return
        with self.truth.lock:
            self.truth.snapshots[self.shared.id, id] = hash

    def push_late(self) -> None:
        self.push(late=True)

    def edit(self) -> None:
        """Tell the files of a workspace without a snapshot."""
        workspace = self.workspace()
        if (state := self.state(workspace)) is None:
            return
        hash = self.send(edited(self.truth, state.tree, self.chance))
        attempt = Move(workspace, "manifest", state.snapshot_id, hash)
        body = {"manifest_hash": hash, "previous_manifest_hash": state.manifest_hash}
        answer = self.move(f"/workspaces/{workspace}/current-manifest", body, state.version, attempt)
        if answer is not None and self.expect(answer, 200, 409) and hash != state.manifest_hash:
            self._confirm(attempt, answer.version)

    def restore(self) -> None:
        """Move a workspace to any snapshot of the project."""
        workspace = self.workspace()
        with self.truth.lock:
            known = sorted(id for project, id in self.truth.snapshots if project == self.shared.id)
        id = self.chance.choice(known)
        attempt = Move(workspace, "restore", id, self.truth.snapshots[self.shared.id, id])
        answer = self.move(f"/workspaces/{workspace}/sync/undo", {"snapshot_id": id}, None, attempt)
        if answer is not None and self.expect(answer, 200):
            self._confirm(attempt, answer.version)

    def undo_last(self) -> None:
        self._undo(1)

    def undo_any(self) -> None:
        self._undo(100)

    def _undo(self, most: int) -> None:
        """Undo one of the last operations of a workspace, with random decisions."""
        workspace = self.workspace()
        listed = self.safe("GET", f"/workspaces/{workspace}/operations?limit={most}")
        if not self.expect(listed, 200) or not listed.json["operations"]:
            return
        operation = self.chance.choice(listed.json["operations"])
        path = f"/workspaces/{workspace}/operations/{operation['id']}/undo"
        plan = self.safe("GET", path)
        if operation["kind"] == "set_main":
            self._undo_main(path, plan)
            return
        if not self.expect(plan, 200):
            return
        decisions = {each: self.chance.choice(["keep", "undo"]) for each in plan.json["conflicts"]}
        attempt = Move(workspace, "undo", undoes=operation["id"], decisions=decisions)
        answer = self.move(path, {"decisions": decisions}, None, attempt)
        if answer is not None and self.expect(answer, 200, 409):
            self._confirm(attempt, answer.json["operation"]["version"])

    def _undo_main(self, path: str, plan: Answer) -> None:
        self.expect(plan, 200, 409)
        try:
            self.expect(self.call("POST", path, {}), 200, 409)
        except Cut:
            self.truth.count("cut")

    def sync(self) -> None:
        """Merge main into a workspace; sometimes execute the preview twice, or after a pause in which others may move."""
        workspace = self.workspace()
        prepared = self.safe("POST", f"/workspaces/{workspace}/sync/prepare")
        if not self.expect(prepared, 200, 400):
            return
        preview = prepared.json["preview"]
        if not preview["auto_actions"] and not preview["decisions_needed"]:
            return
        decisions = {
            each["path"]: self.chance.choice(each["options"])["id"] for each in preview["decisions_needed"]
        }
        if self.chance.random() < 0.2:
            time.sleep(self.chance.random() * 0.2)
        attempt = Move(
            workspace, "sync", preview=preview["id"], base=preview["base_snapshot_id"], decisions=decisions
        )
        after = self.chance.random() < 0.9
        body = {"preview_id": preview["id"], "decisions": decisions, "create_snapshot_after": after}
        for number in range(2 if self.chance.random() < 0.1 else 1):
            answer = self.move(f"/workspaces/{workspace}/sync/execute", body, None, attempt)
            if answer is None or not self.expect(answer, 200, 409, 404):
                return
            if number:
                self.truth.fault(f"the preview {preview['id']} was executed twice")
            self._confirm(attempt, answer.version)
            self._learn_snapshots(answer.json)

    def _learn_snapshots(self, done: dict[str, Any]) -> None:
        for name in ("snapshot_before_id", "snapshot_after_id"):
            if name in done:
                found = self.safe("GET", f"/snapshots/{done[name]}").json["snapshot"]["manifest_hash"]
                self.tree(found)
                with self.truth.lock:
                    self.truth.snapshots[self.shared.id, done[name]] = found

    def abandon(self) -> None:
        """Send files and a manifest, and never a snapshot of them; others may come to need the same."""
        known = self.chance.choice(list(self.truth.trees.values()))
        self.send(edited(self.truth, known, self.chance))

    def choose_main(self) -> None:
        workspace = self.workspace()
        try:
            answer = self.call("POST", f"/workspaces/{workspace}/set-as-main")
        except Cut:
            self.truth.count("cut")
            return
        self.expect(answer, 200)

    def fork(self) -> None:
        """Add a workspace that begins at any snapshot."""
        with self.truth.lock:
            if len(self.shared.workspaces) - len(self.shared.deleted) >= WORKSPACES:
                return
            known = sorted(id for project, id in self.truth.snapshots if project == self.shared.id)
        self._number += 1
        body = {"name": f"{self._seed} {self._number}", "base_snapshot_id": self.chance.choice(known)}
        answer = self.safe("POST", f"/projects/{self.shared.id}/workspaces", body)
        if self.expect(answer, 201, 409):
            self.shared.workspaces.append(answer.json["workspace"]["id"])

    def remove(self) -> None:
        """Delete a workspace, unless few are left or it is the main one."""
        with self.truth.lock:
            live = [each for each in self.shared.workspaces if each not in self.shared.deleted]
            if len(live) < 4:
                return
            workspace = self.chance.choice(live[1:])
            self.shared.deleted.add(workspace)
        answer = self.safe("DELETE", f"/workspaces/{workspace}")
        if answer.status == 409:
            self.shared.deleted.discard(workspace)
        else:
            self.expect(answer, 200)

    def scratch(self) -> None:
        """A project of its own that is deleted; half of them are restored, the others are purged and their bytes collected."""
        answer = self.safe("POST", "/projects", {"name": "Scratch"})
        id = answer.json["project"]["id"]
        hash = self.send(edited(self.truth, {}, self.chance))
        pushed = self.safe(
            "POST", f"/projects/{id}/snapshots", {"manifest_hash": hash, "snapshot_id": "first"}
        )
        self.expect(pushed, 201, 200)
        self.expect(self.safe("DELETE", f"/projects/{id}"), 200, 404)
        if self.chance.random() < 0.5:
            self.expect(self.safe("POST", f"/projects/{id}/restore"), 200)
            with self.truth.lock:
                self.truth.snapshots[id, "first"] = hash
        else:
            self.shared.gone.add(id)

    def collect(self) -> None:
        self.expect(self.safe("POST", "/blobs/gc", {"dryRun": self.chance.random() < 0.2}), 200)

    def _confirm(self, move: Move, version: int | None) -> None:
        assert version is not None, f"{move.kind} of {move.workspace} has no version"
        with self.truth.lock:
            self.truth.moves[move.workspace, version] = move


def parts(body: bytes) -> Any:
    """The hashes and bytes of a batch."""
    at = 0
    while at < len(body):
        end = body.index(b"\n", at) + 1
        hash, size = body[at:end].split()
        yield hash.decode(), body[end : end + int(size)]
        at = end + int(size)
