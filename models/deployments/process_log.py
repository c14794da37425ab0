"""What a process of a deployment writes: in files of bounded size, read from any byte on."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from models.core.db import now
from models.core.redaction import redact

FILE_BYTES, FILES = 256 << 10, 8
"""Of one file, and how many are kept."""
MAX_LINE = 4_000
RATE, BURST = 64 << 10, 1 << 20
"""Bytes a second that are kept of what it writes, and at once."""
PAGE_BYTES = 256 << 10


class OutputLine(NamedTuple):
    """A line, and when it was written (RFC 3339, UTC)."""

    written_at: str
    text: str


class OutputPage(NamedTuple):
    """Lines in order; `next` is where to read on. `skipped`: lines before them are no longer kept."""

    lines: list[OutputLine]
    next: int
    skipped: bool


class ProcessLog:
    """Takes what processes of one deployment write, without the values of variables. Lines beyond a rate are counted only."""

    def __init__(self, folder: Path, secrets: Iterable[str]) -> None:
        self._folder, self._secrets = folder, list(secrets)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = _files(folder)
        self._path = files[-1][1] if files else folder / _name(0)
        self._end = files[-1][0] + files[-1][1].stat().st_size if files else 0
        self._rest, self._left_out = "", 0
        self._room, self._at = float(BURST), time.monotonic()
        self._lock = threading.Lock()

    def take(self, piece: str) -> None:
        """A piece of output."""
        with self._lock:
            *lines, self._rest = (self._rest + piece).split("\n")
            if len(self._rest) > MAX_LINE:
                lines, self._rest = [*lines, self._rest], ""
            self._write(lines)

    def say(self, text: str) -> None:
        """A line of the server's own."""
        with self._lock:
            rest, self._rest = self._rest, ""
            self._room = max(self._room, 1_000.0)
            self._write([*([rest] if rest else []), f"— {text}"])

    def _write(self, lines: list[str]) -> None:
        moment = time.monotonic()
        self._room = min(BURST, self._room + (moment - self._at) * RATE)
        self._at = moment
        text = ""
        stamp = f"{now().isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"
        for line in lines:
            if self._room < 0:
                self._left_out += 1
                continue
            if self._left_out:
                text += f"{stamp} — {self._left_out:,} lines are left out: it writes more than {RATE >> 10} KiB a second.\n"
                self._left_out = 0
            plain = redact(line.rstrip("\r").replace("\0", ""), self._secrets)[:MAX_LINE]
            text += f"{stamp} {plain}\n"
            self._room -= len(plain) + 26
        if text:
            self._append(text.encode(errors="replace"))

    def _append(self, data: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size >= FILE_BYTES:
            self._path = self._folder / _name(self._end)
            for _, old in _files(self._folder)[: 1 - FILES]:
                old.unlink(missing_ok=True)
        with self._path.open("ab") as file:
            file.write(data)
        self._end += len(data)


def read_output(folder: Path, after: int | None = None) -> OutputPage:
    """What was written after this byte, at most 256 KiB of it; None: the newest."""
    files = _files(folder)
    if not files:
        return OutputPage([], 0, skipped=False)
    first, end = files[0][0], files[-1][0] + files[-1][1].stat().st_size
    whole = after is not None
    start = max(first, min(after if after is not None else end - PAGE_BYTES // 4, end))
    data = b""
    for at, path in files:
        if len(data) < PAGE_BYTES:
            data += _bytes(path, max(start + len(data) - at, 0), PAGE_BYTES - len(data))
    data = data[: data.rfind(b"\n") + 1]
    lines = data.decode(errors="replace").splitlines()
    if not whole and start > first:
        lines = lines[1:]  # it began before
    found = [OutputLine(*line.split(" ", 1)) for line in lines if " " in line]
    return OutputPage(found, start + len(data), skipped=first > (after or 0))


def _files(folder: Path) -> list[tuple[int, Path]]:
    """The files in order, each with the number of its first byte."""
    return sorted((int(path.stem), path) for path in folder.glob("*.log") if path.stem.isdigit())


def _name(start: int) -> str:
    return f"{start:015d}.log"


def _bytes(path: Path, start: int, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(most)
    except FileNotFoundError:  # it was removed meanwhile
        return b""
