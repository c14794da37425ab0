"""Writes what commands say into the log of a deployment while they run, without the values of variables."""

import threading
import time
from collections.abc import Iterable

from models.core import jobs
from models.core.db import db
from models.core.redaction import redact
from models.deployments.deployment import Deployment
from models.deployments.deployment_running import write_log

EVERY_SECONDS = 0.5
MOST = 4_000
"""Lines of output; what comes later is counted only."""
SHORTEST = 6
"""Characters of a value that is masked: shorter ones are words that any text has."""


def maskable(values: Iterable[str]) -> list[str]:
    """Those of these values that are masked, and each of their lines, the longest first."""
    lines = (line.strip() for value in values for line in (value, *value.splitlines()))
    return sorted({line for line in lines if len(line) >= SHORTEST}, key=len, reverse=True)


class LogWriter:
    """Takes pieces of output, in any thread, and stores whole lines in transactions of the thread that calls `output` or `flush`."""

    def __init__(self, deployment_id: str, secrets: Iterable[str]) -> None:
        self._id, self._secrets = deployment_id, maskable(secrets)
        self._lock = threading.Lock()
        self._lines: list[tuple[str, str]] = []
        self._rest = ""
        self._written = self._left_out = 0
        self._next = 0.0

    def line(self, step: str, text: str) -> None:
        """A line of the server's own, which is kept until the next flush."""
        with self._lock:
            self._lines.append((step, text))

    def output(self, step: str, piece: str) -> None:
        """A piece of what a command writes."""
        *lines, self._rest = (self._rest + piece).split("\n")
        if len(self._rest) > 4_000:
            lines, self._rest = [*lines, self._rest], ""
        with self._lock:
            self._add(step, lines)
        if time.monotonic() >= self._next:
            self.flush()

    def end(self, step: str) -> None:
        """The command has ended: what it wrote last is a line, too."""
        rest, self._rest = self._rest, ""
        with self._lock:
            self._add(step, [rest] if rest else [])
            if self._left_out:
                self._lines.append((step, f"… {self._left_out:,} more lines are left out."))
                self._left_out = 0
        self.flush()

    def flush(self) -> None:
        """Store what there is. Commits."""
        self._next = time.monotonic() + EVERY_SECONDS
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        with jobs.transaction():
            found = db.session.get(Deployment, self._id)
            if found is None:
                return
            start = 0
            for at in range(1, len(lines) + 1):
                if at == len(lines) or lines[at][0] != lines[start][0]:
                    write_log(found, lines[start][0], [text for _, text in lines[start:at]])
                    start = at

    def _add(self, step: str, lines: list[str]) -> None:
        room = max(MOST - self._written, 0)
        self._written += len(lines[:room])
        self._left_out += len(lines[room:])
        self._lines += [(step, redact(line.rstrip("\r"), self._secrets)) for line in lines[:room]]
