"""The client of projects beside Git on the same tree: `python -m bench.project_client`.

Git pushes to a bare repository on the same disk, which is its fastest remote; the client to a server on this machine."""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import stoa

FILES, CHANGED, ROUNDS = 10_000, 50, 5
SETTLED = 2.5
"""Seconds after which neither program distrusts the times of files that were just written."""
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
TARGETS = {"status": 1.0, "first push": 3.0, "push of changes": 1.6}


@dataclass(frozen=True, slots=True)
class Compared:
    """Seconds of wall clock of both, the median of all rounds."""

    name: str
    git: float
    client: float

    @property
    def ratio(self) -> float:
        """How many times Git's time the client takes."""
        return self.client / self.git


class Sides:
    """One tree, twice: a repository with a bare remote, and a working copy of a project."""

    def __init__(self, place: Path, url: str, token: str, files: int) -> None:
        self.git_folder, self.own_folder, self.remote = place / "git", place / "own", place / "remote.git"
        self.pyz = place / "stoa.pyz"
        urllib.request.urlretrieve(f"{url}/clients/stoa.pyz", self.pyz)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "STOA_TOKEN": token,
            "STOA_URL": url,
            **{
                f"GIT_{who}_{what}": "bench@stoa.invalid"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
        }
        for folder in (self.git_folder, self.own_folder, self.remote):
            folder.mkdir()
        self.own("init", "--name", "Bench")
        self._timed(["git", "init", "-q", "--bare"], self.remote)
        self.git("init", "-q", "-b", "main")
        self.git("remote", "add", "origin", str(self.remote))
        self.git("config", "gc.auto", "0")  # no collection beside the measurement
        for folder in (self.git_folder, self.own_folder):
            _fill(folder, files)

    def git(self, *arguments: str) -> float:
        """Run Git; seconds."""
        return self._timed(["git", *arguments], self.git_folder)

    def own(self, *arguments: str) -> float:
        """Run the client; seconds."""
        return self._timed([PYTHON, str(self.pyz), *arguments, "--quiet"], self.own_folder)

    def _timed(self, command: list[str], folder: Path) -> float:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return time.perf_counter() - started

    def change(self, number: int, changed: int) -> None:
        """Edit the same files on both sides."""
        for folder in (self.git_folder, self.own_folder):
            chosen = random.Random(number).sample(sorted(folder.glob("src/*/*/*.py")), changed)
            for place in chosen:
                place.write_text(place.read_text() + f"EDITED = {number}\n")
        time.sleep(SETTLED)


def measured(place: Path, url: str, token: str, files: int, changed: int, rounds: int) -> list[Compared]:
    """Status, first push and pushes of changes of both, alternating."""
    sides = Sides(place, url, token, files)
    time.sleep(SETTLED)
    stored = (
        sides.git("add", "-A") + sides.git("commit", "-q", "-m", "First"),
        sides.own("snapshot", "--offline"),
    )
    pushed = sides.git("push", "-q", "origin", "main"), sides.own("snapshot")
    first = [
        Compared("first push", pushed[0], pushed[1]),
        Compared("first commit and push", stored[0] + pushed[0], stored[1] + pushed[1]),
    ]
    status = _alternating(
        "status", lambda: sides.git("status"), lambda: sides.own("status", "--offline"), 4 * rounds
    )
    commits, pushes = [], []
    for number in range(rounds):
        sides.change(2 * number, changed)
        sides.git("commit", "-q", "-a", "-m", "Change")
        sides.own("snapshot", "--offline")
        pushes.append((sides.git("push", "-q", "origin", "main"), sides.own("snapshot")))
        sides.change(2 * number + 1, changed)
        git = sides.git("add", "-A") + sides.git("commit", "-q", "-m", "Change")
        commits.append((git + sides.git("push", "-q", "origin", "main"), sides.own("snapshot")))
    return [
        status,
        *first,
        _median("push of changes", pushes),
        _median("commit and push of changes", commits),
    ]


def _alternating(name: str, git: Callable[[], float], own: Callable[[], float], rounds: int) -> Compared:
    return _median(name, [(git(), own()) for _ in range(rounds)])


def _median(name: str, times: list[tuple[float, float]]) -> Compared:
    return Compared(name, median(git for git, _ in times), median(own for _, own in times))


def _fill(folder: Path, files: int) -> None:
    chance = random.Random(7)
    for number in range(files):
        place = folder / f"src/package{number // 1000}/part{number // 50 % 20}/module{number}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"def f{number}_{each}(a, b): return a * {chance.random()} + b\n" for each in range(30))
        place.write_text("".join(lines))


def main() -> None:
    """Start a server, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--changed", type=int, default=CHANGED)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stoa-bench-") as name:
        place = Path(name)
        with stoa.running(place / "server", 9, {}) as server:
            token = stoa.open_accounts(server, 1)[0]
            url = f"http://127.0.0.1:{server.port}"
            for each in measured(place, url, token, options.files, options.changed, options.rounds):
                target = f", target {TARGETS[each.name]}" if each.name in TARGETS else ""
                print(
                    f"{each.name:28} git {each.git:7.3f} s  client {each.client:7.3f} s  {each.ratio:5.2f} times{target}"
                )


if __name__ == "__main__":
    main()
