"""Two test processes must agree on what there is to test, or pytest-xdist refuses to run any of it."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_test_names_depend_on_no_clock_chance_or_hash_seed(request: pytest.FixtureRequest) -> None:
    mine = [item.nodeid for item in request.session.items]
    collecting = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert collecting.returncode == 0, collecting.stdout[-2000:]
    theirs = collecting.stdout.splitlines()
    known = set(theirs)
    strangers = [name for name in mine if name not in known]
    assert strangers == [], "collected a moment later under another hash seed, these have another name"
    wanted = set(mine)
    assert by_file(name for name in theirs if name in wanted) == by_file(mine), (
        "the order within a file changes"
    )


def by_file(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name.partition("::")[0])
