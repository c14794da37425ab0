"""Commands of a work of a runner: in a sandbox where bubblewrap is, bounded in time, memory, processes, disk and output, and stopped whole."""

from __future__ import annotations

import codecs
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, NamedTuple

from stoa.failures import Failure
from stoa.model_socket import PATH, ModelSocket

INNER_HOME = "/tmp"  # noqa: S108  (of the sandbox, in memory)
LOOK_SECONDS = 0.5
DISK_SECONDS = 5.0
TELL_SECONDS = 1.0
"""How often the server hears what a command writes, and says whether to stop it."""
TELL_BYTES = 256 << 10
SHELL = 'ulimit -c 0; ulimit -t "$1" 2>/dev/null; exec /bin/sh -c "$2"'
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ssl", "/etc/pki")
SYSTEM_FILES = (
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ca-certificates.conf",
    "/etc/localtime",
)
NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services")


class CommandLimits(NamedTuple):
    """Limits of one command: seconds, bytes and processes."""

    seconds: float
    cpu_seconds: int
    memory_bytes: int
    processes: int
    disk_bytes: int
    output_bytes: int


class Confinement(NamedTuple):
    """What commands are confined by: the bubblewrap that runs them, or None for nothing at all."""

    bubblewrap: str | None
    network: bool = False
    seen: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it is, for the page of runners."""
        if self.bubblewrap is None:
            return "no sandbox: commands may do what the user may"
        return "bubblewrap, " + ("with the network" if self.network else "without a network")

    @property
    def shares_network(self) -> bool:
        """Whether commands can reach ports of this computer."""
        return self.bubblewrap is None or self.network

    def command(self, root: Path, shell: list[str], models: ModelSocket | None = None) -> list[str]:
        """The command line that runs a shell in the folder, with the model doors if there are any."""
        if self.bubblewrap is None:
            return shell
        line = [self.bubblewrap, "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts"]
        line += ["--unshare-cgroup-try", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
        line += [] if self.network else ["--unshare-net"]
        line += ["--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]
        for place in SYSTEM:
            if os.path.islink(place):
                line += ["--symlink", os.readlink(place), place]
            elif os.path.isdir(place):
                line += ["--ro-bind", place, place]
        for place in (*SYSTEM_FILES, *(NETWORK_FILES if self.network else ())):
            line += ["--ro-bind-try", place, place]
        line += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", INNER_HOME]
        for place in self.seen:
            line += ["--ro-bind", place, place]
        if models is not None:
            line += models.binds()
            shell = models.forwarded(shell)
        return [*line, "--bind", str(root), "/work", "--chdir", "/work", "--", *shell]


def confinement(no_sandbox: bool, network: bool, seen: list[str]) -> Confinement:
    """What commands are confined by here. Raises Failure if it should be bubblewrap, and that does not work."""
    if no_sandbox:
        return Confinement(None, True)
    folders = tuple(os.path.realpath(os.path.expanduser(each)) for each in seen)
    if missing := [each for each in folders if not os.path.isdir(each)]:
        raise Failure(f"{missing[0]} is no folder (--see).", code="NO_FOLDER")
    found = os.environ.get("STOA_SANDBOX_COMMAND") or shutil.which("bwrap")
    advice = "Install bubblewrap, or say --no-sandbox: commands may then do all that you may."
    if not found:
        raise Failure(f"There is no sandbox here. {advice}", code="NO_SANDBOX")
    wall = Confinement(found, network, folders)
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            wall.command(Path(folder), ["/bin/sh", "-c", "exit 0"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=20,
            check=False,
        )
    if tried.returncode != 0:
        why = tried.stderr.decode(errors="replace").strip().splitlines()
        raise Failure(
            f"The sandbox does not work here ({why[-1] if why else tried.returncode}). {advice}",
            code="NO_SANDBOX",
        )
    return wall


class RunningCommand:
    """One command, from its start to its end. `stop` may be called from any thread."""

    def __init__(
        self,
        wall: Confinement,
        root: Path,
        limits: CommandLimits,
        size: Callable[[], int],
        models: ModelSocket | None = None,
    ) -> None:
        self.wall, self.root, self.limits, self.size, self.models = wall, root, limits, size, models
        self._process: Any = None
        self._stopped = False
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def run(self, command: str, env: dict[str, str], tell: Callable[[str], None]) -> dict[str, Any]:
        """Run it. `tell` is called with what it writes, and at least every second or so with nothing. Returns how it ended."""
        shell = ["/bin/sh", "-c", SHELL, "sh", str(max(1, self.limits.cpu_seconds)), command]
        start = time.monotonic()
        self._process = subprocess.Popen(
            self.wall.command(self.root, shell, self.models),
            cwd=self.root,
            env=self._environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended, cut = self._watch(start, tell)
        finally:
            self.kill()
            self._process.stdout.close()
        code = self._process.wait()
        return {
            "ended": ended,
            "exit_code": (code if code >= 0 else 128 - code) if ended == "exit" else None,
            "cut": cut,
            "seconds": time.monotonic() - start,
        }

    def stop(self) -> None:
        """End it."""
        self._stopped = True
        self.kill()

    def kill(self) -> None:
        """Kill it, and what it started."""
        process = self._process
        if process is not None and process.returncode is None:
            # it leads a group of its own; in a sandbox everything dies with it
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _environment(self, env: dict[str, str]) -> dict[str, str]:
        confined = self.wall.bubblewrap is not None
        own = {"PATH": os.environ.get("PATH", PATH) if not confined or self.wall.seen else PATH}
        own["HOME"] = INNER_HOME if confined else os.environ.get("HOME", "/")
        own["LANG"] = "C.UTF-8"
        if self.models is not None:
            own.update(self.models.environment(confined))
        return {
            **own,
            **{str(name): str(value) for name, value in env.items() if "\0" not in f"{name}{value}"},
        }

    def _watch(self, start: float, tell: Callable[[str], None]) -> tuple[str, bool]:
        pipe = self._process.stdout.fileno()
        os.set_blocking(pipe, False)
        waiting, written, cut, open_pipe = "", 0, False, True
        told = looked = start
        weighed = start
        while True:
            data = b""
            if open_pipe and select.select([pipe], [], [], 0.1)[0]:
                try:
                    data = os.read(pipe, 1 << 16)
                    open_pipe = bool(data)
                except BlockingIOError:
                    pass
            elif not open_pipe:
                time.sleep(0.05)
            kept = data[: max(0, self.limits.output_bytes - written)]
            written += len(kept)
            cut = cut or len(kept) < len(data)
            waiting += self._decode(kept).replace("\0", "\ufffd")
            moment = time.monotonic()
            over = not data and self._has_ended()
            if over or moment - told >= TELL_SECONDS or len(waiting) >= TELL_BYTES:
                tell(waiting)
                waiting, told = "", time.monotonic()
            if self._stopped:
                return "stopped", cut
            if over:
                return "exit", cut
            if moment - start > self.limits.seconds:
                ended = "timeout"
            elif moment - looked >= LOOK_SECONDS and self._is_too_large():
                ended = "memory"
            elif moment - weighed >= DISK_SECONDS and self.size() > self.limits.disk_bytes:
                ended = "disk"
            else:
                looked = moment if moment - looked >= LOOK_SECONDS else looked
                weighed = moment if moment - weighed >= DISK_SECONDS else weighed
                continue
            self.kill()
            tell(waiting)
            return ended, cut

    def _has_ended(self) -> bool:
        """Whether the command has ended. It stays a zombie, so that its group can still be killed."""
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, how) is not None

    def _is_too_large(self) -> bool:
        """Whether it and what it started use more memory, or are more processes, than they may. Known on Linux only."""
        if not sys.platform.startswith("linux"):
            return False
        above: dict[int, list[int]] = {}
        pages: dict[int, int] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            above.setdefault(int(fields[1]), []).append(int(name))
            pages[int(name)] = int(fields[21])
        found, queue = 0, [self._process.pid]
        used = 0
        while queue:
            process = queue.pop()
            found += 1
            used += pages.get(process, 0)
            queue += above.get(process, [])
        return used * os.sysconf("SC_PAGE_SIZE") > self.limits.memory_bytes or found > self.limits.processes
