"""Directories for embedded servers started by tests."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.server import living


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory accessible to PostgreSQL's user, unlike pytest's tmp_path when another pytest starts. Afterwards remaining
    processes are killed and the directory is removed."""
    place = Path(tempfile.mkdtemp(prefix="stoa-runtime-"))
    yield place
    for process in living(place):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def data_dir(place: Path) -> Path:
    """A data directory that does not exist yet."""
    return place / "data"
