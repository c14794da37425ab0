"""Architecture rules: allowed imports, where queries are written, unique names, template markup."""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import DateTime

import models
from models.core.db import Base, UtcTimestamp

ROOT = Path(__file__).parents[2]
ROOMS = {
    "accounts",
    "billing",
    "ledger",
    "orgs",
    "store",
    "runs",
    "gateway",
    "usage",
    "projects",
    "index",
    "turns",
    "assistants",
    "threads",
    "playground",
    "runners",
    "deployments",
    "conversations",
    "insights",
    "atlas",
    "admin",
}
# Shared packages that are not rooms.
SHARED_MODELS = {"core", "demo"}
SHARED_VIEWS = {"web", "server", "demo"}
DOORS = {"pages", "api", "commands"}
"""Modules or packages allowed in a room's views."""
ORDER = [
    "core",
    "accounts",
    "orgs",
    "ledger",
    "gateway",
    "usage",
    "runs",
    "store",
    "billing",
    "playground",
    "index",
    "turns",
    "assistants",
    "threads",
    "projects",
    "runners",
    "deployments",
    "conversations",
    "insights",
    "atlas",
    "admin",
    "demo",
]
"""A room imports only rooms before it (docs/architecture.md explains the places of `orgs` and `usage`)."""
SHARED_TEMPLATES = {"layouts", "components", "errors", "emails", "docs", "profile", "demo"}
TOP = (
    "app.py pyproject.toml views models templates static migrations tests README.md LICENSE Makefile .ci .gitignore"
    " .env.example requirements bench docs Dockerfile compose.yaml .dockerignore .gitattributes"
)
COMMITTING = (
    "models/core/job_queue.py",
    "models/turns/engine.py",
    "models/turns/event_log.py",
    "models/threads/assistant_call.py",
)
"""Modules that commit: they run jobs, and turns."""
FORBIDDEN_NAMES = {
    "services",
    "repositories",
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "managers",
    "misc",
}

PYTHON = sorted(path for room in ("models", "views", "migrations") for path in (ROOT / room).rglob("*.py"))
PYTHON.append(ROOT / "app.py")
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(source(path))


def offenders(
    paths: list[Path], find: Callable[[ast.Module, str], Iterator[tuple[int, str]]], words: str = ""
) -> list[str]:
    """`file:line what` for everything that `find` reports. Parses only files with one of `words`, a pattern."""
    return [
        f"{short(path)}:{line} {what}"
        for path in paths
        if re.search(words, source(path))
        for line, what in find(parsed(path), short(path))
    ]


def python_in(*folders: str) -> list[Path]:
    return [path for path in PYTHON if short(path).split("/")[0].removesuffix(".py") in folders]


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """All imported modules, including imports in functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def rooms_of(folder: str) -> set[str]:
    """Names of the packages and modules in a directory."""
    return {
        path.stem
        for path in (ROOT / folder).iterdir()
        if (path.is_dir() or path.suffix == ".py") and not path.name.startswith(("_", "."))
    }


# --- imports --------------------------------------------------------------------------------------------------------


def test_models_know_neither_flask_nor_views() -> None:
    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        for line, module in imported(tree):
            top = module.split(".")[0]
            web = top.startswith(("flask", "werkzeug", "jinja2", "htmx_flask"))
            if (web and name != "models/core/db.py") or top in ("views", "app"):
                yield line, f"imports {module}"

    assert offenders(python_in("models"), find) == []


def test_no_module_imports_relatively() -> None:
    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        yield from ((line, module) for line, module in imported(tree) if module.startswith("."))

    assert offenders(PYTHON, find, r"from\s+\.") == []


def test_queries_are_written_in_models_only() -> None:
    verbs = {"select", "insert", "update", "delete", "text"}

    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        for line, module in imported(tree):
            parts = module.split(".")
            if parts[0] == "sqlalchemy" and parts[-1] in verbs:
                yield line, f"imports {module}"
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if owner in ("sa", "sqlalchemy", "db") and node.func.attr in verbs:
                yield node.lineno, f"{owner}.{node.func.attr}(...)"
            if owner.endswith("session") and node.func.attr in ("query", "execute", "scalar", "scalars"):
                yield node.lineno, f"{owner}.{node.func.attr}(...)"

    assert offenders(python_in("views", "app"), find) == []


def test_sessions_are_not_passed_as_arguments() -> None:
    """Use `db.session`."""
    sessions = {"sqlalchemy.orm.Session", "sqlalchemy.orm.scoped_session"}

    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        yield from ((line, module) for line, module in imported(tree) if module in sessions)

    assert offenders(python_in("models", "views"), find, r"sqlalchemy\.orm") == []


def test_the_domain_flushes_and_never_commits() -> None:
    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("commit", "rollback")
                and name not in COMMITTING
            ):
                yield node.lineno, f"{ast.unparse(node)}"

    assert offenders(python_in("models"), find, "commit|rollback") == []


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for path in python_in("models", "views"):
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(short(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_module_names_are_unique() -> None:
    """Except doors, which have the same names in every room; a view module may be named after its model module."""
    places: dict[str, list[Path]] = {}
    for path in python_in("models", "views"):
        name = path.relative_to(ROOT).with_suffix("")
        door = name.parts[0] == "views" and name.parts[2:] in {(door,) for door in DOORS}
        if path.stem != "__init__" and not door:
            places.setdefault(path.stem, []).append(name)
    twice = {
        stem: paths
        for stem, paths in places.items()
        if len({path.parts[1] for path in paths}) > 1 or sum(path.parts[0] == "models" for path in paths) > 1
    }
    assert twice == {}


def test_only_settings_read_the_environment() -> None:
    # These pass the environment to programs they start.
    forwarding = {"models/core/postgres.py", "views/server/serve.py", "views/server/supervisor.py"}

    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("environ", "getenv", "environb")
                and not ast.unparse(node).endswith("request.environ")  # WSGI's
            ):
                yield node.lineno, ast.unparse(node)

    paths = [path for path in PYTHON if short(path) not in forwarding | {"models/core/settings.py"}]
    assert offenders(paths, find, "environ|getenv") == []


def test_no_naive_utc_functions() -> None:
    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        for node in ast.walk(tree):
            found = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
            if found in ("utcnow", "utcfromtimestamp"):
                yield getattr(node, "lineno", 0), str(found)

    paths = [*PYTHON, *sorted((ROOT / "tests").rglob("*.py"))]
    assert offenders(paths, find, "utcnow|utcfromtimestamp") == []


# --- rooms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "shared"),
    [
        ("models", SHARED_MODELS),
        ("views", SHARED_VIEWS),
    ],
)
def test_packages_are_rooms_or_shared(folder: str, shared: set[str]) -> None:
    assert rooms_of(folder) <= ROOMS | shared


def test_every_room_with_a_door_has_its_domain() -> None:
    assert rooms_of("views") & ROOMS <= rooms_of("models")


def test_rooms_contain_only_doors() -> None:
    unknown = {
        f"{room}/{name}"
        for room in rooms_of("views") - SHARED_VIEWS
        for name in rooms_of(f"views/{room}") - DOORS
    }
    assert unknown == set()


def test_rooms_import_only_earlier_rooms() -> None:
    place = {room: index for index, room in enumerate(ORDER)}

    def find(tree: ast.Module, name: str) -> Iterator[tuple[int, str]]:
        room = name.split("/")[1].removesuffix(".py")
        for line, module in imported(tree):
            other = module.split(".")[1] if module.startswith("models.") else ""
            if place.get(other, -1) > place[room]:
                yield line, f"imports {module}"

    # jobs import their functions when they run
    above = ("models/__init__.py", "models/core/jobs.py")
    assert offenders([path for path in python_in("models") if short(path) not in above], find) == []


def test_templates_live_in_the_folder_of_a_room() -> None:
    folders = {path.name for path in (ROOT / "templates").iterdir() if path.is_dir()}
    assert folders <= ROOMS | SHARED_TEMPLATES
    assert folders & ROOMS <= rooms_of("views")


def test_importing_models_imports_every_room() -> None:
    assert set(models.__all__) == rooms_of("models") - SHARED_MODELS


def test_no_module_has_a_generic_name() -> None:
    names = {part for path in [*PYTHON, *TEMPLATES] for part in Path(short(path)).with_suffix("").parts}
    assert names & FORBIDDEN_NAMES == set()


def test_top_level_entries_are_known() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} <= set(TOP.split())


def test_every_module_has_a_docstring() -> None:
    modules = [path for path in PYTHON if path.name != "__init__.py" or path.stat().st_size]
    silent = [short(path) for path in modules if not ast.get_docstring(parsed(path))]
    assert silent == []


# --- tables ---------------------------------------------------------------------------------------------------------


def test_relationships_never_load_silently() -> None:
    loose = [
        f"{mapper.class_.__name__}.{relation.key}"
        for mapper in Base.registry.mappers
        for relation in mapper.relationships
        # "selectin" comes with the query of its owner
        if relation.lazy not in ("raise_on_sql", "raise", "write_only", "noload", "selectin")
    ]
    assert loose == []


def test_every_timestamp_is_utc() -> None:
    loose = [
        str(column)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, DateTime) and not column.type.timezone
    ]
    assert loose == []
    assert UtcTimestamp().process_result_value(None, None) is None  # type: ignore[arg-type]


def test_every_foreign_key_has_ondelete() -> None:
    silent = [
        f"{table.name}.{key.parent.name}"
        for table in Base.metadata.tables.values()
        for key in table.foreign_keys
        if key.ondelete is None
    ]
    assert silent == []


# --- templates ------------------------------------------------------------------------------------------------------


class Markup(HTMLParser):
    """Collects violations of the content security policy and the htmx rules."""

    VOID_RULES = {"hx-on", "hx-vars", "style"}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        line = self.getpos()[0]
        names = dict(attrs)
        if tag == "style" or (
            tag == "script" and "src" not in names and names.get("type") != "application/json"
        ):
            self.found.append((line, f"inline <{tag}>"))
        for name, value in attrs:
            plain = name.removeprefix("data-")
            if plain in self.VOID_RULES or plain.startswith("hx-on:") or re.fullmatch(r"on[a-z]+", name):
                self.found.append((line, f"attribute {name}"))
            if (value or "").strip().lower().startswith(("javascript:", "js:")):
                self.found.append((line, f"{name}={value}"))


def without_jinja(template: str) -> str:
    """The markup without Jinja syntax, with the same line numbers."""
    return re.sub(
        r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}",
        lambda found: "x" + "\n" * found[0].count("\n"),
        template,
        flags=re.S,
    )


def test_templates_carry_no_style_and_no_script() -> None:
    wrong = []
    for path in TEMPLATES:
        markup = Markup()
        markup.feed(without_jinja(source(path)))
        mail = short(path) == "templates/emails/_layout.html"  # mail clients load no style sheets
        wrong += [
            f"{short(path)}:{line} {what}"
            for line, what in markup.found
            if not (mail and what == "inline <style>")
        ]
    assert not wrong, "\n".join(wrong)


def test_the_markup_rules_detect_violations() -> None:
    markup = Markup()
    markup.feed(
        without_jinja(
            '<p style="color: red"><a onclick="go()" href=" JavaScript:go()"><script>go()</script>'
            '<b hx-on:click="go()" hx-vals="js:{a: 1}"><style></style><script src="{{ asset("x") }}"></script>'
        )
    )
    assert [what for _, what in markup.found] == [
        "attribute style",
        "attribute onclick",
        "href= JavaScript:go()",
        "inline <script>",
        "attribute hx-on:click",
        "hx-vals=js:{a: 1}",
        "inline <style>",
    ]


def test_pages_extend_a_layout_and_fragments_do_not() -> None:
    wrong = []
    for path in TEMPLATES:
        name = short(path)
        extends = "{% extends" in source(path)
        folder = name.split("/")[1]
        if folder in ("components", "emails"):
            continue
        page = not path.name.startswith("_") and name != "templates/layouts/base.html"
        if page != extends:
            wrong.append(f"{name} {'extends nothing' if page else 'is a fragment and extends a layout'}")
    assert wrong == []


def test_only_literals_are_marked_safe() -> None:
    own = r"'[^']*'"
    wrong = [
        f"{short(path)}:{number}"
        for path in TEMPLATES
        for number, line in enumerate(source(path).splitlines(), 1)
        if re.search(r"\|\s*safe\b|autoescape\s+false|\sstyle=", re.sub(own + r"\s*\|\s*safe\b", "", line))
    ]
    assert wrong == []
