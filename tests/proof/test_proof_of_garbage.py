"""Short form of the garbage proof."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy.engine import Engine

from tests import server
from tests.proof import upstream
from tests.proof.garbage import garbage
from tests.proof.stage import Stage, settings_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def stage(app: Flask, engine: Engine, session: object, postgres_url: str) -> Iterator[Stage]:
    directory = Path(tempfile.mkdtemp(prefix="stoa-proof-"))
    with (
        upstream.running() as provider,
        server.running(postgres_url, directory, **settings_for(provider, directory)) as address,
    ):
        yield Stage(address, engine, provider)
    shutil.rmtree(directory)


def test_garbage_gets_no_5xx_and_costs_nothing(stage: Stage) -> None:
    garbage(stage, fuzzed=300, examples=1)
