"""Sending snapshots with all that they need, parents first, and fetching trees and files; both go on where they stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any, Callable, NamedTuple

from stoa.failures import Failure, Refused
from stoa.object_packs import HEAD
from stoa.server_calls import Server, quoted
from stoa.tree_text import HASH, TreeEntry, read_tree, sha
from stoa.working_copy import WorkingCopy

MOST_HASHES = 10_000
"""Hashes of one request."""
BATCH_BYTES = 8 << 20
"""Bytes after which a batch is sent; one file may make it larger."""
BATCH_FILES = 2_000
PART_BYTES = 16 << 20
"""Bytes above which a file is sent in parts of as many."""


class RemoteWorkspace(NamedTuple):
    """A workspace as the server has it now: its head, its files, and its version, which `If-Match` names."""

    snapshot: str | None
    manifest: str | None
    version: str
    name: str

    @property
    def place(self) -> list[str | None]:
        """What a working copy remembers of it."""
        return [self.snapshot, self.manifest]


class ProjectExchange:
    """The project of a working copy on its server. `say` tells the user what goes on."""

    def __init__(self, server: Server, copy: WorkingCopy, say: Callable[[str], None]) -> None:
        self.server, self.copy, self.say = server, copy, say
        self.project = str(copy.config["project_id"])
        self._org = {"org_id": copy.config.get("org_id")}

    def workspace(self) -> RemoteWorkspace:
        """The workspace now."""
        reply = self.server.call("GET", f"/v1/workspaces/{quoted(self.copy.config['workspace_id'])}")
        found = self.server.read(reply)["workspace"]
        snapshot = found["current_snapshot_id"]
        manifest = found["current_manifest_hash"] or (snapshot and self.record(snapshot)["manifest_hash"])
        return RemoteWorkspace(snapshot, manifest, str(reply.headers.get("ETag") or ""), found["name"])

    # sending

    def send(self, id: str, workspace: RemoteWorkspace | None) -> bool:
        """Send a snapshot and those before it that the server does not have; move the workspace there if it is still as it was. Returns
        whether it moved. Every step may be repeated."""
        waiting = self.copy.unsent(id)
        for number, record in enumerate(waiting):
            self._send_files(record)
            last = number == len(waiting) - 1
            moved = self._send_snapshot(record, workspace if last else None)
            self.copy.keep_snapshot({**record, "sent": True, "new": None, "delta": None})
            if last and workspace is not None:
                if moved == "created":
                    self.copy.save(remote=[id, record["manifest_hash"]])
                    self.copy.tidy()
                    return True
                if moved == "stale":
                    return False
        if workspace is None:
            return False
        now = self.workspace()
        if now.snapshot != id:
            # the snapshot was sent before, but the workspace is elsewhere
            if now.version != workspace.version:
                return False
            path = f"/v1/workspaces/{quoted(self.copy.config['workspace_id'])}/sync/undo"
            self.server.post(path, {"snapshot_id": id}, headers={"If-Match": now.version})
            now = self.workspace()
        self.copy.save(remote=now.place)
        self.copy.tidy()
        return now.snapshot == id

    def _send_files(self, record: dict[str, Any]) -> None:
        files = record.get("new")
        if files is None:
            text = self._own_text(record)
            entries = [each for each in read_tree(text).values() if each.kind == "file"]
            files = {each.hash: [each.path, each.size] for each in entries}
        missing = self._missing(sorted(files))
        if missing:
            self.say(f"Sending {len(missing):,} file{'s' * (len(missing) > 1)} …")
        for hash in (each for each in missing if files[each][1] > PART_BYTES):
            self._send_parts(hash, self._bytes(hash, files[hash][0]))
        small = [each for each in missing if files[each][1] <= PART_BYTES]
        for batch in self._batches(small, files):
            self.server.json("POST", "/v1/blobs/batch", batch, query=self._org, again=True)
        if not self._send_delta(record):
            path = f"/v1/blobs/manifests/{record['manifest_hash']}"
            self.server.json("PUT", path, self._own_text(record), query=self._org)

    def _send_delta(self, record: dict[str, Any]) -> bool:
        """Send what changed in the list of files; False if the server needs the whole one."""
        if not record.get("delta"):
            return False
        path = f"/v1/blobs/manifests/{record['manifest_hash']}/changes"
        try:
            self.server.json("POST", path, record["delta"], query=self._org, again=True)
        except Refused as error:
            if error.status in (400, 404, 405, 422):
                return False  # an older server, or one that does not have the base as we do
            raise
        return True

    def _own_text(self, record: dict[str, Any]) -> bytes:
        text = self.copy.manifest(record["manifest_hash"])
        if text is None:
            raise Failure(f"The list of files of snapshot {record['id']} is lost here.", code="BYTES_MISSING")
        return text

    def _missing(self, hashes: list[str]) -> list[str]:
        found: list[str] = []
        for part in _parts(hashes, MOST_HASHES):
            body = {"hashes": part}
            found += self.server.json("POST", "/v1/blobs/missing", body, query=self._org, again=True)[
                "missing"
            ]
        return found

    def _bytes(self, hash: str, path: str) -> bytes:
        """The bytes of a file that is to be sent. Raises Failure."""
        data = self.copy.objects.get(hash)
        data = self.copy.file(path, hash) if data is None else data
        if data is None:
            raise Failure(
                f"The bytes of a file ({hash[:12]}…) are neither here nor on the server. Take a new snapshot.",
                code="BYTES_MISSING",
            )
        return data

    def _send_parts(self, hash: str, data: bytes) -> None:
        """Send a large file from where the server says that an earlier attempt stopped. Raises Failure."""
        path = f"/v1/blobs/parts/{hash}"
        received = self.server.json("GET", path, query=self._org)
        tries = 2 * (len(data) // PART_BYTES + 2)
        while not received["complete"] and tries:
            at, tries = received["received"], tries - 1
            query = {**self._org, "offset": at, "size": len(data)}
            try:
                received = self.server.json("PUT", path, data[at : at + PART_BYTES], query=query)
            except Refused as error:
                if error.code != "OTHER_PART":
                    raise
                # its answer was lost, or another client sends the same file
                received = self.server.json("GET", path, query=self._org)
        if not received["complete"]:
            raise Failure("A large file could not be sent. Run the command again.", code="BYTES_MISSING")

    def _batches(self, hashes: list[str], files: dict[str, list[Any]]) -> Iterator[bytes]:
        batch, count = bytearray(), 0
        for hash in hashes:
            data = self._bytes(hash, files[hash][0])
            if batch and (len(batch) + len(data) > BATCH_BYTES or count == BATCH_FILES):
                yield bytes(batch)
                batch, count = bytearray(), 0
            batch += b"%s %d\n" % (hash.encode(), len(data)) + data
            count += 1
        if batch:
            yield bytes(batch)

    def _send_snapshot(self, record: dict[str, Any], workspace: RemoteWorkspace | None) -> str:
        """Send one snapshot: `created`, `known` if the server had it, `stale` if the workspace moved meanwhile."""
        body = {
            "snapshot_id": record["id"],
            "manifest_hash": record["manifest_hash"],
            "parent_snapshot_ids": record["parents"],
            "message": record["message"],
            "summary": record["message"],
            "author_name": record["author_name"],
            "author_email": record["author_email"],
            "created_at": record["created_at"],
            "agent": record.get("agent"),
            "run_id": record.get("run_id") or None,
            "source": "cli",
        }
        headers = {}
        if workspace is not None:
            body["workspace_id"] = self.copy.config["workspace_id"]
            headers["If-Match"] = workspace.version
        given = {name: value for name, value in body.items() if value is not None}
        path = f"/v1/projects/{quoted(self.project)}/snapshots"
        try:
            done = self.server.post(path, given, headers=headers, again=True)
        except Refused as error:
            if error.code == "RUN_NOT_FOUND":
                # it would keep back all that come after it
                self.say(
                    f"The snapshot does not name the run {record['run_id']}: it is no run of yours here."
                )
                return self._send_snapshot({**record, "run_id": None}, workspace)
            if error.code != "VERSION_CONFLICT":
                raise
            return "stale"  # the server keeps it beside the head
        return "created" if done["created"] else "known"

    # fetching

    def record(self, id: str) -> dict[str, Any]:
        """What is known of a snapshot, here or else on the server. Raises Failure if a computed id does not match."""
        if found := self.copy.snapshot(id):
            return found
        record = checked_record(self.server.get(f"/v1/snapshots/{quoted(id)}")["snapshot"])
        self.copy.keep_snapshot(record)
        return record

    def tree(self, manifest: str | None) -> dict[str, TreeEntry]:
        """The tree that a manifest lists; empty for none."""
        if manifest is None:
            return {}
        text = self.copy.manifest(manifest)
        if text is None:
            reply = self.server.call("GET", f"/v1/blobs/manifests/{quoted(manifest)}", query=self._org)
            text = reply.data
            if sha(text) != manifest:
                raise Failure(
                    "The server sent another list of files than was asked for.", code="HASH_MISMATCH"
                )
            self.copy.keep_manifest(text)
        return read_tree(text)

    def fetch(self, hashes: Iterable[str]) -> None:
        """Keep the bytes of these files here."""
        wanted = [each for each in dict.fromkeys(hashes) if each not in self.copy.objects]
        if wanted:
            self.say(f"Fetching {len(wanted):,} file{'s' * (len(wanted) > 1)} …")
        while wanted:
            body = {"hashes": wanted[:MOST_HASHES]}
            reply = self.server.call("POST", "/v1/blobs/batch-download", body, query=self._org, again=True)
            self.copy.objects.add(batch_parts(reply.data))
            got = {each for each in wanted if each in self.copy.objects}
            if not got and (data := self._large(wanted[0])) is not None:
                self.copy.objects.add([(wanted[0], data)])
                got = {wanted[0]}
            if not got:
                raise Failure(
                    f"The server does not have {len(body['hashes']):,} of the files, such as {wanted[0]}.",
                    code="BYTES_MISSING",
                    details={"hashes": body["hashes"][:100]},
                )
            wanted = [each for each in wanted if each not in got]

    def _large(self, hash: str) -> bytes | None:
        """The bytes of a file that no batch has, since it is large; None if the server does not have it. Raises Failure."""
        try:
            path = f"/v1/blobs/download/{quoted(hash)}"
            data = self.server.call("GET", path, query=self._org).data
        except Refused as error:
            if error.status != 404:
                raise
            return None
        if sha(data) != hash:
            raise Failure("A file was damaged on its way. Run the command again.", code="HASH_MISMATCH")
        return data


def batch_parts(body: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a batch, each checked against its hash. Raises Failure."""
    at = 0
    while at < len(body):
        head = HEAD.match(body, at)
        end = head.end() + int(head[2]) if head else 0
        if head is None or end > len(body):
            raise Failure(
                "The server sent files in a format that this client does not know.", code="NOT_STOA"
            )
        data = body[head.end() : end]
        if sha(data) != head[1].decode():
            raise Failure("A file was damaged on its way. Run the command again.", code="HASH_MISMATCH")
        yield head[1].decode(), data
        at = end


def computed_id(manifest: str, parents: Iterable[str], name: str, email: str, created_at: str) -> str:
    """The id of a snapshot with this content; `created_at` is RFC 3339 in UTC, to the second."""
    lines = "".join(f"parent {parent}\n" for parent in sorted(parents))
    text = f"snapshot\0manifest_hash {manifest}\n{lines}author {name} {email}\ncreated_at {created_at}\n"
    return hashlib.sha256(text.encode()).hexdigest()


def checked_record(sent: dict[str, Any]) -> dict[str, Any]:
    """What this client keeps of a snapshot of the server. Raises Failure if its id says something else than it does."""
    name, email = sent.get("author_name") or "", sent.get("author_email") or ""
    moment = sent.get("client_created_at") or sent["created_at"]
    parents = list(sent["parent_snapshot_ids"])
    if HASH.fullmatch(sent["id"]) and sent.get("client_created_at"):
        text = second_text(datetime.fromisoformat(moment.replace("Z", "+00:00")))
        if computed_id(sent["manifest_hash"], parents, name, email, text) != sent["id"]:
            raise Failure(f"Snapshot {sent['id']} is not what its id says.", code="SNAPSHOT_MISMATCH")
    return {
        "id": sent["id"],
        "manifest_hash": sent["manifest_hash"],
        "parents": parents,
        "message": sent.get("message") or sent.get("summary"),
        "author_name": name,
        "author_email": email,
        "created_at": moment,
        "sent": True,
    }


def second_text(moment: datetime) -> str:
    """A time as ids have it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parts(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
