"""The tools of analysers in a sandbox: what they find is the same, and what they could reach is not there. Skipped where no sandbox works."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from models.insights import tool_sandbox
from models.insights.analysed_tree import AnalysedTree
from models.insights.lizard_findings import lizard_findings
from models.insights.ruff_findings import ruff_findings
from models.insights.tool_runner import AnalyserFailed, AnalyserTools
from models.insights.tool_sandbox import SandboxedTools, open_tools
from models.runners.isolation_levels import level_state
from models.runners.sandbox_home import SandboxesBusy
from tests.insights.analysis_rows import COMPLEX, SCRIPT

FILES = {"src/a.py": COMPLEX + "eval(input())\n", "web/a.js": SCRIPT, "b.py": "def broken(:\n"}


@pytest.fixture
def inside(app: Flask) -> Iterator[None]:
    with app.app_context():
        yield


@pytest.fixture
def sandboxed(inside: None) -> Iterator[SandboxedTools]:
    if not level_state("process").available:
        pytest.skip("the level process does not work on this machine")
    with open_tools() as tools:
        if not isinstance(tools, SandboxedTools):
            pytest.skip("the tools do not start in a sandbox on this machine")
        yield tools


def found_by(tools: AnalyserTools) -> list[tuple[str, str, int]]:
    for path, text in FILES.items():
        (tools.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (tools.folder / path).write_text(text)
    tree = AnalysedTree({path: len(text) for path, text in FILES.items()}, {}, tools)
    tree.texts = {path: text.encode() for path, text in FILES.items()}
    both = [*ruff_findings(tree), *lizard_findings(tree)]
    return sorted((each.rule, each.path, each.line) for each in both)


def test_a_sandbox_finds_what_limits_find(sandboxed: SandboxedTools, tmp_path: Path) -> None:
    found = found_by(sandboxed)
    assert {each[0] for each in found} == {
        "ruff:C901",
        "ruff:S307",
        "ruff:invalid-syntax",
        "lizard:complexity",
    }
    assert found == found_by(AnalyserTools(tmp_path))


@pytest.mark.parametrize(
    "program",
    [
        "import os; print(os.listdir('/root'))",
        "import socket; socket.create_connection(('127.0.0.1', 5432), 2)",
        "open('/opt/stoa/lib/x', 'w')",
        "open('/usr/x', 'w')",
        "import os; os.setuid(0)",
        "import time; time.sleep(60)",
        "b = bytearray(5 << 30); b[::4096] = b'x' * len(b[::4096]); print(len(b))",
    ],
)
def test_hostile_code_in_a_tool_reaches_nothing(
    sandboxed: SandboxedTools, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_sandbox, "_MODULE", program)
    monkeypatch.setattr(tool_sandbox, "WALL_SECONDS", 3.0)
    with pytest.raises(AnalyserFailed):
        list(sandboxed.run("-m lizard", []))


def test_a_flood_is_cut(sandboxed: SandboxedTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_sandbox, "_MODULE", "while True: print('x' * 1000)")
    monkeypatch.setattr(tool_sandbox, "MAX_OUTPUT", 100_000)
    with pytest.raises(AnalyserFailed):
        list(sandboxed.run("-m lizard", []))


def test_without_a_sandbox_limits_hold(inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise SandboxesBusy("All are in use.")

    monkeypatch.setattr(tool_sandbox, "_free_slot", lambda: None)
    with open_tools() as tools:
        assert not tools.sandboxed
        assert found_by(tools)
        folder = tools.folder
    assert not folder.exists()


def test_a_sandbox_leaves_nothing(sandboxed: SandboxedTools) -> None:
    with open_tools() as second:
        assert second.folder != sandboxed.folder
        (second.folder / "x").write_text("y")
    assert not second.folder.exists()
