"""What the checks of an attempt prove: whether its patch is ready, whether anything vouches for it, and what stands against it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from models.insights.weakened_tests import is_test_path
from models.projects.snapshots.directory_tree import Changes
from models.runners.check_detection import Check
from models.runners.check_output import seen_tests
from models.runners.check_running import CheckResult

PROVING = ("build", "typecheck", "test")
"""Kinds of checks that say something about the code; an install says that packages are there."""
_CHECK_FILES = frozenset(
    {
        *("package.json", "tsconfig.json", ".npmrc", ".mocharc.json", ".mocharc.js"),
        *("pyproject.toml", "setup.cfg", "tox.ini", "pytest.ini", ".pytest.ini", "mypy.ini", ".mypy.ini"),
        *("noxfile.py", "pyrightconfig.json", ".coveragerc", "sitecustomize.py", "usercustomize.py"),
        *("makefile", "gnumakefile", "build.rs", "go.work", "conftest.py"),
    }
)
"""By name, in any folder: tools look for theirs in several."""
_CHECK_PREFIXES = (
    "jest.config.",
    "vitest.config.",
    "vite.config.",
    "karma.conf.",
    "babel.config.",
    "eslint.config.",
)
MAX_NAMED = 5
"""Paths that a sentence names."""


@dataclass(frozen=True)
class AttemptWork:
    """What an attempt made: the hash of its tree, what it `changes` in the files before, what it takes away from tests by path
    (`weakened_tests`), and the files that the item names, none if it names none."""

    tree_hash: str | None
    changes: Changes
    weakened: Mapping[str, str] = field(default_factory=dict)
    asked: Collection[str] = ()

    @property
    def outside(self) -> list[str]:
        """Changed files that the item does not name, without new tests; none if it names no files."""
        if not self.asked:
            return []
        asked = set(self.asked)
        return sorted(
            path
            for path, (before, _) in self.changes.items()
            if path not in asked and not (before is None and is_test_path(path))
        )


class Verdict(NamedTuple):
    """Whether the attempt passed. `verified`: checks that nothing tampered with prove it; if not, `doubts` says why nobody should take it for
    proved. `problem` says why it failed, for people and for the next attempt."""

    passed: bool
    verified: bool = False
    doubts: str = ""
    problem: str = ""


def touched_tests(changes: Changes) -> list[str]:
    """The tests that were there and were changed or removed; a new one is no danger to those."""
    return sorted(path for path, (before, _) in changes.items() if before is not None and is_test_path(path))


def says_how_to_check(path: str) -> bool:
    """Whether a file decides what the checks run: a fix that changes it may have made them easier."""
    lower = path.lower()
    name = lower.rpartition("/")[2]
    return (
        name in _CHECK_FILES
        or name.startswith(_CHECK_PREFIXES)
        or lower.endswith((".pth", ".cargo/config.toml"))
    )


def judge(
    work: AttemptWork,
    checks: Sequence[Check] | None,
    results: Sequence[CheckResult],
    *,
    checked_tree: str | None,
    allow_test_changes: bool,
) -> Verdict:
    """What an attempt is worth: its work, and the `results` of `checks` (None where no commands run) on the tree `checked_tree`.

    Passed needs a change, tests that are as they were unless they may change, and no failed check. Verified needs all of the checks to have run
    on this very tree, one of which builds or tests, by the rules that were there before, tests that ran, and none that was weakened."""
    if not work.changes:
        return Verdict(False, problem="The agent changed no file.")
    kept = {path: what for path, what in work.weakened.items() if work.changes[path][0] is not None}
    touched = sorted({*touched_tests(work.changes), *kept})
    if touched and not allow_test_changes:
        named = _named([f"{path} ({kept[path]})" if path in kept else path for path in touched])
        return Verdict(
            False, problem=f"The attempt changed tests that were there: {named}. They must stay as they are."
        )
    if results and checked_tree != work.tree_hash:
        return Verdict(True, doubts="Not verified: the checks ran on other files than these.")
    rules = sorted(filter(says_how_to_check, work.changes))
    failed = next((each for each in results if not each.success), None)
    if failed is not None:
        without = failed.kind == "test" and seen_tests(failed.output) == "none"
        if not without or touched or rules:
            return Verdict(False, problem=_failure(failed, without=without))
    doubts = _doubts(work, checks, results, [] if allow_test_changes else rules)
    return Verdict(True, not doubts, doubts)


def _failure(failed: CheckResult, *, without: bool) -> str:
    command = failed.command[:200]
    return f"The check `{command}` found no test any more." if without else f"The check `{command}` failed."


def _doubts(
    work: AttemptWork, checks: Sequence[Check] | None, results: Sequence[CheckResult], rules: Sequence[str]
) -> str:
    """Why nothing proves it; empty if the checks do."""
    if checks is None:
        return "Not verified: this level runs no commands, so no check ran."
    if not any(check.kind in PROVING for check in checks):
        return "Not verified: no check that builds or tests was found in the root of the project."
    for each in results:
        seen = seen_tests(each.output) if each.kind == "test" else "some"
        if seen != "some":
            what = "found no test" if seen == "none" else "skipped all tests"
            return f"Not verified: `{each.command[:200]}` {what}."
    if len(results) < len(checks):
        return "Not verified: not all checks ran."
    flaky = next((each for each in results if each.flaky), None)
    if flaky is not None:
        return (
            f"Not verified: `{flaky.command[:200]}` failed, and passed when it ran again on the same files."
        )
    if work.weakened:
        return f"Not verified: the patch weakens tests ({_named([f'{path} {what}' for path, what in work.weakened.items()])})."
    if rules:
        return f"Not verified: the patch changes what the checks run ({_named(rules)})."
    return ""


def _named(paths: Collection[str]) -> str:
    listed = list(paths)[:MAX_NAMED]
    more = len(paths) - len(listed)
    return ", ".join(path[:120] for path in listed) + (f" and {more} more" if more > 0 else "")
