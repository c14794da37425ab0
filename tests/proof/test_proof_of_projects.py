"""Short form of the proof of projects: a few kills among a hundred moves."""

import pytest

from tests.proof import upstream
from tests.proof.project_histories import project_histories
from tests.proof.stage import serving


@pytest.mark.timeout(400)
def test_kills_lose_no_byte_and_no_confirmed_move() -> None:
    with upstream.running() as provider, serving(provider, workers=2) as (server, stage):
        project_histories(server, stage, steps=120, kills=2, days=2)
