"""Runs the tools of analysers as programs with limits, which hostile files may crash or exhaust without harm."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("stoa.insights")

PROGRAM = Path(__file__).with_name("limited_tool.py")
WALL_SECONDS, CPU_SECONDS = 60.0, 100
MEMORY = 4 << 30
"""Bytes of address space; tools with threads reserve much more than they use."""
MAX_OUTPUT = 32 << 20
MAX_LINE = 1 << 20


class AnalyserFailed(Exception):
    """The tool did not end by itself, or with an error: what it wrote is not complete."""


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
