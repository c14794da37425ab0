"""Print the tests of what changed: since the branch left main (on main, since the commit before), or not committed yet.

`models/store/catalogue/readme.py` is tried by `tests/store`, as `store` is a room of tests; `models/core/pool.py`, which is in the hallway, by
`tests/core/test_pool.py`. The rules of the house are always tried.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALWAYS = ("tests/house/test_rooms.py", "tests/house/test_templates.py")
HALLWAY = {"core", "web"}
"""Every room uses these: a file of theirs is tried by the tests that are named after it."""
ELSEWHERE = {
    "migrations": ("tests/house/test_migrations.py", "tests/house/test_schema.py"),
    "static": ("tests/web",),
    "README.md": ("tests/docs",),
}
"""Tests of what has no room and no file of tests that is named after it."""


def tests_of(path: str) -> set[str]:
    """The files and folders of tests for a file of the project."""
    file = Path(path)
    words = file.with_suffix("").parts
    if words[0] == "tests":
        if file.name.startswith("test_"):
            return {path} if (ROOT / path).exists() else set()
        return {f"tests/{words[1]}"} if len(words) > 2 else set()
    rooms = {f"tests/{word}" for word in words if word not in HALLWAY and (ROOT / "tests" / word).is_dir()}
    if not rooms:
        rooms = {str(twin.relative_to(ROOT)) for twin in ROOT.glob(f"tests/*/test_{words[-1]}.py")}
    return rooms | set(ELSEWHERE.get(file.parts[0], ()))


def changed() -> set[str]:
    """Paths of what was added, changed or removed."""
    head, left = git("rev-parse", "HEAD"), git("merge-base", "HEAD", "main")
    since = left if left and left != head else ["HEAD~1"]
    new = git("ls-files", "--others", "--exclude-standard")
    return {*git("diff", "--name-only", "--no-renames", *since), *new}


def git(*words: str) -> list[str]:
    """The lines of its answer; none when it has no answer, as for a branch that is not here."""
    told = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.splitlines() if told.returncode == 0 else []


def chosen(paths: Iterable[str]) -> list[str]:
    """What to give to pytest. Says what is left to `make test`."""
    found = set(ALWAYS)
    for path in sorted(paths):
        tests = tests_of(path)
        if not tests and path.endswith((".py", ".html", ".sql")) and (ROOT / path).exists():
            print(f"No tests of {path} alone: make test", file=sys.stderr)
        found |= tests
    return sorted(each for each in found if str(Path(each).parent) not in found)


if __name__ == "__main__":
    print(*chosen(changed()))
