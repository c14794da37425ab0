"""The level `process`: a tree on this server's disk, in which commands run in a sandbox."""

import builtins
import functools
import os
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from models.core.db import extension
from models.core.errors import Conflict, Invalid, NotFound
from models.core.settings import Settings
from models.projects.snapshots.blob_packs import MAX_BLOB
from models.projects.snapshots.manifest_store import tree_entries
from models.runners.agent_home import AgentHome, open_home
from models.runners.changed_tree import tree_of
from models.runners.host_proxy import HostProxy
from models.runners.isolation_levels import LevelUnavailable, WorkplaceRequest
from models.runners.line_search import MAX_FILE, LineSearch
from models.runners.open_folders import lstat, opened_folder, read_file, write_file
from models.runners.restored_tree import DiskTree, scan
from models.runners.sandbox_command import PATH, RUN, SERVED, SandboxPlan, find_program
from models.runners.sandbox_home import SandboxHome, SandboxSlot, keep, remove, take_kept
from models.runners.sandbox_process import TICK, SandboxProcess, disk_bytes
from models.runners.tree_paths import file_path, folder_path, ignored
from models.runners.workplace import CommandResult, Level, Matches, TreeChanges

TURN_PORT, HOSTS_PORT = 4180, 4181
"""Ports of 127.0.0.1 in the sandbox: the model doors, and the proxy to allowed hosts."""
KEPT_TREES = 4
"""Trees that a process remembers, to bring them up to date instead of restoring them."""
KEPT_ENTRIES = 50_000

_KEPT: dict[str, DiskTree] = {}
"""Trees that slots keep, by the token that is noted there."""
_HOMES: dict[tuple[Path, Path | None, int], SandboxHome] = {}
_kept_lock = threading.Lock()


class ProcessWorkplace:
    """See `Workplace`. Safe for several threads; several commands may run at once."""

    level: Level = "process"

    def __init__(self, request: WorkplaceRequest) -> None:
        self._request = request
        self._processes: set[SandboxProcess] = set()
        self._lock = threading.Lock()
        self._closed = False
        with (request.context or nullcontext)():
            self._settings: Settings = extension("settings")
            self._program = find_program(self._settings)
            if self._program is None:
                raise LevelUnavailable("Bubblewrap is not installed on this server.")
            self._home = sandbox_home(self._settings)
            root = tree_of(request.account_id, request.root_manifest_hash)
            self._tree_hash = root or "empty"
            self._slot = self._home.lease(request.account_id, self._tree_hash)
            try:
                self._tree = _restored(self._slot, request.account_id, root)
                for name in ("tmp", "run"):
                    self._slot.make(name)
                self._make_home()
                self._kept_home = self._open_home()
                self._proxy = self._open_proxy()
            except BaseException:
                if (home := getattr(self, "_kept_home", None)) is not None:
                    home.close()
                self._slot.clear()
                self._slot.release()
                raise

    # -- files ---------------------------------------------------------------------------------------------

    def list(self, folder: str = "", *, limit: int = 1_000) -> builtins.list[str]:
        """See `Workplace`."""
        with opened_folder(self._slot.work, folder_path(folder)) as number, os.scandir(number) as rows:
            names = [f"{row.name}/" if row.is_dir(follow_symlinks=False) else row.name for row in rows]
        shown = (name.encode("utf-8", "replace").decode() for name in names)
        return sorted(shown)[: max(limit, 0)]

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """See `Workplace`."""
        path = file_path(path)
        above, _, name = path.rpartition("/")
        with opened_folder(self._slot.work, above) as folder:
            return read_file(folder, name, path, min(max_bytes, MAX_BLOB))

    def write(self, path: str, content: bytes, *, executable: bool | None = None) -> None:
        """See `Workplace`."""
        path = file_path(path)
        above, _, name = path.rpartition("/")
        limit = self._request.limits.disk_bytes
        if len(content) > MAX_BLOB or len(content) + disk_bytes(self._watched, limit) > limit:
            raise Invalid(
                "The files of this workplace would have more bytes than it may.", code="limit_reached"
            )
        owner = self._slot.uid
        with opened_folder(self._slot.work, above, owner=owner, make=True) as folder:
            there = lstat(folder, name)
            if there is not None and stat.S_ISLNK(there.st_mode):
                raise Invalid(f"{path[:200]} is a link: name the file itself, or delete it first.")
            if executable is None:
                executable = there is not None and bool(there.st_mode & 0o100)
            write_file(folder, name, path, content, 0o755 if executable else 0o644, owner)

    def delete(self, path: str) -> None:
        """See `Workplace`."""
        path = file_path(path)
        above, _, name = path.rpartition("/")
        with opened_folder(self._slot.work, above) as folder:
            there = lstat(folder, name)
            if there is None:
                raise NotFound(f"There is no file or folder {path[:200]}.")
            if stat.S_ISDIR(there.st_mode):
                shutil.rmtree(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)

    def search(self, words: str, *, folder: str = "", limit: int = 200) -> Matches:
        """See `Workplace`."""
        folder = folder_path(folder)
        if not words.strip():
            raise Invalid("Say what to search for.")
        search = LineSearch(words, limit)
        with opened_folder(self._slot.work, folder) as start:
            for path, row in scan(start, lambda path: not ignored(f"{path}/x")):
                if search.over:
                    break
                if stat.S_ISREG(row.st_mode) and row.st_size <= MAX_FILE:
                    self._offer(search, f"{folder}/{path}" if folder else path)
        return search.found

    def changes(self) -> TreeChanges:
        """See `Workplace`. Reads what was written since the tree was opened: ask when no command runs."""
        return self._tree.changes()

    # -- commands ------------------------------------------------------------------------------------------

    def run(
        self,
        command: str,
        *,
        seconds: float,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[str], None] | None = None,
    ) -> CommandResult:
        """See `Workplace`. Everything that the command started ends with it."""
        process = self.start_process(command, seconds=seconds, env=env)
        try:
            return process.communicate(on_output)
        finally:
            self.end_process(process)

    def start_process(
        self,
        command: str,
        *,
        seconds: float,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        separate_errors: bool = False,
        served_port: int = 0,
        tick: float = TICK,
    ) -> SandboxProcess:
        """Start a shell command and return at once. The thread that calls must live as long as the process. With `stdin` it can be
        written to; with `separate_errors` its errors are in a stream of their own. `served_port`: a port that it listens on, which this server reaches by the socket `served`. A program that runs for
        long is looked at less often, every `tick` seconds.
        The caller ends it with `end_process`. Raises Conflict if the workplace is closed."""
        if "\0" in command or any("\0" in name + value for name, value in (env or {}).items()):
            raise Invalid("A command cannot contain a NUL character.")
        plan = self._plan(env or {}, served_port)
        if served_port:
            self.served.unlink(missing_ok=True)
        with self._lock:
            if self._closed:
                raise Conflict("This workplace is closed.")
            process = SandboxProcess(
                self._program or "",
                plan,
                ["/bin/sh", "-c", command],
                uid=self._slot.uid,
                stdin=stdin,
                seconds=seconds,
                watched=self._watched,
                home_bytes=self._settings.stoa_agent_home_mb << 20,
                separate_errors=separate_errors,
                tick=tick,
            )
            self._processes.add(process)
        return process

    def end_process(self, process: SandboxProcess) -> None:
        """Kill a process with what it started, if it still runs. Idempotent."""
        if process.running:
            process.end("stopped")
            process.wait()
        process.close()
        with self._lock:
            self._processes.discard(process)

    @property
    def served(self) -> Path:
        """Where the port of a process with `served_port` is reached: a socket, once the process has begun."""
        return self._slot.folder / "run" / SERVED

    def close_hosts(self) -> None:
        """See `Workplace`."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()

    def stop(self) -> None:
        """See `Workplace`."""
        with self._lock:
            running = [*self._processes]
        for process in running:
            process.end("stopped")

    def close(self) -> None:
        """See `Workplace`. The tree may be kept for the account's next workplace, out of reach of all others."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.stop()
        for process in [*self._processes]:
            self.end_process(process)
        self.close_hosts()
        for each in (self._request.socket, self._kept_home):
            if each is not None:
                each.close()
        try:
            if not _keep_tree(self._slot, self._tree, self._request.account_id, self._tree_hash):
                self._slot.clear()
        finally:
            self._slot.release()

    # -- parts ---------------------------------------------------------------------------------------------

    @property
    def _watched(self) -> tuple[Path, ...]:
        return self._slot.work, self._slot.folder / "tmp", self._slot.folder / "run"

    def _open_proxy(self) -> HostProxy | None:
        if not self._request.hosts:
            return None
        return HostProxy(
            self._home.base / "sockets", self._request.hosts, self._request.on_host, self._settings
        )

    def _make_home(self) -> None:
        home = self._slot.folder / "tmp" / "home"
        home.mkdir()
        if self._slot.uid is not None:
            os.chown(home, self._slot.uid, self._slot.uid)

    def _open_home(self) -> AgentHome | None:
        name = self._request.home
        if name is None:
            return None
        return open_home(self._home.base, self._request.account_id, name, self._settings, uid=self._slot.uid)

    def _plan(self, env: Mapping[str, str], served_port: int) -> SandboxPlan:
        sockets: dict[str, tuple[Path, int]] = {}
        own: dict[str, str] = {}
        forwards = has_python()
        if self._request.socket is not None:
            sockets["turn"] = self._request.socket.path, TURN_PORT if forwards else 0
            own.update(turn_env(forwards))
        if self._proxy is not None:
            sockets["hosts"] = self._proxy.path, HOSTS_PORT if forwards else 0
            own.update(proxy_env(forwards))
        return SandboxPlan(
            work=self._slot.work,
            temporary=self._slot.folder / "tmp",
            etc=self._home.base / "etc",
            limits=self._request.limits,
            env={**own, **env},
            sockets=sockets,
            run=self._slot.folder / "run",
            served=served_port if forwards else 0,
            home=self._kept_home.path if self._kept_home else None,
            shown=self._settings.stoa_sandbox_paths,
        )

    def _offer(self, search: LineSearch, path: str) -> None:
        above, _, name = path.rpartition("/")
        try:
            with opened_folder(self._slot.work, above) as folder:
                content = read_file(folder, name, path, MAX_FILE)
        except (Invalid, NotFound, OSError):
            return
        search.offer(path.encode("utf-8", "replace").decode(), content)


def sandbox_home(settings: Settings) -> SandboxHome:
    """The slots of this machine; what dead workers left is swept when a process first asks. Raises OSError."""
    key = (settings.data_dir, settings.stoa_sandbox_dir, settings.stoa_sandboxes)
    if key not in _HOMES:
        home = SandboxHome(settings)
        home.sweep()
        _HOMES[key] = home
    return _HOMES[key]


def sweep_sandboxes(settings: Settings) -> int:
    """Remove what dead workers left on this machine, and trees that were kept too long; returns from how many slots. Safe to run at any time."""
    return sandbox_home(settings).sweep() if sys.platform == "linux" else 0


@functools.cache
def has_python() -> bool:
    """Whether programs in the sandbox can run the forwarder."""
    return shutil.which("python3", path=PATH) is not None


def turn_env(forwards: bool) -> dict[str, str]:
    """What tells programs in a sandbox where the model doors are. The keys are not looked at."""
    if not forwards:
        return {"STOA_SOCKET": f"{RUN}/turn.sock"}
    here = f"http://127.0.0.1:{TURN_PORT}"
    return {
        "STOA_SOCKET": f"{RUN}/turn.sock",
        "OPENAI_BASE_URL": f"{here}/v1",
        "OPENAI_API_KEY": "of-the-turn",
        "ANTHROPIC_BASE_URL": here,
        "ANTHROPIC_API_KEY": "of-the-turn",
        "CODEBUFF_API_KEY": "of-the-turn",
        "NEXT_PUBLIC_CODEBUFF_APP_URL": here,
    }


def proxy_env(forwards: bool) -> dict[str, str]:
    """What tells programs in a sandbox where the proxy to allowed hosts is."""
    if not forwards:
        return {"STOA_PROXY_SOCKET": f"{RUN}/hosts.sock"}
    here = f"http://127.0.0.1:{HOSTS_PORT}"
    names = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), here)
    local = "127.0.0.1,localhost"
    return {**names, "NO_PROXY": local, "no_proxy": local}


def _restored(slot: SandboxSlot, account_id: str, root: str | None) -> DiskTree:
    """The tree on disk: what the slot kept of the account brought up to date, or restored."""
    kept = take_kept(slot) if slot.folder.exists() else None
    tree: DiskTree | None = None
    if kept is not None:
        with _kept_lock:
            tree = _KEPT.pop(kept[2], None)
    if tree is None or kept is None or kept[0] != account_id:
        tree = None
    same = tree is not None and kept is not None and kept[1] == (root or "empty")
    if same and tree is not None:
        entries = [*tree.entries.values()]
    else:
        entries = tree_entries(account_id, root) if root is not None else []
    if tree is not None:
        try:
            tree.become(account_id, entries)
            return tree
        except (Invalid, OSError):
            pass  # as if nothing had been kept
    if slot.folder.exists():
        slot.clear()
    tree = DiskTree(slot.make("work"), slot.uid)
    tree.become(account_id, entries)
    return tree


def _keep_tree(slot: SandboxSlot, tree: DiskTree, account_id: str, tree_hash: str) -> bool:
    """Keep a tree for the account's next workplace, unless it is too large to remember."""
    if len(tree.entries) > KEPT_ENTRIES:
        return False
    for name in ("tmp", "run"):
        remove(slot.folder / name)
    token = secrets.token_hex(16)
    keep(slot, account_id, tree_hash, token)
    with _kept_lock:
        _KEPT[token] = tree
        while len(_KEPT) > KEPT_TREES:
            del _KEPT[next(iter(_KEPT))]
    return True
