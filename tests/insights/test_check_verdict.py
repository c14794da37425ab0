"""What attempts are worth: kinds of patches against kinds of results, and what weakens tests."""

from typing import Any, NamedTuple

import pytest

from models.insights.check_verdict import AttemptWork, judge, says_how_to_check
from models.insights.weakened_tests import is_test_path, weakening
from models.projects.snapshots.manifest_text import Entry
from models.runners.check_detection import Check
from models.runners.check_output import seen_tests
from models.runners.check_running import CheckResult

OLD, NEW = Entry("x", "file", 0o644, "a" * 64, 1), Entry("x", "file", 0o644, "b" * 64, 1)
CHANGED, ADDED, REMOVED = (OLD, NEW), (None, NEW), (OLD, None)
INSTALL, BUILD, TEST = Check("install", "get"), Check("build", "make"), Check("test", "pytest -q")
GREEN = {TEST: "3 passed in 0.1s"}


class Case(NamedTuple):
    """A patch, the results by check (a text is a success, a pair one that failed), and what follows from them."""

    changes: dict[str, Any]
    results: dict[Check, Any] | None
    passed: bool
    verified: bool = False
    says: str = ""
    allow: bool = False
    weakened: dict[str, str] = {}
    checked_tree: str = "tree"
    missing: tuple[Check, ...] = ()
    flaky: bool = False


CASES = {
    "green": Case({"a.py": CHANGED}, GREEN, True, True),
    "green with a new test": Case({"a.py": CHANGED, "tests/test_a.py": ADDED}, GREEN, True, True),
    "no change": Case({}, GREEN, False, says="changed no file"),
    "a red one": Case(
        {"a.py": CHANGED}, {BUILD: "ok", TEST: ("1 failed", 1)}, False, says="`pytest -q` failed"
    ),
    "a red build": Case(
        {"a.py": CHANGED}, {BUILD: ("error", 2)}, False, says="`make` failed", missing=(TEST,)
    ),
    "no commands": Case({"a.py": CHANGED}, None, True, says="no check ran"),
    "no checks found": Case({"a.py": CHANGED}, {}, True, says="no check that builds or tests"),
    "an install alone": Case({"a.py": CHANGED}, {INSTALL: "ok"}, True, says="no check that builds or tests"),
    "not all ran": Case({"a.py": CHANGED}, {BUILD: "ok"}, True, says="not all checks ran", missing=(TEST,)),
    "on another tree": Case({"a.py": CHANGED}, GREEN, True, says="on other files", checked_tree="former"),
    "red on another tree": Case(
        {"a.py": CHANGED}, {TEST: ("1 failed", 1)}, True, says="on other files", checked_tree="former"
    ),
    "no test found, and success": Case(
        {"a.py": CHANGED}, {TEST: "Ran 0 tests in 0.0s\n\nOK"}, True, says="found no test"
    ),
    "no test found, and failure": Case(
        {"a.py": CHANGED}, {TEST: ("no tests ran in 0.0s", 5)}, True, says="found no test."
    ),
    "no test found any more": Case(
        {"a.py": CHANGED, "pytest.ini": ADDED},
        {TEST: ("no tests ran in 0.0s", 5)},
        False,
        says="no test any more",
    ),
    "all tests skipped": Case({"a.py": CHANGED}, {TEST: "3 skipped in 0.0s"}, True, says="skipped all tests"),
    "flaky": Case({"a.py": CHANGED}, GREEN, True, says="passed when it ran again", flaky=True),
    "a test edited": Case(
        {"a.py": CHANGED, "test_a.py": CHANGED}, GREEN, False, says="test_a.py. They must stay"
    ),
    "a test edited, allowed": Case({"a.py": CHANGED, "test_a.py": CHANGED}, GREEN, True, True, allow=True),
    "a test deleted": Case(
        {"a.py": CHANGED, "test_a.py": REMOVED},
        GREEN,
        False,
        says="test_a.py (is removed)",
        weakened={"test_a.py": "is removed"},
    ),
    "a test deleted, allowed": Case(
        {"a.py": CHANGED, "test_a.py": REMOVED},
        GREEN,
        True,
        says="weakens tests (test_a.py is removed)",
        allow=True,
        weakened={"test_a.py": "is removed"},
    ),
    "a test skipped, allowed": Case(
        {"test_a.py": CHANGED},
        GREEN,
        True,
        says="skips tests",
        allow=True,
        weakened={"test_a.py": "skips tests"},
    ),
    "a test in a program skipped": Case(
        {"src/lib.rs": CHANGED},
        GREEN,
        False,
        says="src/lib.rs (skips",
        weakened={"src/lib.rs": "skips tests"},
    ),
    "a new test that runs alone": Case(
        {"a.js": CHANGED, "b.test.js": ADDED},
        GREEN,
        True,
        says="lets only some tests run",
        weakened={"b.test.js": "lets only some tests run"},
    ),
    "rules changed": Case(
        {"a.py": CHANGED, "pyproject.toml": CHANGED}, GREEN, True, says="what the checks run"
    ),
    "rules changed, allowed": Case(
        {"a.py": CHANGED, "pyproject.toml": CHANGED}, GREEN, True, True, allow=True
    ),
    "a new conftest": Case(
        {"a.py": CHANGED, "tests/conftest.py": ADDED}, GREEN, True, says="tests/conftest.py"
    ),
    "rules of a folder": Case({"web/package.json": CHANGED}, GREEN, True, says="web/package.json"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_verdict(case: Case) -> None:
    checks = None if case.results is None else [*case.results, *case.missing]
    results = [
        CheckResult(
            check.kind,
            check.command,
            isinstance(said, str),
            said if isinstance(said, str) else said[0],
            0.1,
            "exit",
            0 if isinstance(said, str) else said[1],
            case.flaky,
        )
        for check, said in (case.results or {}).items()
    ]
    found = judge(
        AttemptWork("tree", case.changes, case.weakened),
        checks,
        results,
        checked_tree=case.checked_tree,
        allow_test_changes=case.allow,
    )
    assert (found.passed, found.verified) == (case.passed, case.verified), found
    assert case.says in (found.doubts or found.problem)
    assert bool(found.doubts or found.problem) != found.verified
    assert found.passed == (not found.problem)


@pytest.mark.parametrize(
    ("asked", "outside"),
    [((), []), (("a.py",), ["b.py", "c/d.py"]), (("a.py", "b.py", "c/d.py"), [])],
    ids=["names no files", "names one", "names all"],
)
def test_changes_outside_of_what_was_asked_are_told(asked: tuple[str, ...], outside: list[str]) -> None:
    changes = {"a.py": CHANGED, "c/d.py": ADDED, "b.py": REMOVED, "tests/test_b.py": ADDED}
    assert AttemptWork("tree", changes, asked=asked).outside == outside


@pytest.mark.parametrize(
    ("path", "before", "after", "says"),
    [
        ("test_a.py", "def test_a(): ...\n", "def test_a(): assert 1\n", ""),
        ("test_a.py", "def test_a(): ...\n", "", "has no test any more"),
        ("test_a.py", "def test_a(): ...\n", "# def test_a(): ...\n", "has no test any more"),
        ("test_a.py", "def test_a(): ...\ndef test_b(): ...\n", "def test_a(): ...\n", "has fewer tests"),
        ("test_a.py", "def test_a(): ...\n", "@pytest.mark.skip\ndef test_a(): ...\n", "skips tests"),
        ("test_a.py", "def test_a(): ...\n", "@unittest.skipIf(1)\ndef test_a(): ...\n", "skips tests"),
        ("test_a.py", "def test_a(): ...\n", "def test_a():\n    pytest.skip('x')\n", "skips tests"),
        ("test_a.py", "def test_a(): ...\n", "@pytest.mark.xfail\ndef test_a(): ...\n", "skips tests"),
        ("test_a.py", None, "@pytest.mark.skip\ndef test_a(): ...\n", ""),
        ("a.test.ts", "it('a', f)\n", "it.only('a', f)\n", "lets only some tests run"),
        ("a.test.ts", "it('a', f)\n", "it.skip('a', f)\n", "skips tests"),
        ("a.test.ts", "it('a', f)\n", "xit('a', f)\n", "has no test any more"),
        ("a.test.ts", "it('a', f)\nit('b', f)\n", "it('a', f)\nfit('b', f)\n", "lets only some tests run"),
        ("a.test.ts", None, "describe.only('a', f)\n", "lets only some tests run"),
        ("test_a.py", "def test_a(): ...\n", "def test_a(): model.fit(1)\n", ""),
        (
            "a_test.go",
            "func TestA(t *testing.T) {}\n",
            "func TestA(t *testing.T) { t.Skip() }\n",
            "skips tests",
        ),
        ("src/lib.rs", "#[test]\nfn a() {}\n", "#[test]\n#[ignore]\nfn a() {}\n", "skips tests"),
        ("src/lib.rs", "#[test]\nfn a() {}\n", "fn a() {}\n", "has no test any more"),
        ("src/lib.rs", "fn a() {}\n", "fn b() {}\n", ""),
    ],
)
def test_what_weakens_tests(path: str, before: str | None, after: str, says: str) -> None:
    assert weakening(path, before, after) == says


@pytest.mark.parametrize(
    ("output", "seen"),
    [
        ("no tests ran in 0.01s", "none"),
        ("collected 0 items", "none"),
        ("Ran 0 tests in 0.000s\n\nOK", "none"),
        ("?   \texample.com/x\t[no test files]", "none"),
        ("running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored", "none"),
        ("No tests found, exiting with code 1", "none"),
        ("No test files found, exiting with code 1", "none"),
        ("# tests 0\n# pass 0", "none"),
        ("  0 passing (1ms)", "none"),
        ("3 skipped in 0.10s", "skipped"),
        ("2 deselected in 0.10s", "skipped"),
        ("Ran 2 tests in 0.000s\n\nOK (skipped=2)", "skipped"),
        ("Tests:       2 skipped, 2 total", "skipped"),
        ("1 passed, 2 skipped in 0.1s", "some"),
        ("Ran 2 tests in 0.000s\n\nOK (skipped=1)", "some"),
        ("?   \texample.com/x\t[no test files]\nok  \texample.com/y\t0.1s", "some"),
        ("running 0 tests\n\nrunning 4 tests\n", "some"),
        ("fine", "some"),
        ("", "some"),
    ],
)
def test_whether_tests_ran(output: str, seen: str) -> None:
    assert seen_tests(output) == seen


@pytest.mark.parametrize(
    ("path", "rules", "test"),
    [
        ("src/app.py", False, False),
        ("Makefile", True, False),
        ("jest.config.js", True, False),
        ("packages/a/tsconfig.json", True, False),
        ("conftest.py", True, True),
        (".cargo/config.toml", True, False),
        ("tests/data.json", False, True),
        ("src/__tests__/a.ts", False, True),
        ("contest.py", False, False),
    ],
)
def test_which_files_say_how_to_check_and_which_are_tests(path: str, rules: bool, test: bool) -> None:
    assert (says_how_to_check(path), is_test_path(path)) == (rules, test)
