"""Short form of the hostile proof."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flask import Flask
from sqlalchemy.engine import Engine

from tests import server
from tests.proof import upstream
from tests.proof.hostile import hostile
from tests.proof.stage import Stage, settings_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="stoa-proof-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def stage(app: Flask, engine: Engine, session: object, postgres_url: str, directory: Path) -> Iterator[Stage]:
    with (
        upstream.running() as provider,
        server.running(postgres_url, directory, **settings_for(provider, directory)) as address,
    ):
        yield Stage(address, engine, provider)


def test_health_never_waits_for_whatever_is_sent(stage: Stage, directory: Path) -> None:
    own = psutil.Process().pid
    workers = [process for process in server.living(directory) if process.ppid() != own]
    assert len(workers) == server.WORKERS
    # other tests may run on the machine; `make prove` allows one second
    hostile(stage, workers, times=1, max_wait=5.0)
