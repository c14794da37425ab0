"""Start of a sandbox with a tree and a socket, and the restoring of a tree of 10,000 files."""

import hashlib
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flask_migrate import upgrade

from app import create_app
from bench.load import quantile
from models.core.db import db
from models.core.postgres import embedded_url, release
from models.core.settings import load_settings
from models.projects.snapshots.blob_packs import put_blobs
from models.projects.snapshots.manifest_store import put_entries
from models.projects.snapshots.manifest_text import Entry
from models.runners import FileChange, levels, open_workplace, store_changes
from models.runners.unix_listener import UnixListener

FILES, CHANGED, ROUNDS = 10_000, 200, 10
START_BUDGET, COLD_BUDGET, WARM_BUDGET = 50, 3_000, 300
"""Milliseconds."""
ACCOUNT = "bench-sandbox"

Line = tuple[str, str, str, str, bool]


class Timing(NamedTuple):
    """Seconds of a step, and of the processor for it in this process."""

    wall: float
    processor: float


@dataclass(slots=True)
class SandboxTimes:
    """What each step took. `reason`: why the level does not work here."""

    files: int
    reason: str = ""
    command: list[Timing] = field(default_factory=list)
    start: list[Timing] = field(default_factory=list)
    cold: list[Timing] = field(default_factory=list)
    warm: list[Timing] = field(default_factory=list)
    moved: list[Timing] = field(default_factory=list)
    changes: list[Timing] = field(default_factory=list)


def measure(folder: Path, scale: float = 1.0) -> SandboxTimes:
    """Store trees in a database of its own, and open them."""
    times = SandboxTimes(max(int(FILES * scale), 100))
    data = folder / "sandbox"
    data.mkdir()
    app = create_app(load_settings(_env_file=None, stoa_data_dir=data), database_url=embedded_url(data))
    try:
        with app.app_context():
            upgrade()
            state = levels()["process"]
            if state.available:
                _start(times)
                _restore(times)
            else:
                times.reason = state.sentence
            db.engine.dispose()
        app.extensions["gateway"].pool.close()
    finally:
        release(data)
    return times


def lines(times: SandboxTimes) -> list[Line]:
    """Rows of the table: name, measured, ratio, target, met."""
    if times.reason:
        return [("sandbox", times.reason, "", "", False)]
    return [
        _line("sandbox: a command in an open tree", times.command, 0),
        _line("sandbox: tree, socket and first command", times.start, START_BUDGET),
        _line(f"restore of {times.files:,} files", times.cold, COLD_BUDGET),
        _line("the same tree again", times.warm, WARM_BUDGET),
        _line(f"with {CHANGED} other files", times.moved, WARM_BUDGET),
        _line("its changes", times.changes, 0),
    ]


def _line(name: str, timings: list[Timing], budget: int) -> Line:
    middle = quantile([each.wall for each in timings], 0.5) * 1000
    processor = quantile([each.processor for each in timings], 0.5) * 1000
    return (
        name,
        f"{middle:,.0f} ms, processor {processor:,.0f} ms",
        "",
        f"{budget:,} ms" if budget else "",
        not budget or middle <= budget,
    )


def _start(times: SandboxTimes) -> None:
    """Open an empty tree with a socket, and run a first command; then others."""
    folder = Path(tempfile.mkdtemp(prefix="stoa-bench-socket-"))
    folder.chmod(0o711)
    for _ in range(ROUNDS):
        listener = UnixListener(folder, _serve)
        taken = _timed(partial(_first_command, listener))
        times.start.append(taken)
    place = open_workplace("process", ACCOUNT, None)
    for _ in range(ROUNDS):
        times.command.append(_timed(lambda: place.run("true", seconds=10)))
    place.close()
    folder.rmdir()


def _first_command(listener: UnixListener) -> None:
    place = open_workplace("process", uuid.uuid4().hex, None, socket=listener)
    began: list[str] = []
    process = place.run("echo begun", seconds=10, on_output=began.append)
    assert process.succeeded
    place.close()


def _serve(peer: socket.socket) -> None:
    peer.recv(1)


def _restore(times: SandboxTimes) -> None:
    root = _stored(times.files)
    other = store_changes(
        ACCOUNT,
        root,
        {f"src/{number % 250}/file{number}.py": FileChange(b"# changed\n") for number in range(CHANGED)},
    )
    db.session.commit()
    times.cold.append(_timed(lambda: _opened(root)))
    for _ in range(ROUNDS // 2):
        times.warm.append(_timed(lambda: _opened(root)))
        times.moved.append(_timed(lambda: _opened(other)))
        place = open_workplace("process", ACCOUNT, other)
        place.run("for n in 1 2 3 4 5; do echo x > new$n; done", seconds=10)
        times.changes.append(_timed(place.changes))
        assert len(place.changes()) == 5
        place.close()
        _opened(root)


def _opened(root: str) -> None:
    open_workplace("process", ACCOUNT, root).close()


def _stored(files: int) -> str:
    """A tree of source files of some 3 KB."""
    entries, blobs = [], []
    for number in range(files):
        data = (f"# file {number}\n" + f"value_{number} = {number}\n" * 150).encode()
        hash = hashlib.sha256(data).hexdigest()
        blobs.append((hash, data))
        entries.append(Entry(f"src/{number % 250}/file{number}.py", "file", 0o644, hash, len(data)))
    for first in range(0, files, 1_000):
        put_blobs(ACCOUNT, blobs[first : first + 1_000])
    root = put_entries(ACCOUNT, entries)
    db.session.commit()
    return root


def _timed(action: Callable[[], object]) -> Timing:
    began, processor = time.monotonic(), time.process_time()
    action()
    return Timing(time.monotonic() - began, time.process_time() - processor)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="stoa-bench-") as folder:
        for name, measured, _, target, met in lines(measure(Path(folder))):
            print(f"{name:<44} {measured:<32}  {target:>8}  {'' if met else 'NOT MET'}")


if __name__ == "__main__":
    main()
