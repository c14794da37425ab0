"""What the checks of an attempt prove: whether its patch is ready, whether anything vouches for it, and what stands against it."""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from models.projects.snapshots.directory_tree import Changes
from models.runners.check_detection import Check
from models.runners.check_running import CheckResult

PROVING = ("build", "typecheck", "test")
"""Kinds of checks that say something about the code; an install says that packages are there."""
_TEST_PARTS = ("/__tests__/", "/test/", "/tests/", "/spec/", ".test.", ".spec.")
_CHECK_FILES = frozenset(
    {
        *("package.json", "tsconfig.json", ".npmrc", ".mocharc.json", ".mocharc.js"),
        *("pyproject.toml", "setup.cfg", "tox.ini", "pytest.ini", ".pytest.ini", "mypy.ini", ".mypy.ini"),
        *("noxfile.py", "pyrightconfig.json", ".coveragerc", "sitecustomize.py"),
        *("makefile", "gnumakefile", "build.rs", ".cargo/config.toml", "go.work"),
    }
)
_CHECK_PREFIXES = (
    "jest.config.",
    "vitest.config.",
    "vite.config.",
    "karma.conf.",
    "babel.config.",
    "eslint.config.",
)
_NO_TEST_RAN = re.compile(r"^Ran 0 tests in ", re.MULTILINE)
"""How unittest says it, which succeeded up to Python 3.11; other test runners fail."""
MAX_NAMED = 5
"""Paths that a sentence names."""


class Verdict(NamedTuple):
    """Whether the attempt passed. `verified`: checks that nothing tampered with prove it; if not, `doubts` says why nobody should take it for
    proved. `problem` says why it failed, for people and for the next attempt."""

    passed: bool
    verified: bool = False
    doubts: str = ""
    problem: str = ""


def is_test_path(path: str) -> bool:
    """Whether a file is a test, or helps tests (fastest contract 4.9, and the names of Python's and Go's)."""
    lower = f"/{path.lower()}"
    name = lower.rpartition("/")[2]
    if any(part in lower for part in _TEST_PARTS) or name == "conftest.py":
        return True
    stem, _, kind = name.rpartition(".")
    return (kind in ("py", "go") and stem.endswith("_test")) or (kind == "py" and stem.startswith("test_"))


def touched_tests(changes: Changes) -> list[str]:
    """The tests that were there and were changed or removed; a new one is no danger to those."""
    return sorted(path for path, (before, _) in changes.items() if before is not None and is_test_path(path))


def says_how_to_check(path: str) -> bool:
    """Whether a file decides what the checks run: a fix that changes it may have made them easier."""
    lower = path.lower()
    return lower in _CHECK_FILES or lower.startswith(_CHECK_PREFIXES)


def judge(
    changes: Changes,
    checks: Sequence[Check] | None,
    results: Sequence[CheckResult],
    *,
    allow_test_changes: bool,
) -> Verdict:
    """What an attempt is worth: the `changes` of its tree, and the `results` of `checks`, None where no commands run.

    Passed needs a change, untouched tests unless they may change, and no failed check. Verified needs all of the checks to have run, one of
    which builds or tests, by the rules that were there before, and tests that were found."""
    if not changes:
        return Verdict(False, problem="The agent changed no file.")
    touched = touched_tests(changes)
    if touched and not allow_test_changes:
        return Verdict(
            False,
            problem=f"The attempt changed tests that were there: {_named(touched)}. They must stay as they are.",
        )
    failed = next((each for each in results if not each.success), None)
    if failed is not None:
        return Verdict(False, problem=f"The check `{failed.command}` failed.")
    doubts = _doubts(changes, checks, results, allow_test_changes)
    return Verdict(True, not doubts, doubts)


def _doubts(
    changes: Changes, checks: Sequence[Check] | None, results: Sequence[CheckResult], allowed: bool
) -> str:
    if checks is None:
        return "Not verified: this level runs no commands, so no check ran."
    if not any(check.kind in PROVING for check in checks):
        return "Not verified: no check that builds or tests was found in the root of the project."
    if len(results) < len(checks):
        return "Not verified: not all checks ran."
    empty = next((each for each in results if each.kind == "test" and _NO_TEST_RAN.search(each.output)), None)
    if empty is not None:
        return f"Not verified: `{empty.command[:200]}` found no test."
    rules = sorted(filter(says_how_to_check, changes))
    if rules and not allowed:
        return f"Not verified: the patch changes what the checks run ({_named(rules)})."
    return ""


def _named(paths: Collection[str]) -> str:
    listed = list(paths)[:MAX_NAMED]
    more = len(paths) - len(listed)
    return ", ".join(path[:120] for path in listed) + (f" and {more} more" if more > 0 else "")
