"""A place for embedded servers of the tests' own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest


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


def living(place: Path) -> list[psutil.Process]:
    """Whatever runs for a data directory in that place: its PostgreSQL and every process that was told of it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = process.environ().get("STOA_DATA_DIR", "").startswith(str(place))
            postgres = process.name() == "postgres" and Path(process.cwd()).is_relative_to(place)
            if (told or postgres) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
