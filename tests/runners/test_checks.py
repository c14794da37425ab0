"""Which checks trees have, and how they run."""

import json

import pytest

from models.runners import Check, CheckKind, CommandResult, NoProcesses, all_passed, detect_checks, run_checks
from models.runners.check_running import MAX_OUTPUT, shortened_output
from models.runners.workplace import Workplace
from tests.runners.workplace_fakes import FakeWorkplace

NPM = "npm install --prefer-offline --no-audit --no-fund"


def node(scripts: dict[str, object] | None = None, **more: object) -> str:
    return json.dumps({"scripts": scripts or {}, **more})


TREES: dict[str, tuple[dict[str, str], list[tuple[str, str]]]] = {
    "nothing": ({}, []),
    "only words": ({"README.md": "hello", "src/a.txt": "x"}, []),
    "npm, in the contract's order": (
        {
            "package.json": node(
                {"test": "vitest", "tsc": "tsc", "compile": "x", "build": "y"}, dependencies={"a": "1"}
            )
        },
        [
            ("install", NPM),
            ("build", "npm run build"),
            ("typecheck", "npm run tsc"),
            ("test", "npm run test"),
        ],
    ),
    "npm, locked": (
        {"package.json": node(devDependencies={"a": "1"}), "package-lock.json": "{}"},
        [("install", "npm ci --prefer-offline --no-audit --no-fund")],
    ),
    "node without packages": ({"package.json": node({"unit": "node --test"})}, [("test", "npm run unit")]),
    "the test that npm init writes": (
        {"package.json": node({"test": 'echo "Error: no test specified" && exit 1'})},
        [],
    ),
    "pnpm by its field": (
        {
            "package.json": node({"ci:test": "x"}, packageManager="pnpm@9.1.0", dependencies={"a": "1"}),
            "yarn.lock": "",
        },
        [("install", "pnpm install --prefer-offline"), ("test", "pnpm run ci:test")],
    ),
    "yarn by its lock file": (
        {"package.json": node(dependencies={"a": "1"}), "yarn.lock": ""},
        [("install", "yarn install --frozen-lockfile --prefer-offline")],
    ),
    "a package.json that is no JSON": ({"package.json": "{oops"}, [("install", NPM)]),
    "a package.json of other types": ({"package.json": '{"scripts": ["test"], "dependencies": 3}'}, []),
    "pytest by its configuration": (
        {"pyproject.toml": "[tool.pytest.ini_options]\n", "a.py": ""},
        [("test", "python3 -m pytest -q")],
    ),
    "pytest of tox.ini, mypy of setup.cfg": (
        {"tox.ini": "[pytest]\n", "setup.cfg": "[mypy]\n"},
        [("typecheck", "python3 -m mypy ."), ("test", "python3 -m pytest -q")],
    ),
    "requirements are installed": (
        {"requirements.txt": "flask\n", "pytest.ini": "", "pyrightconfig.json": "{}"},
        [
            (
                "install",
                "python3 -m venv --system-site-packages .venv && .venv/bin/python -m pip install"
                " --disable-pip-version-check -q -r requirements.txt",
            ),
            ("typecheck", ".venv/bin/python -m pyright"),
            ("test", ".venv/bin/python -m pytest -q"),
        ],
    ),
    "go": (
        {"go.mod": "module x\n"},
        [("build", "go build ./..."), ("typecheck", "go vet ./..."), ("test", "go test ./...")],
    ),
    "go with packages": (
        {"go.mod": "module x\n", "go.sum": "x"},
        [
            ("install", "go mod download"),
            ("build", "go build ./..."),
            ("typecheck", "go vet ./..."),
            ("test", "go test ./..."),
        ],
    ),
    "rust": (
        {"Cargo.toml": '[package]\nname = "x"\n[dependencies]\na = "1"\n', "Cargo.lock": ""},
        [
            ("install", "cargo fetch --locked"),
            ("build", "cargo build --locked"),
            ("test", "cargo test --locked"),
        ],
    ),
    "make": (
        {"Makefile": ".PHONY: test lint\nCC := gcc\nlint:\n\truff .\ncheck test: all\n\tx\nall: ; true\n"},
        [("typecheck", "make lint"), ("test", "make test")],
    ),
    "make fills what the language lacks": (
        {"Makefile": "lint:\n\tx\ntest:\n\tx\n", "package.json": node({"test": "x"})},
        [("typecheck", "make lint"), ("test", "npm run test")],
    ),
    "two languages": (
        {"package.json": node({"test": "x"}), "go.mod": "module x"},
        [
            ("build", "go build ./..."),
            ("typecheck", "go vet ./..."),
            ("test", "npm run test"),
            ("test", "go test ./..."),
        ],
    ),
    "packages below the root of a monorepo": ({"packages/a/package.json": node({"test": "x"})}, []),
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_has_the_checks_of_its_own_files(name: str) -> None:
    files, expected = TREES[name]
    assert [(each.kind, each.command) for each in detect_checks(FakeWorkplace(files))] == expected


@pytest.mark.parametrize(
    "files", [{"tests/test_a.py": ""}, {"test_a.py": ""}, {"pyproject.toml": "", "tests/unit/test_a.py": ""}]
)
def test_python_tests_without_configuration_run_with_pytest_or_unittest(files: dict[str, str]) -> None:
    [check] = detect_checks(FakeWorkplace(files))
    assert check.kind == "test"
    assert "pytest" in check.command
    assert "unittest discover" in check.command


@pytest.mark.parametrize(
    ("more", "words"),
    [({}, "allow it in the settings"), ({"wheels/a-1-py3-none-any.whl": ""}, "in the tree")],
)
def test_an_install_says_whether_it_needs_the_network(more: dict[str, str], words: str) -> None:
    install = detect_checks(FakeWorkplace({"requirements.txt": "a", "a.py": "", **more}))[0]
    assert install.kind == "install"
    assert words in install.note
    assert install.hosts == (() if more else ("pypi.org", "files.pythonhosted.org"))
    assert ("--no-index --find-links wheels" in install.command) == bool(more)


def test_large_and_broken_files_break_nothing() -> None:
    files = {
        "package.json": "[" * 100_000,
        "pyproject.toml": "x" * (1 << 20),
        "Cargo.toml": "= = =",
        "setup.cfg": "no section\n",
        "Makefile": "\xff\x00" * 1000,
    }
    assert {check.kind for check in detect_checks(FakeWorkplace(files))} == {"install", "build", "test"}


def test_checks_run_in_order_and_stop_at_the_first_failure() -> None:
    checks = [Check("test", "t"), Check("build", "b"), Check("install", "i")]
    place = FakeWorkplace(results={"b": CommandResult("exit", 2, "broken\n", 1.5)})
    told: list[str] = []

    results = run_checks(place, checks, on_output=told.append)

    assert place.ran == ["i", "b"]
    assert [(each.kind, each.success, each.exit_code) for each in results] == [
        ("install", True, 0),
        ("build", False, 2),
    ]
    assert results[1].output == "broken\n"
    assert results[1].seconds >= 1.5
    assert told == ["$ i\n", "fine\n", "$ b\n", "broken\n"]
    assert not all_passed(checks, results)


def test_hosts_are_closed_after_the_installs() -> None:
    place = FakeWorkplace()
    run_checks(place, [Check("test", "t"), Check("install", "i"), Check("install", "j"), Check("build", "b")])
    assert (place.ran, place.hosts_closed_after) == (["i", "j", "b", "t"], 2)


@pytest.mark.parametrize(
    ("kind", "ends", "success", "flaky", "ran"),
    [
        ("test", ["failed", "passed"], True, True, 2),
        ("test", ["failed", "failed"], False, False, 2),
        ("test", ["passed"], True, False, 1),
        ("test", ["timeout"], False, False, 1),
        ("test", ["failed", "lost"], False, False, 2),
        ("build", ["failed"], False, False, 1),
    ],
)
def test_a_test_that_failed_runs_again_and_is_flaky_if_it_passes(
    kind: CheckKind, ends: list[str], success: bool, flaky: bool, ran: int
) -> None:
    outcomes = {
        "failed": CommandResult("exit", 1, "red\n", 1.0),
        "passed": CommandResult("exit", 0, "green\n", 1.0),
        "timeout": CommandResult("timeout", None, "", 1.0),
        "lost": CommandResult("lost", None, "", 1.0),
    }
    place = FakeWorkplace()
    left = [outcomes[each] for each in ends]
    place.run = lambda command, **_: place.ran.append(command) or left.pop(0)  # type: ignore[method-assign, func-returns-value]
    [result] = run_checks(place, [Check(kind, "t")], again=("test",))
    assert (result.success, result.flaky, len(place.ran)) == (success, flaky, ran)
    if flaky:
        assert result.output.startswith("red\n\nIt failed. It ran again")
        assert result.output.endswith("green\n")
    if ends[-1] == "lost":
        assert result.ended == "lost"


def test_all_checks_green() -> None:
    checks = [Check("build", "b"), Check("test", "t")]
    assert all_passed(checks, run_checks(FakeWorkplace(), checks))


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("timeout", "longer than 7 seconds"),
        ("memory", "memory"),
        ("output", "output"),
        ("disk", "files"),
        ("stopped", "person"),
        ("lost", "runner was lost"),
    ],
)
def test_a_check_that_did_not_end_by_itself_failed_and_says_why(ended: str, words: str) -> None:
    place = FakeWorkplace(results={"t": CommandResult(ended, None, "so far", 7.0)})  # type: ignore[arg-type]
    [result] = run_checks(place, [Check("test", "t")], seconds=7)
    assert not result.success
    assert result.exit_code is None
    assert words in result.output
    assert result.output.startswith("so far\n")


def test_checks_of_a_level_without_processes_are_refused_not_passed() -> None:
    place = FakeWorkplace({"package.json": node({"test": "x"})})
    place.level = "virtual"
    with pytest.raises(NoProcesses, match="runs no commands"):
        run_checks(place, detect_checks(place))
    assert place.ran == []


def test_long_output_keeps_its_beginning_and_its_end() -> None:
    text = "first\n" + "x\0" * 50_000 + "\nlast"
    short = shortened_output(text)
    assert len(short) == MAX_OUTPUT
    assert "\0" not in short
    assert short.startswith("first\n")
    assert short.endswith("\nlast")
    assert "left out" in short
    assert shortened_output("short") == "short"


def test_the_fake_is_a_workplace() -> None:
    place: Workplace = FakeWorkplace({"a/b.txt": "x"})
    assert place.list() == ["a/"]
    assert place.read("a/b.txt") == b"x"
