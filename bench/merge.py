"""Plans and merges of two workspaces of 100,000 files, 200 of them changed: `python -m bench.merge`."""

import argparse
import hashlib
import random
import time
from collections.abc import Callable
from functools import partial

from models.projects.merge import MergeEntry, merge_trees, plan

FILES, CHANGED = 100_000, 200
OVERLAPS = 20
"""Files among the changed that both sides changed."""
LINES = 60
ROUNDS = 7

Tree = dict[str, MergeEntry]


class Project:
    """A base and two sides; half of the changes are each side's."""

    def __init__(self, files: int, changed: int, overlaps: int) -> None:
        self.blobs: dict[str, bytes] = {}
        self.base: Tree = {
            f"src/package{number // 1000}/part{number // 50 % 20}/module{number}.py": MergeEntry(
                "file", 0o644, hashlib.sha256(str(number).encode()).hexdigest(), 2_000
            )
            for number in range(files)
        }
        chosen = random.Random(7).sample(sorted(self.base), changed)
        for number, path in enumerate(chosen):
            self.base[path] = self._file(_program(number))
        # decoded rows of a database share nothing
        self.workspace, self.main = (
            {path: entry._replace(hash=f"{entry.hash} "[:-1]) for path, entry in self.base.items()}
            for _ in range(2)
        )
        middle = changed // 2
        for number, path in enumerate(chosen):
            if number < middle or number < middle + overlaps:
                self.workspace[path] = self._file(_program(number, "mine"))
            if number >= middle:
                self.main[path] = self._file(_program(number, "theirs"))

    def _file(self, text: str) -> MergeEntry:
        data = text.encode()
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return MergeEntry("file", 0o644, digest, len(data))


def _program(number: int, added: str = "") -> str:
    """A module of some functions; with one more at its end."""
    text = "".join(
        f"def function_{number}_{each}(a, b):\n    total = a + b * {each}\n    return total\n\n\n"
        for each in range(LINES // 5)
    )
    return f"import os\n\n\n{text}" + (f"def {added}_{number}():\n    return os.name\n" if added else "")


def best(work: Callable[[], object]) -> float:
    """The least of some rounds, in milliseconds."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took) * 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--changed", type=int, default=CHANGED)
    parser.add_argument("--overlaps", type=int, default=OVERLAPS)
    chosen = parser.parse_args()
    project = Project(chosen.files, chosen.changed, chosen.overlaps)
    sides = project.base, project.workspace, project.main
    print(f"{chosen.files:,} files, {chosen.changed} changed, {chosen.overlaps} by both sides")
    print(f"plan   {best(partial(plan, *sides)):6.1f} ms")
    print(f"merge  {best(partial(merge_trees, *sides, project.blobs.__getitem__)):6.1f} ms")
    labels = [str(each.label) for each in merge_trees(*sides, project.blobs.__getitem__).paths.values()]
    print(", ".join(f"{labels.count(label)} {label}" for label in sorted(set(labels))))


if __name__ == "__main__":
    main()
