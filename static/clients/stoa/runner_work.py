"""One work of a runner: its lease, the tree that it restores, the actions that it performs, and its end."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from stoa.blob_cache import BlobCache
from stoa.failures import Failure, Refused, Unreachable
from stoa.model_socket import ModelSocket
from stoa.project_exchange import batch_parts
from stoa.runner_files import Missing, RestoredTree, Unusable
from stoa.runner_processes import CommandLimits, Confinement, RunningCommand
from stoa.server_calls import Server, quoted
from stoa.tree_text import read_tree, sha

MOST_HASHES = 2_000
WAIT_SECONDS = 15
LOST = frozenset({"LEASE_LOST", "NO_RUNNER", "NOT_FOUND", "UNAUTHORIZED"})
"""Codes after which the work is somebody else's, or nobody's."""


class LeaseOver(Failure):
    """The work is not this runner's any more."""


class WorkItem(NamedTuple):
    """A work as the server leases it."""

    id: str
    lease: int
    lease_seconds: float
    manifest: str | None
    limits: dict[str, Any]
    model_token: str | None = None


class RunnerWork:
    """A work that this runner has. `end` may be called from any thread."""

    def __init__(
        self, server: Server, item: WorkItem, folder: Path, wall: Confinement, cache: BlobCache
    ) -> None:
        self.server, self.item, self.wall, self.cache = server, item, wall, cache
        self.path = f"/v1/runners/work/{quoted(item.id)}"
        self.folder = folder
        self.files = RestoredTree(folder)
        self.ending = ""
        self._over = threading.Event()
        self._command: RunningCommand | None = None
        self._models: ModelSocket | None = None
        self._seq = 0

    def perform(self) -> str:
        """Do it until the server says that it is over. Returns what became of it."""
        try:
            self._post("ack")
            if self.item.model_token:
                port = self.wall.shares_network
                self._models = ModelSocket(self.server, self.path, self.item.model_token, port=port)
            beating = threading.Thread(target=self._beat, name="stoa-heartbeats", daemon=True)
            beating.start()
            error = self._work()
            self._post("result", error=error)
            return error or "done"
        except LeaseOver:
            return "it was given to another runner, or stopped"
        except Unreachable as failure:
            return f"the server was lost: {failure}"
        finally:
            self._over.set()
            self._stop_command()
            if self._models is not None:
                self._models.close()
            remove(self.folder)

    def end(self, why: str) -> None:
        """End it now, with this as its error."""
        self.ending = self.ending or why
        self._stop_command()

    def _work(self) -> str | None:
        """Returns what went wrong, if anything did."""
        try:
            self._restore()
            replies: list[dict[str, Any]] = []
            while not self.ending:
                found = self._post("actions", again=True, replies=replies, wait_seconds=WAIT_SECONDS)
                replies = []
                if found["stop"]:
                    return None
                for action in found["actions"]:
                    self._seq = action["seq"]
                    reply = self._reply(action, found["stop_seq"])
                    replies.append({"seq": action["seq"], "reply": reply})
        except (Unreachable, LeaseOver):
            raise
        except Failure as error:
            return str(error)
        except OSError as error:
            return f"A file could not be used: {error.strerror or error}"
        return self.ending

    def _restore(self) -> None:
        remove(self.folder)
        self.folder.mkdir(parents=True, mode=0o700)
        if self.item.manifest is None:
            return
        try:
            text = self.server.call("GET", f"{self.path}/manifest", query={"lease": self.item.lease}).data
        except Refused as error:
            raise self._over_or(error) from None
        if sha(text) != self.item.manifest:
            raise Failure("The server sent another list of files than the work names.")
        tree = read_tree(text)
        self._fetch(sorted({each.hash for each in tree.values() if each.kind == "file"}))
        if not self.ending:
            self.files.restore(tree, self._bytes_of)
        self.cache.trim()

    def _fetch(self, wanted: list[str]) -> None:
        """Get those of these files that are not here."""
        wanted = [each for each in wanted if not self.cache.has(each)]
        while wanted and not self.ending:
            body = {"lease": self.item.lease, "hashes": wanted[:MOST_HASHES]}
            try:
                data = self.server.call("POST", f"{self.path}/blobs", body, again=True).data
            except Refused as error:
                raise self._over_or(error) from None
            got = set()
            for hash, content in batch_parts(data):
                self.cache.put(hash, content)
                got.add(hash)
            if not got:
                raise Failure(f"The server does not have {len(wanted):,} of the files, such as {wanted[0]}.")
            wanted = [each for each in wanted if each not in got]

    def _bytes_of(self, hash: str) -> bytes:
        for _ in range(3):
            data = self.cache.get(hash)
            if data is not None:
                return data
            # it was changed here, or removed for another work
            self._fetch([hash])
        raise Failure(f"The file {hash} cannot be kept here. Is the disk full?")

    def _reply(self, action: dict[str, Any], stop_seq: int) -> dict[str, Any]:
        try:
            return self._perform(action["verb"], action["arguments"], stopped=stop_seq >= action["seq"])
        except (Unreachable, LeaseOver):
            raise
        except Missing as error:
            return _error("not_found", str(error))
        except Unusable as error:
            return _error("invalid", str(error))
        except (OSError, Failure) as error:
            return _error("failed", getattr(error, "strerror", None) or str(error))
        except (KeyError, TypeError, ValueError) as error:
            return _error("failed", f"This runner does not know such an action ({error!r}). Update it.")

    def _perform(self, verb: str, given: dict[str, Any], stopped: bool) -> dict[str, Any]:
        files = self.files
        if verb == "list":
            return files.list(given["folder"], given["limit"])
        if verb == "read":
            return files.read(given["path"], given["offset"], given["limit"], given["max_bytes"])
        if verb == "write":
            return files.write(given["path"], given["content"], given["offset"], given["executable"])
        if verb == "delete":
            return files.delete(given["path"])
        if verb == "search":
            return files.search(given["words"], given["folder"], given["limit"])
        if verb == "changes":
            return files.changes()
        if verb == "run":
            if stopped:
                return {"ended": "stopped", "exit_code": None, "cut": False}
            return self._run(given)
        raise Failure(f"This runner does not know the action '{verb}'. Update it: download stoa.pyz again.")

    def _run(self, given: dict[str, Any]) -> dict[str, Any]:
        limits = self.item.limits
        allowed = CommandLimits(
            min(float(given["seconds"]), float(limits["wall_seconds"])),
            int(limits["cpu_seconds"]),
            int(limits["memory_bytes"]),
            int(limits["processes"]),
            int(limits["disk_bytes"]),
            int(limits["output_bytes"]),
        )
        parts = 0

        def tell(text: str) -> None:
            nonlocal parts
            heard = self._post("events", again=True, seq=self._seq, part=parts, output=text)
            parts += bool(text)
            self._hear(heard)

        command = RunningCommand(self.wall, self.folder, allowed, self.files.size, self._models)
        self._command = command
        try:
            if self.ending:
                command.stop()
            return command.run(str(given["command"]), dict(given["env"]), tell)
        finally:
            self._command = None

    def _hear(self, heard: dict[str, Any]) -> None:
        if heard["stop"] or heard["stop_seq"] >= self._seq > 0:
            self._stop_command()

    def _stop_command(self) -> None:
        command = self._command
        if command is not None:
            command.stop()

    def _beat(self) -> None:
        """Keep the lease, also while the server cannot be reached for a moment."""
        while not self._over.wait(self.item.lease_seconds / 3):
            with suppress(Failure):
                self._hear(self._post("heartbeat"))

    def _post(self, what: str, *, again: bool = False, **body: Any) -> Any:
        """Ask the server about the work. Raises LeaseOver, Failure."""
        given = {name: value for name, value in body.items() if value is not None}
        try:
            return self.server.post(f"{self.path}/{what}", {"lease": self.item.lease, **given}, again=again)
        except Refused as error:
            raise self._over_or(error) from None

    def _over_or(self, error: Refused) -> Exception:
        if error.code not in LOST:
            return error
        self.end("The lease was lost.")
        return LeaseOver(str(error))


def remove(folder: Path) -> None:
    """Remove a folder, whatever rights commands left on what is in it. Links in it are not followed."""
    if folder.is_symlink():
        folder.unlink()
    for above, folders, _ in os.walk(folder):
        for name in folders:
            place = Path(above, name)
            if not place.is_symlink():
                place.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message.replace("\0", "\ufffd")[:500]}}
