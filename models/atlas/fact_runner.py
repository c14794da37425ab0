"""Reads many files in a process of its own, which hostile files may crash or exhaust without harm, while the caller does something else."""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("stoa.atlas")

PROGRAM = Path(__file__).parent / "fact_process.py"
WALL_SECONDS = 180.0
MAX_FAULTS = 5
"""Files that may end the process, before the rest of the batch is not read."""
Facts = dict[str, Any]
NOT_READ: Facts = {"lines": 0, "parsed": False, "failed": True}


class UnreadFile(NamedTuple):
    """A file to read."""

    key: str
    language: str
    data: bytes


class FactRun:
    """Reads a batch of files. It begins at once; `results` waits for it."""

    def __init__(self, files: Sequence[UnreadFile]) -> None:
        self._left = list(files)
        self._faults = 0
        self._start()

    def results(self) -> dict[str, Facts]:
        """The facts of each file by its key. Those of a file that cannot be read say `failed`. Raises nothing for any file."""
        found: dict[str, Facts] = {}
        while True:
            answers = self._finish()
            found |= answers
            self._left = [each for each in self._left if each.key not in answers]
            if not self._left:
                return found
            culprit = self._left.pop(0)
            self._faults += 1
            log.info("a file of %d bytes (%s) cannot be read", len(culprit.data), culprit.language)
            found[culprit.key] = dict(NOT_READ)
            if self._faults >= MAX_FAULTS:
                return found | {each.key: dict(NOT_READ) for each in self._left}
            if not self._left:
                return found
            self._start()

    def close(self) -> None:
        """End the process, if it runs, and remove its files."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._target.close()

    def _start(self) -> None:
        self._target = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        with tempfile.TemporaryFile() as source:
            for key, language, data in self._left:
                source.write(json.dumps([key, language, len(data)]).encode() + b"\n")
                source.write(data)
            source.seek(0)
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-B", str(PROGRAM)],
                stdin=source,
                stdout=self._target,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )

    def _finish(self) -> dict[str, Facts]:
        try:
            self._process.wait(WALL_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("the reader of files was killed after %d s", WALL_SECONDS)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        self._target.seek(0)
        found: dict[str, Facts] = {}
        for line in self._target:
            try:
                key, facts = json.loads(line)
            except ValueError:  # the last line of a process that was killed
                break
            found[key] = facts
        self._target.close()
        return found
