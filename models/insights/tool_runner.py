"""Runs the tools of analysers as programs with limits, which hostile files may crash or exhaust without harm."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which

log = logging.getLogger("stoa.insights")

PROGRAM = Path(__file__).with_name("limited_tool.py")
WALL_SECONDS, CPU_SECONDS = 60.0, 100
MEMORY = 4 << 30
"""Bytes of address space; tools with threads reserve much more than they use."""
MAX_OUTPUT = 32 << 20
MAX_LINE = 1 << 20


class AnalyserFailed(Exception):
    """The tool did not end by itself, or with an error: what it wrote is not complete."""


class AnalyserTools:
    """Runs tools on the files of a folder, as programs with limits. `seen` is what tools call the folder."""

    sandboxed = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen = str(folder)

    def run(self, program: str, arguments: Sequence[str]) -> Iterator[str]:
        """The lines that a program beside the server's Python writes, or its module (`-m lizard`). Raises AnalyserFailed after those that it
        wrote, if it was stopped or wrote too much, and without the program."""
        if program.startswith("-m "):
            return run_tool([*program.split(" "), *arguments])
        found = server_program(program)
        if found is None:
            raise AnalyserFailed
        return run_tool([found, *arguments])

    @contextmanager
    def listed(self, lines: Iterable[str]) -> Iterator[str]:
        """A file with these lines, as tools call it."""
        with tempfile.NamedTemporaryFile("w", prefix="stoa-listed-", suffix=".txt") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            yield file.name


def server_program(name: str) -> str | None:
    """A program that was installed with the server."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else which(name)


def run_tool(command: Sequence[str], *, wall_seconds: float = WALL_SECONDS) -> Iterator[str]:
    """The lines that a tool writes. Raises AnalyserFailed after those that it wrote, if it was stopped or wrote too much."""
    with tempfile.TemporaryFile() as target:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-B", str(PROGRAM), str(CPU_SECONDS), str(MEMORY), *command],
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C.UTF-8", "RAYON_NUM_THREADS": "2"},
            cwd="/",
            start_new_session=True,
        )
        try:
            status = process.wait(wall_seconds)
        except subprocess.TimeoutExpired:
            status = -9
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        target.seek(0)
        read = 0
        while (line := target.readline(MAX_LINE)) and read < MAX_OUTPUT:
            read += len(line)
            yield line.decode("utf-8", "replace")
        if status != 0 or read >= MAX_OUTPUT:
            log.info("the tool %s ended with %d after %d bytes", Path(command[0]).name, status, read)
            raise AnalyserFailed
