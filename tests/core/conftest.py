"""A place for embedded servers of the tests' own."""

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
    """A directory that PostgreSQL's own user may reach. pytest's tmp_path closes itself to it whenever another
    pytest starts. What still runs there is ended, and the directory removed."""
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
