"""Runs the parser of a document in a process of its own, which hostile documents may crash or exhaust without harm.

The process limits its own processor time, memory and output (`parsing.parser_process`), gets an empty environment and one temporary
file each for input and output, and is killed after `WALL_SECONDS`. No parser fetches anything; where the system allows it, the process
leaves the network too. What it read before it was killed is kept, and the report says so.
"""

import json
import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

log = logging.getLogger("stoa.index")

PROGRAM = Path(__file__).parent / "parsing" / "parser_process.py"
WALL_SECONDS = 120.0
CPU_SECONDS = {"pdf": 60}
"""Seconds of processor time by kind; others have `OTHER_SECONDS`."""
OTHER_SECONDS = 20
MAX_LINE = 16 << 20


@dataclass
class ParserOutput:
    """The text of a document by parts, which are `unit`s (page, slide, sheet; line: one part without pages).

    `notes` say what was refused, ignored or cut. `error` is a sentence if nothing could be read."""

    unit: str = "line"
    parts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    error: str | None = None


def run_parser(kind: str, data: bytes, *, wall_seconds: float = WALL_SECONDS) -> ParserOutput:
    """Parse a document of this kind (`document_types`). Blocks up to `wall_seconds`; raises nothing for any document."""
    with (
        tempfile.TemporaryFile() as source,
        tempfile.TemporaryFile() as target,
        tempfile.TemporaryFile() as errors,
    ):
        source.write(data)
        source.seek(0)
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-B", str(PROGRAM), kind, str(CPU_SECONDS.get(kind, OTHER_SECONDS))],
            stdin=source,
            stdout=target,
            stderr=errors,
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
        try:
            status = process.wait(wall_seconds)
        except subprocess.TimeoutExpired:
            status = -9
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        target.seek(0)
        output, finished = _read(target)
        if not finished:
            errors.seek(0)
            log.info(
                "a parser of %s ended with %d: %s", kind, status, errors.read(200).decode("utf-8", "replace")
            )
            _interrupted(output)
        return output


def _read(target: IO[bytes]) -> tuple[ParserOutput, bool]:
    output = ParserOutput()
    while line := target.readline(MAX_LINE):
        try:
            found: Any = json.loads(line)
        except ValueError:  # the last line of a process that was killed
            break
        if "part" in found:
            output.unit = found["unit"]
            output.parts.append(found["part"])
        elif "error" in found:
            output.error = found["error"]
            if output.parts:
                output.notes.append(_after(output))
                output.error = None
            return output, True
        else:
            report = found["report"]
            output.unit, output.notes, output.pictures = report["unit"], report["notes"], report["pictures"]
            return output, True
    return output, False


def _interrupted(output: ParserOutput) -> None:
    if output.parts:
        output.notes.append(_after(output))
    else:
        output.error = "Reading this file takes too much time or memory. Split it, or save it as PDF or text."


def _after(output: ParserOutput) -> str:
    count = len(output.parts)
    if output.unit == "line":
        return "The rest cannot be read."
    return f"Stopped after {output.unit} {count}: the rest takes too much time or memory, or is damaged."
