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
def stage(app: Flask, engine: Engine, session: object, postgres_url: str) -> Iterator[Stage]:
    place = Path(tempfile.mkdtemp(prefix="stoa-proof-"))
    with (
        upstream.running() as provider,
        server.running(postgres_url, place, **settings_for(provider, place)) as address,
    ):
        yield Stage(address, engine, provider)
    shutil.rmtree(place)


def test_health_never_waits_for_whatever_is_sent(stage: Stage) -> None:
    masters = [child for child in psutil.Process().children() if "gunicorn" in " ".join(child.cmdline())]
    workers = [worker for master in masters for worker in master.children()]
    assert len(workers) == server.WORKERS
    hostile(stage, workers, times=2)
