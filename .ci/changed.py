"""Print the tests of changed files: since the branch left main (on main: since the previous commit), or uncommitted.

A file of a room selects the tests of that room: `models/store/catalogue/readme.py` selects `tests/store`. A file of a shared
room selects the test module of the same name: `models/core/pool.py` selects `tests/core/test_pool.py`. The code base rules are
always tested.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALWAYS = ("tests/house/test_rooms.py", "tests/house/test_templates.py")
SHARED = {"core", "web"}
"""Rooms that every room uses; their files select the test module of the same name."""
ELSEWHERE = {
    "migrations": ("tests/house/test_migrations.py", "tests/house/test_schema.py"),
    "static": ("tests/web",),
    "README.md": ("tests/docs",),
}
"""Tests of files with neither a room nor a test module of the same name."""


def tests_of(path: str) -> set[str]:
    """Test modules and directories for a file of the project."""
    file = Path(path)
    parts = file.with_suffix("").parts
    if parts[0] == "tests":
        if file.name.startswith("test_"):
            return {path} if (ROOT / path).exists() else set()
        return {f"tests/{parts[1]}"} if len(parts) > 2 else set()
    rooms = {f"tests/{part}" for part in parts if part not in SHARED and (ROOT / "tests" / part).is_dir()}
    if not rooms:
        rooms = {str(twin.relative_to(ROOT)) for twin in ROOT.glob(f"tests/*/test_{parts[-1]}.py")}
    return rooms | set(ELSEWHERE.get(file.parts[0], ()))


def changed() -> set[str]:
    """Paths of added, changed and removed files."""
    head, base = git("rev-parse", "HEAD"), git("merge-base", "HEAD", "main")
    since = base if base and base != head else ["HEAD~1"]
    new = git("ls-files", "--others", "--exclude-standard")
    return {*git("diff", "--name-only", "--no-renames", *since), *new}


def git(*arguments: str) -> list[str]:
    """Output lines of a git command; empty if it fails, as for a missing branch."""
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.splitlines() if result.returncode == 0 else []


def chosen(paths: Iterable[str]) -> list[str]:
    """Arguments for pytest. Prints files without tests of their own to stderr."""
    found = set(ALWAYS)
    for path in sorted(paths):
        tests = tests_of(path)
        if not tests and path.endswith((".py", ".html", ".sql")) and (ROOT / path).exists():
            print(f"No tests for {path}; run make test", file=sys.stderr)
        found |= tests
    return sorted(each for each in found if str(Path(each).parent) not in found)


if __name__ == "__main__":
    print(*chosen(changed()))
