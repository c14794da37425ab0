"""Short forms of the proofs of runners and of a storm: a few kills each, of a server with short leases."""

import pytest

from tests.proof import upstream
from tests.proof.runners import SHORT_LEASES, killed_runners
from tests.proof.stage import serving
from tests.proof.storm import storm


@pytest.mark.timeout(500)
def test_kills_of_runners_and_workers_lose_no_money_and_leave_nothing() -> None:
    with upstream.running() as provider, serving(provider, workers=2, **SHORT_LEASES) as (server, stage):
        killed_runners(server, stage, kills=4, people=2, workers_too=2)
        storm(server, stage, agents=20, cap=200, kills=1, calls=10)
