"""Runs the tools of analysers in a sandbox of this server, where that works; else as programs with limits."""

import io
import logging
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from models.core.db import extension
from models.core.settings import Settings
from models.insights.tool_runner import (
    CPU_SECONDS,
    MAX_LINE,
    MAX_OUTPUT,
    WALL_SECONDS,
    AnalyserFailed,
    AnalyserTools,
)
from models.runners.isolation_levels import level_state
from models.runners.process_workplace import sandbox_home
from models.runners.sandbox_command import WORK, SandboxPlan, find_program
from models.runners.sandbox_home import SandboxesBusy, SandboxSlot
from models.runners.sandbox_process import SandboxProcess
from models.runners.workplace import Limits

log = logging.getLogger("stoa.insights")

PROGRAMS, PACKAGES = "/opt/stoa/bin", "/opt/stoa/lib"
"""Where the programs beside the server's Python and its packages are in the sandbox, read only."""
_MODULE = f"import runpy, sys; sys.path.insert(0, '{PACKAGES}'); del sys.argv[0]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
"""Runs a module in the Python of the system: the server's own may be where others cannot read."""
LISTED = "listed.txt"
LIMITS = Limits(
    wall_seconds=WALL_SECONDS,
    cpu_seconds=CPU_SECONDS,
    memory_bytes=2 << 30,
    processes=64,
    disk_bytes=1 << 30,
)
TRIED = (("ruff", "--version"), ("-m lizard", "--version"))
_works: dict[tuple[str, Path | None], bool] = {}
"""Whether the tools start in sandboxes with these settings, once it was tried."""
_lock = threading.Lock()


class SandboxedTools(AnalyserTools):
    """Runs them as an unprivileged user without network, who sees the folder, the system and the server's packages, all else not."""

    sandboxed = True

    def __init__(self, settings: Settings, program: str, slot: SandboxSlot) -> None:
        super().__init__(slot.make("work"))
        self.seen = WORK
        self._program, self._slot = program, slot
        self._plan = SandboxPlan(
            work=self.folder,
            temporary=slot.make("tmp"),
            etc=sandbox_home(settings).base / "etc",
            limits=LIMITS,
            env={"LC_ALL": "C.UTF-8", "RAYON_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": "1"},
            mounted={PROGRAMS: Path(sys.executable).parent, PACKAGES: Path(sysconfig.get_path("purelib"))},
        )

    def run(self, program: str, arguments: Sequence[str]) -> Iterator[str]:
        """See `AnalyserTools`."""
        module = program.removeprefix("-m ")
        own = [f"{PROGRAMS}/{program}"] if module == program else ["python3", "-I", "-c", _MODULE, module]
        process = SandboxProcess(
            self._program,
            self._plan,
            ["/bin/sh", "-c", 'exec "$@" 2>/dev/null', "sh", *own, *arguments],
            uid=self._slot.uid,
            seconds=WALL_SECONDS,
            watched=[self.folder, self._plan.temporary],
        )
        try:
            yield from _lines(process)
        finally:
            if process.running:
                process.end("stopped")
                process.wait()
            process.close()

    @contextmanager
    def listed(self, lines: Iterable[str]) -> Iterator[str]:
        """See `AnalyserTools`."""
        with (self._plan.temporary / LISTED).open("w") as file:
            file.writelines(f"{line}\n" for line in lines)
        yield f"/tmp/{LISTED}"  # noqa: S108 - the sandbox's own


@contextmanager
def open_tools() -> Iterator[AnalyserTools]:
    """A folder for code, and what runs tools on it: in a sandbox, if the level `process` works here and one is free. The folder goes at the
    end."""
    slot = _free_slot()
    if slot is not None:
        try:
            slot.clear()
            settings: Settings = extension("settings")
            yield SandboxedTools(settings, find_program(settings) or "", slot)
        finally:
            slot.clear()
            slot.release()
        return
    with TemporaryDirectory(prefix="stoa-analysis-", ignore_cleanup_errors=True) as name:
        yield AnalyserTools(Path(name))


def _free_slot() -> SandboxSlot | None:
    settings: Settings = extension("settings")
    key = (settings.stoa_sandbox_command, settings.stoa_sandbox_dir)
    if not level_state("process").available:
        return None
    home = sandbox_home(settings)
    try:
        with _lock:
            if key not in _works:
                _works[key] = _try(settings, home.lease("analysis", "probe"))
        return home.lease("analysis", "files") if _works[key] else None
    except SandboxesBusy:
        return None


def _try(settings: Settings, slot: SandboxSlot) -> bool:
    """Whether each tool starts: the user of a sandbox may not be allowed to read the server's packages."""
    try:
        slot.clear()
        tools = SandboxedTools(settings, find_program(settings) or "", slot)
        return all(list(tools.run(program, [argument])) for program, argument in TRIED)
    except (AnalyserFailed, OSError):
        log.info("analysers' tools do not start in a sandbox: they run with limits alone")
        return False
    finally:
        slot.clear()
        slot.release()


def _lines(process: SandboxProcess) -> Iterator[str]:
    output, read = io.BufferedReader(cast(io.RawIOBase, process.stdout)), 0
    while (line := output.readline(MAX_LINE)) and read < MAX_OUTPUT:
        read += len(line)
        yield line.decode("utf-8", "replace")
    if read >= MAX_OUTPUT:
        process.end("output")
    result = process.wait()
    if not result.succeeded or read >= MAX_OUTPUT:
        log.info("a tool in a sandbox ended by %s after %d bytes", result.ended, read)
        raise AnalyserFailed
