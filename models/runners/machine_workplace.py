"""The level `machine`: the files of a tree at a runner of the account, asked over the queue of work.

The runner restores the tree on its machine and performs the verbs there, one after the other. What it answers is the word of a
machine that is not ours: paths, links, sizes and hashes are checked here before anything is stored. The socket of a turn is offered there too: the
runner hands model calls on to the doors of the work (`work_calls`), each in the turn's name. Its commands have no network unless its owner started it
with one; the hosts of a request are not opened for them.
"""

import base64
import binascii
import builtins
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from models.core.db import context_maker, extension
from models.core.errors import Conflict, DomainError, Invalid, NotFound
from models.core.job_queue import transaction
from models.projects.snapshots.blob_packs import MAX_BLOB
from models.projects.snapshots.manifest_text import target_problem
from models.runners import work_queue
from models.runners.account_runner import connected_runners
from models.runners.changed_tree import tree_of
from models.runners.isolation_levels import (
    NO_RUNNER,
    LevelState,
    LevelUnavailable,
    WorkplaceRequest,
    register_level,
)
from models.runners.runner_tables import HELD
from models.runners.tree_paths import file_path, folder_path
from models.runners.turn_socket import TurnSocket
from models.runners.work_news import WorkNews
from models.runners.work_queue import MAX_ATTEMPTS, OPENER
from models.runners.workplace import CommandResult, FileChange, Level, Matches, SearchMatch, TreeChanges

TAKEN_SECONDS = 45.0
"""How long a connected runner may take to begin; it may be at other work."""
VERB_SECONDS = 600.0
"""How long a verb may take while the runner is alive: before the first one it restores the tree."""
LOOK_SECONDS = 1.0
"""How often a work is looked at without news of it: its lease may end."""
PART_BYTES = 4 << 20
"""Bytes of files in one request or reply."""
MAX_CHANGED = 20_000
MAX_CHANGED_BYTES = 256 << 20
SENTENCE = "Machine: commands run on a runner of your own, on your machine."
CONNECTED = "Machine: commands run on your own runner {names}."


class RunnerLost(Conflict):
    """The runner is gone, and what was changed there with it."""

    code = "runner_lost"


class MachineWorkplace:
    """See `Workplace`. Safe for several threads: their verbs wait for each other, and `stop` does not wait. Each verb raises RunnerLost (409)
    if the runner is gone."""

    level: Level = "machine"

    def __init__(self, request: WorkplaceRequest) -> None:
        self._context = request.context or context_maker()
        self._output_bytes = request.limits.output_bytes
        self._verbs = threading.Lock()
        self._closed = threading.Event()
        self._request = request
        socket = request.socket if isinstance(request.socket, TurnSocket) else None
        with self._context(), transaction():
            self._news: WorkNews = extension("work_news")
            tree_of(request.account_id, request.root_manifest_hash)
            if not connected_runners(request.account_id, request.runner_labels):
                raise LevelUnavailable(_without(request))
            wanted = {"manifest_hash": request.root_manifest_hash, "limits": asdict(request.limits)}
            work = work_queue.open_work(
                request.account_id,
                "workplace",
                wanted,
                request.runner_labels,
                socket.calls_as if socket is not None else None,
            )
            self.work_id = work.id
        if socket is not None:
            socket.serve_work(self.work_id)
        threading.Thread(target=self._keep_wanted, name="stoa-machine-workplace", daemon=True).start()
        try:
            self._wait_until_taken()
        except BaseException:
            self.close()
            raise

    def list(self, folder: str = "", *, limit: int = 1_000) -> builtins.list[str]:
        """See `Workplace`."""
        reply = self._ask("list", folder=folder_path(folder), limit=limit)
        return [_text(name) for name in _list(reply, "names")][: max(limit, 0)]

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """See `Workplace`."""
        return self._read(file_path(path), min(max_bytes, MAX_BLOB))

    def write(self, path: str, content: bytes, *, executable: bool | None = None) -> None:
        """See `Workplace`."""
        path = file_path(path)
        if len(content) > MAX_BLOB:
            raise Invalid(f"A file may have {MAX_BLOB >> 20} MB.", code="limit_reached")
        for start in range(0, max(len(content), 1), PART_BYTES):
            part = base64.b64encode(content[start : start + PART_BYTES]).decode()
            self._ask("write", path=path, content=part, offset=start, executable=executable)

    def delete(self, path: str) -> None:
        """See `Workplace`."""
        self._ask("delete", path=file_path(path))

    def search(self, words: str, *, folder: str = "", limit: int = 200) -> Matches:
        """See `Workplace`."""
        if not words.strip():
            raise Invalid("Say what to search for.")
        reply = self._ask("search", words=words, folder=folder_path(folder), limit=limit)
        found = Matches()
        for each in _list(reply, "matches")[: max(1, min(limit, 1_000))]:
            if not (isinstance(each, builtins.list) and len(each) == 3 and isinstance(each[1], int)):
                raise _misbehaved()
            found.append(SearchMatch(_text(each[0]), each[1], _text(each[2])))
        found.cut = bool(reply.get("cut"))
        return found

    def run(
        self,
        command: str,
        *,
        seconds: float,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[str], None] | None = None,
    ) -> CommandResult:
        """See `Workplace`. A runner that is gone makes a result that ended as `lost`."""
        start, output = time.monotonic(), builtins.list[str]()

        def hear(text: str) -> None:
            output.append(text)
            if on_output is not None:
                on_output(text)

        arguments = {"command": command, "seconds": seconds, "env": dict(env or {})}
        try:
            reply = self._ask("run", seconds + VERB_SECONDS, hear, **arguments)
        except RunnerLost:
            return CommandResult("lost", None, "".join(output), time.monotonic() - start)
        ended, code = reply.get("ended"), reply.get("exit_code")
        if ended not in ("exit", "timeout", "memory", "output", "disk", "stopped"):
            raise _misbehaved()
        text = "".join(output)
        kept = text.encode()[: self._output_bytes].decode(errors="ignore")
        cut = bool(reply.get("cut")) or len(kept) < len(text)
        exit_code = code if ended == "exit" and type(code) is int else None
        if ended == "exit" and exit_code is None:
            raise _misbehaved()
        return CommandResult(ended, exit_code, kept, time.monotonic() - start, cut)

    def close_hosts(self) -> None:
        """See `Workplace`: none is open here."""

    def stop(self) -> None:
        """See `Workplace`."""
        with self._context(), transaction():
            work_queue.stop_command(self.work_id)

    def changes(self) -> TreeChanges:
        """See `Workplace`. Raises Conflict if a file changes while it is read."""
        reply = self._ask("changes")
        found = TreeChanges()
        total = 0
        for entry in _list(reply, "changes")[: MAX_CHANGED + 1]:
            if not isinstance(entry, dict):
                raise _misbehaved()
            path = _text(entry.get("path"))
            try:
                file_path(path)
                size = entry.get("size", 0)
                total += size if type(size) is int and size > 0 else 0
                found[path] = self._change(path, entry)
            except Invalid as error:
                found.refused[path] = error.message
            if len(found) > MAX_CHANGED or total > MAX_CHANGED_BYTES:
                raise Invalid(
                    f"More than {MAX_CHANGED:,} files or {MAX_CHANGED_BYTES >> 20} MB changed.",
                    code="limit_reached",
                )
        for path, why in (reply.get("refused") or {}).items():
            found.refused[_text(path)] = _text(why)[:200]
        return found

    def close(self) -> None:
        """See `Workplace`."""
        if not self._closed.is_set():
            self._closed.set()
            with suppress(DomainError), self._context(), transaction():
                work_queue.close_work(self.work_id)
            if self._request.socket is not None:
                self._request.socket.close()

    # -- asking ----------------------------------------------------------------------------------------------

    def _ask(
        self,
        verb: str,
        seconds: float = VERB_SECONDS,
        on_output: Callable[[str], None] | None = None,
        /,
        **arguments: Any,
    ) -> dict[str, Any]:
        """The reply of the runner. Raises what it says that went wrong, and RunnerLost."""
        with self._verbs:
            if self._closed.is_set():
                raise RunnerLost("This workplace is closed.")
            seq = self._asked(verb, arguments)
            reply = self._wait_for_reply(seq, seconds, on_output)
            with self._context(), transaction():
                work_queue.forget_action(self.work_id, seq)
        error = reply.get("error")
        if isinstance(error, dict):
            message = _text(error.get("message"))[:500]
            match error.get("code"):
                case "not_found":
                    raise NotFound(message)
                case "invalid":
                    raise Invalid(message)
            raise Conflict(message, code="runner_refused")
        return reply

    def _asked(self, verb: str, arguments: Mapping[str, Any]) -> int:
        """Number of the action that was queued."""
        for _ in range(MAX_ATTEMPTS):
            with self._context(), transaction():
                seq = work_queue.ask_action(self.work_id, verb, arguments)
                state, _ = work_queue.work_state(self.work_id)
            if seq is not None:
                return seq
            if state != "queued":
                break
            self._wait_until_taken()  # its first runner went before anything was asked of it
        raise self._lost()

    def _wait_for_reply(
        self, seq: int, seconds: float, on_output: Callable[[str], None] | None
    ) -> dict[str, Any]:
        until, heard = time.monotonic() + seconds, 0
        with self._news.watch(self.work_id) as news:
            while True:
                news.clear()
                with self._context():
                    reply, text = work_queue.action_progress(self.work_id, seq, heard)
                    state, _ = work_queue.work_state(self.work_id)
                if text and on_output is not None:
                    heard += len(text)
                    on_output(text)
                if reply is not None:
                    return reply
                if state not in HELD or self._closed.is_set() or time.monotonic() > until:
                    raise self._lost()
                news.wait(LOOK_SECONDS)

    def _lost(self) -> RunnerLost:
        with self._context():
            _, why = work_queue.work_state(self.work_id)
        return RunnerLost(f"The runner is lost, with what was changed there. {why}".strip())

    def _wait_until_taken(self) -> None:
        until = time.monotonic() + TAKEN_SECONDS
        with self._news.watch(self.work_id) as news:
            while True:
                news.clear()
                with self._context(), transaction():
                    work_queue.sweep_work(self._request.account_id)
                    state, why = work_queue.work_state(self.work_id)
                if state == "running":
                    return
                if state not in ("queued", "leased") or time.monotonic() > until:
                    busy = f"No runner began within {TAKEN_SECONDS:.0f} seconds: all are busy. Start another one."
                    raise LevelUnavailable(why or busy)
                news.wait(min(LOOK_SECONDS, TAKEN_SECONDS))

    def _keep_wanted(self) -> None:
        while not self._closed.wait(OPENER.total_seconds() / 4):
            with suppress(Exception), self._context(), transaction():
                work_queue.want_still(self.work_id)

    # -- files -----------------------------------------------------------------------------------------------

    def _read(self, path: str, most: int) -> bytes:
        content, size = b"", 1
        while len(content) < size:
            part = min(PART_BYTES, most)
            reply = self._ask("read", path=path, offset=len(content), limit=part, max_bytes=most)
            told = reply.get("size")
            size = told if isinstance(told, int) and not isinstance(told, bool) else -1
            piece = _bytes(reply.get("content"))
            if not 0 <= size <= most or len(piece) > part or (not piece and len(content) < size):
                raise _misbehaved()
            content += piece
        return content

    def _change(self, path: str, entry: Mapping[str, Any]) -> FileChange:
        """Raises Invalid for what a manifest cannot hold."""
        match entry.get("kind"):
            case "deleted":
                return FileChange()
            case "symlink":
                target = _text(entry.get("target"))
                if problem := target_problem(path, target):
                    raise Invalid(problem)
                return FileChange(target=target)
            case "file":
                sent = entry.get("content")
                content = self._read(path, MAX_BLOB) if sent is None else _bytes(sent)
                if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
                    raise Conflict(
                        f"{path[:200]} changed while it was read. Wait until nothing writes there."
                    )
                return FileChange(content, bool(entry.get("executable")))
        raise _misbehaved()


def _without(request: WorkplaceRequest) -> str:
    if not request.runner_labels or not connected_runners(request.account_id):
        return NO_RUNNER
    return f"No runner with the labels {', '.join(request.runner_labels)} is connected."


def _misbehaved() -> RunnerLost:
    return RunnerLost("The runner answered what no runner should. Update it: download stoa.pyz again.")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _misbehaved()
    return value


def _list(reply: Mapping[str, Any], name: str) -> builtins.list[Any]:
    found = reply.get(name)
    if not isinstance(found, builtins.list):
        raise _misbehaved()
    return found


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error:
        raise _misbehaved() from None


def _probe(account_id: str | None) -> LevelState:
    if account_id is None:
        return LevelState(False, SENTENCE)
    names = [each.name for each in connected_runners(account_id)]
    if not names:
        return LevelState(False, NO_RUNNER)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return LevelState(True, CONNECTED.format(names=", ".join(names[:3]) + more))


register_level("machine", MachineWorkplace, _probe)
