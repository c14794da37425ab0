"""Tests that failed are run once more alone, if they are few."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.core.settings import ROOT

PASSES = "def test_it() -> None:\n    pass\n"
FAILS = "def test_it() -> None:\n    assert not 1\n"


def again(home: Path, tests: dict[str, str]) -> tuple[int, str]:
    """Exit status and output of the script in a project where these tests have failed, by file name."""
    (home / ".ci").mkdir()
    (home / ".ci" / "again.py").write_bytes(Path(ROOT, ".ci", "again.py").read_bytes())
    for name, text in tests.items():
        (home / name).write_text(text)
    if tests:
        (home / ".pytest_cache" / "v" / "cache").mkdir(parents=True)
        failed = json.dumps({f"{name}::test_it": True for name in tests})
        (home / ".pytest_cache" / "v" / "cache" / "lastfailed").write_text(failed)
    script = [sys.executable, str(home / ".ci" / "again.py")]
    run = subprocess.run(script, cwd=home, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout


@pytest.mark.parametrize(
    ("tests", "status", "said"),
    [
        ({}, 1, ""),
        ({f"test_{n}.py": PASSES for n in range(6)}, 1, ""),
        ({"test_a.py": PASSES, "test_b.py": PASSES}, 0, "2 passed"),
        ({"test_a.py": PASSES, "test_b.py": FAILS}, 1, "1 failed, 1 passed"),
    ],
    ids=["none", "too many", "pass alone", "fail alone too"],
)
def test_few_failures_are_excused_if_they_pass_alone(
    tmp_path: Path, tests: dict[str, str], status: int, said: str
) -> None:
    found, output = again(tmp_path, tests)
    assert (found, said in output) == (status, True)
    assert ("UNSTEADY" in output) == (status == 0)
