"""Whether commands can be sandboxed on this server: a small real escape is tried once in each process."""

import sys
import tempfile
import threading
from pathlib import Path

from models.core.db import extension
from models.core.settings import Settings
from models.runners.isolation_levels import LevelState, WorkplaceRequest, register_level
from models.runners.process_workplace import ProcessWorkplace, sandbox_home
from models.runners.sandbox_command import SandboxPlan, find_program
from models.runners.sandbox_home import SandboxesBusy
from models.runners.sandbox_process import SandboxProcess
from models.runners.workplace import CommandResult, Limits, Workplace

WORKS = (
    "Process: commands run in a sandbox on this server, as an unprivileged user without network; only the files of the tree can be "
    "written."
)
_LIMITS = Limits(wall_seconds=10, cpu_seconds=5, memory_bytes=256 << 20, processes=16, disk_bytes=8 << 20)
# each line is one escape; what succeeds is named
_ESCAPES = """
[ "$(id -u)" = 1000 ] || echo "it is not an unprivileged user"
touch /usr/.probe 2>/dev/null && echo "the system can be written"
[ -e {secret} ] && echo "other files of the server can be read"
grep -q "^CapEff:.*[1-9a-f]" /proc/self/status && echo "it has capabilities"
[ "$(ls -d /proc/[0-9]* | wc -l)" -lt 12 ] || echo "it sees other processes"
[ "$(tail -n +3 /proc/net/dev | grep -vc '^ *lo:')" = 0 ] || echo "it has a network"
touch ./probe && rm probe || echo "the tree cannot be written"
echo done
"""

_found: dict[tuple[str, Path, Path | None], LevelState] = {}
_lock = threading.Lock()


def process_state(settings: Settings) -> LevelState:
    """The state of the level `process` on this server, probed once by this process."""
    key = (settings.stoa_sandbox_command, settings.data_dir, settings.stoa_sandbox_dir)
    with _lock:
        if key not in _found:
            try:
                problem = _problem(settings)
            except SandboxesBusy:
                return LevelState(True, WORKS)  # busy, so it works
            except OSError as error:
                problem = f"the sandbox cannot be started ({error.strerror or error})"
            _found[key] = _state(problem)
        return _found[key]


def _state(problem: str) -> LevelState:
    if not problem:
        return LevelState(True, WORKS)
    return LevelState(
        False,
        f"Commands cannot run on this server: {problem}. Use the level virtual, or a runner of your own.",
    )


def _problem(settings: Settings) -> str:
    """What is wrong; empty if the level works."""
    if sys.platform != "linux":
        return "the sandbox needs Linux"
    program = find_program(settings)
    if program is None and settings.stoa_sandbox_command:
        return f"STOA_SANDBOX_COMMAND names {settings.stoa_sandbox_command}, which is no program here"
    if program is None:
        return "bubblewrap is not installed"
    home = sandbox_home(settings)
    if home.unreachable:
        return (
            f"other users than root cannot reach {home.base}: set STOA_SANDBOX_DIR to a folder that they can"
        )
    slot = home.lease("probe", "empty")
    try:
        slot.clear()
        with tempfile.NamedTemporaryFile(dir=home.base) as secret:
            plan = SandboxPlan(slot.make("work"), slot.make("tmp"), home.base / "etc", _LIMITS)
            command = ["/bin/sh", "-c", _ESCAPES.format(secret=secret.name)]
            process = SandboxProcess(program, plan, command, uid=slot.uid, seconds=10)
            return _found_in(process.communicate())
    finally:
        slot.clear()
        slot.release()


def _found_in(result: CommandResult) -> str:
    lines = [line.strip() for line in result.output.splitlines() if line.strip()]
    if result.ended == "exit" and lines[-1:] == ["done"]:
        return "" if len(lines) == 1 else f"the sandbox would not hold: {lines[0]}"
    said = next(
        (line for line in lines if line.startswith("bwrap:")), lines[0] if lines else "no reason given"
    )
    advice = ""
    if "namespace" in said or "ermission" in said or "Operation not permitted" in said or "uid map" in said:
        advice = "; the system forbids user namespaces to this user, see docs/runners.md"
    return f"bubblewrap ends with “{said[:200]}”{advice}"


def _probe(account_id: str | None) -> LevelState:
    return process_state(extension("settings"))


def _open(request: WorkplaceRequest) -> Workplace:
    return ProcessWorkplace(request)


register_level("process", _open, _probe)
