"""Which checks a tree has, read from its own files: how it is installed, built, type-checked and tested (fastest contract 4.9).

Only the root of the tree is read: a monorepo is checked as its root says. Nothing is executed, and a file that cannot be read counts as
absent. Languages side by side give their checks side by side; a Makefile fills the kinds that no language has.
"""

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from models.core.errors import Invalid, NotFound
from models.runners.workplace import Workplace

CheckKind = Literal["install", "build", "typecheck", "test"]
CHECK_KINDS: tuple[CheckKind, ...] = ("install", "build", "typecheck", "test")
"""In the order in which they run."""
MAX_FILE = 256 << 10
"""Bytes of a file that is read for its checks; a larger one is left out."""

BUILD_SCRIPTS = ("build", "compile")
TYPECHECK_SCRIPTS = ("typecheck", "type-check", "tsc", "check:types", "lint:types")
TEST_SCRIPTS = ("test", "test:ci", "ci:test", "unit", "unit:test")
_NO_TEST = "no test specified"
"""In the script that `npm init` writes, which always fails."""
_PYTEST_NAMES = re.compile(r"(test_.*|.*_test)\.py")
_TARGET = re.compile(r"^([A-Za-z0-9_.-]+(?:[ \t]+[A-Za-z0-9_.-]+)*)[ \t]*::?(?!=)", re.MULTILINE)
_VENV = ".venv/bin/python"

NEEDS_NETWORK = "It needs {host}: allow it in the settings of the project, or keep the packages in the tree."
FROM_TREE = "The packages are in the tree: no network is needed."
NODE_HOSTS = ("registry.npmjs.org",)
YARN_HOSTS = ("registry.yarnpkg.com", "registry.npmjs.org")
PYTHON_HOSTS = ("pypi.org", "files.pythonhosted.org")
GO_HOSTS = ("proxy.golang.org", "sum.golang.org")
RUST_HOSTS = ("index.crates.io", "static.crates.io")


class Check(NamedTuple):
    """A command that must end with 0. `note` says in a sentence what it needs that the tree may not have; `hosts` are those that it fetches
    packages from."""

    kind: CheckKind
    command: str
    note: str = ""
    hosts: tuple[str, ...] = ()


def detect_checks(workplace: Workplace) -> list[Check]:
    """The checks of a tree, in the order in which they run; none if nothing is recognised. Reads a dozen files at most."""
    root = _Root(workplace)
    found = [check for detect in _LANGUAGES for check in detect(root)]
    kinds = {check.kind for check in found}
    found += [check for check in _make_checks(root) if check.kind not in kinds]
    return sorted(found, key=lambda check: CHECK_KINDS.index(check.kind))


def _fetching(command: str, hosts: tuple[str, ...]) -> Check:
    """An install that fetches packages from these hosts."""
    return Check("install", command, NEEDS_NETWORK.format(host=" and ".join(hosts)), hosts)


class _Root:
    """The files in the root of a tree."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self.names = frozenset(workplace.list(""))

    def has(self, *names: str) -> bool:
        return any(name in self.names for name in names)

    def text(self, name: str) -> str:
        """The text of a file; empty if there is none that can be read."""
        if name not in self.names:
            return ""
        try:
            return self._workplace.read(name, max_bytes=MAX_FILE).decode(errors="replace")
        except (NotFound, Invalid):
            return ""

    def folder(self, name: str) -> Sequence[str]:
        """The names in a folder of the root."""
        if f"{name}/" not in self.names:
            return ()
        try:
            return self._workplace.list(name)
        except (NotFound, Invalid):
            return ()

    def toml(self, name: str) -> dict[str, Any]:
        try:
            return tomllib.loads(self.text(name))
        except (tomllib.TOMLDecodeError, RecursionError):
            return {}

    def json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self.text(name))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def ini_sections(self, name: str) -> frozenset[str]:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(self.text(name))
        except configparser.Error:
            return frozenset()
        return frozenset(parser.sections())


# -- Node ----------------------------------------------------------------------------------------------------


def _node_checks(root: _Root) -> Iterable[Check]:
    if not root.has("package.json"):
        return
    package = root.json("package.json")
    manager = _package_manager(root, package)
    needed = any(_table(package, name) for name in ("dependencies", "devDependencies", "workspaces"))
    # a file that is no JSON has no fields, and the manager says what is wrong with it
    if needed or not package:
        hosts = YARN_HOSTS if manager == "yarn" else NODE_HOSTS
        yield _fetching(_node_install(root, manager), hosts)
    scripts = _table(package, "scripts")
    kinds: tuple[tuple[CheckKind, tuple[str, ...]], ...] = (
        ("build", BUILD_SCRIPTS),
        ("typecheck", TYPECHECK_SCRIPTS),
        ("test", TEST_SCRIPTS),
    )
    for kind, names in kinds:
        name = next((each for each in names if isinstance(scripts.get(each), str)), None)
        if name is not None and _NO_TEST not in scripts[name]:
            yield Check(kind, f"{manager} run {name}")


def _package_manager(root: _Root, package: dict[str, Any]) -> str:
    """By the field, else by the lock file, else npm."""
    named = str(package.get("packageManager") or "").partition("@")[0]
    if named in ("pnpm", "yarn", "bun"):
        return named
    if named == "npm":
        return "npm"
    locks = {"pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn", "bun.lock": "bun", "bun.lockb": "bun"}
    return next((manager for lock, manager in locks.items() if root.has(lock)), "npm")


def _node_install(root: _Root, manager: str) -> str:
    match manager:
        case "pnpm":
            locked = root.has("pnpm-lock.yaml")
            return "pnpm install --prefer-offline" + (" --frozen-lockfile" if locked else "")
        case "yarn":
            berry = root.has(".yarnrc.yml")
            return "yarn install --immutable" if berry else "yarn install --frozen-lockfile --prefer-offline"
        case "bun":
            return "bun install"
    install = "npm ci" if root.has("package-lock.json", "npm-shrinkwrap.json") else "npm install"
    return f"{install} --prefer-offline --no-audit --no-fund"


# -- Python --------------------------------------------------------------------------------------------------


def _python_checks(root: _Root) -> Iterable[Check]:
    config = root.toml("pyproject.toml")
    tests = _python_tests(root)
    known = root.has("pyproject.toml", "requirements.txt", "setup.py", "setup.cfg", "pytest.ini", "tox.ini")
    if not known and not tests:
        return
    install = _python_install(root, config)
    python = "python3"
    if install is not None:
        yield install
        python = _VENV
    if root.has("mypy.ini", ".mypy.ini") or _tool(config, "mypy") or "mypy" in root.ini_sections("setup.cfg"):
        yield Check("typecheck", f"{python} -m mypy .", "It needs mypy where it runs.")
    if root.has("pyrightconfig.json") or _tool(config, "pyright"):
        yield Check("typecheck", f"{python} -m pyright", "It needs pyright where it runs.")
    if _has_pytest(root, config):
        yield Check("test", f"{python} -m pytest -q", "It needs pytest where it runs.")
    elif tests:
        folder = f" -s {tests}" if tests != "." else ""
        plain = f"{python} -m unittest discover{folder}"
        command = f"if {python} -c 'import pytest' 2>/dev/null; then {python} -m pytest -q; else {plain}; fi"
        yield Check("test", command, "It runs pytest where that is installed, else unittest.")


def _python_tests(root: _Root) -> str:
    """The folder with the tests, `.` for the root; empty if there are none."""
    for folder in ("tests", "test"):
        if any(_PYTEST_NAMES.fullmatch(name) or name.endswith("/") for name in root.folder(folder)):
            python = any(name.endswith(".py") for name in (*root.folder(folder), *root.names))
            if python or root.has("pyproject.toml", "setup.py", "requirements.txt"):
                return folder
    return "." if any(_PYTEST_NAMES.fullmatch(name) for name in root.names) else ""


def _has_pytest(root: _Root, config: dict[str, Any]) -> bool:
    return (
        root.has("pytest.ini")
        or bool(_tool(config, "pytest"))
        or "tool:pytest" in root.ini_sections("setup.cfg")
        or "pytest" in root.ini_sections("tox.ini")
    )


def _python_install(root: _Root, config: dict[str, Any]) -> Check | None:
    """How its packages are installed, into `.venv`; None if it needs none."""
    project = _table(config, "project")
    if root.has("uv.lock"):
        return _fetching("uv sync --frozen", PYTHON_HOSTS)
    wanted = []
    if root.text("requirements.txt").strip():
        wanted.append("-r requirements.txt")
    if root.has("setup.py") or project.get("dependencies") or _tool(config, "poetry"):
        wanted.append("-e .")
    if not wanted:
        return None
    wheels = next((each for each in ("wheels", "vendor") if _has_wheels(root.folder(each))), None)
    # those of the system too, so that a tool that is there need not be fetched
    venv = "python3 -m venv --system-site-packages .venv"
    index = f"--no-index --find-links {wheels} " if wheels else ""
    command = f"{venv} && {_VENV} -m pip install --disable-pip-version-check -q {index}{' '.join(wanted)}"
    return Check("install", command, FROM_TREE) if wheels else _fetching(command, PYTHON_HOSTS)


def _has_wheels(names: Iterable[str]) -> bool:
    return any(name.endswith(".whl") for name in names)


# -- Go, Rust, Make ------------------------------------------------------------------------------------------


def _go_checks(root: _Root) -> Iterable[Check]:
    if not root.has("go.mod"):
        return
    if root.has("go.sum"):
        if "modules.txt" in root.folder("vendor"):
            yield Check("install", "go mod verify", FROM_TREE)
        else:
            yield _fetching("go mod download", GO_HOSTS)
    yield Check("build", "go build ./...")
    yield Check("typecheck", "go vet ./...")
    yield Check("test", "go test ./...")


def _rust_checks(root: _Root) -> Iterable[Check]:
    if not root.has("Cargo.toml"):
        return
    cargo = root.toml("Cargo.toml")
    locked = " --locked" if root.has("Cargo.lock") else ""
    if any(_table(cargo, name) for name in ("dependencies", "dev-dependencies", "workspace")):
        fetch = f"cargo fetch{locked}"
        yield Check("install", fetch, FROM_TREE) if root.folder("vendor") else _fetching(fetch, RUST_HOSTS)
    yield Check("build", f"cargo build{locked}")
    yield Check("test", f"cargo test{locked}")


def _make_checks(root: _Root) -> Iterable[Check]:
    name = next((each for each in ("GNUmakefile", "makefile", "Makefile") if root.has(each)), None)
    if name is None:
        return
    targets = {target for line in _TARGET.findall(root.text(name)) for target in line.split()}
    if "lint" in targets:
        yield Check("typecheck", "make lint")
    for target in ("test", "check"):
        if target in targets:
            yield Check("test", f"make {target}")
            return


_LANGUAGES: tuple[Callable[[_Root], Iterable[Check]], ...] = (
    _node_checks,
    _python_checks,
    _go_checks,
    _rust_checks,
)


def _table(of: dict[str, Any], name: str) -> dict[str, Any]:
    found = of.get(name)
    if isinstance(found, list):
        return dict.fromkeys(map(str, found))
    return found if isinstance(found, dict) else {}


def _tool(config: dict[str, Any], name: str) -> dict[str, Any]:
    return _table(_table(config, "tool"), name)
