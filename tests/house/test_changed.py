"""`make check` selects the tests of changed files."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from models.core.settings import ROOT


@pytest.fixture(scope="module")
def changed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("changed", Path(ROOT, ".ci", "changed.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("models/gateway/sse.py", {"tests/gateway"}),
        ("views/usage/api/balance_routes.py", {"tests/usage"}),
        ("templates/runs/runs.html", {"tests/runs"}),
        ("tests/store/listings.py", {"tests/store"}),
        ("tests/store/test_readme.py", {"tests/store/test_readme.py"}),
        ("tests/store/test_that_was_removed.py", set()),
        ("models/core/mail.py", {"tests/core/test_mail.py"}),
        ("static/css/tokens.css", {"tests/web"}),
        ("migrations/env.py", {"tests/house/test_migrations.py", "tests/house/test_schema.py"}),
        ("docs/store.md", {"tests/docs", "tests/store"}),
        ("tests/factories.py", set()),
    ],
)
def test_a_file_selects_its_tests(changed: ModuleType, path: str, tests: set[str]) -> None:
    assert changed.tests_of(path) == tests


def test_a_room_is_selected_once(changed: ModuleType) -> None:
    paths = ["models/gateway/sse.py", "tests/gateway/test_sse.py", "views/gateway/api/openai.py"]
    assert changed.chosen(paths) == [*sorted({"tests/gateway", *changed.ALWAYS})]


def test_files_without_tests_are_reported(changed: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert changed.chosen(["app.py"]) == sorted(changed.ALWAYS)
    assert "app.py" in capsys.readouterr().err
