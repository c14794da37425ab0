"""The short form of the proof against inputs made to stop the server."""

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
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="stoa-proof-"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def stage(app: Flask, engine: Engine, session: object, postgres_url: str, place: Path) -> Iterator[Stage]:
    with (
        upstream.running() as provider,
        server.running(postgres_url, place, **settings_for(provider, place)) as address,
    ):
        yield Stage(address, engine, provider)


def test_health_never_waits_for_whatever_is_sent(stage: Stage, place: Path) -> None:
    own = psutil.Process().pid
    workers = [process for process in server.living(place) if process.ppid() != own]
    assert len(workers) == server.WORKERS
    # the machine has other tests to run as well; `make prove` allows a second
    hostile(stage, workers, times=1, most_wait=5.0)
