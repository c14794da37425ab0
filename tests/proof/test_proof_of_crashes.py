"""Short form of the crash proof: one kill of each kind."""

import pytest

from models.core import jobs
from models.gateway import in_flight
from tests.proof import upstream
from tests.proof.crashes import RELEASE_SECONDS, SWEPT_EVERY, crashes
from tests.proof.stage import serving


@pytest.mark.timeout(400)
def test_kills_lose_no_charge_and_leave_no_hold() -> None:
    with upstream.running() as provider, serving(provider, workers=2) as (server, stage):
        crashes(server, stage, kinds=("worker", "postgres", "everything"), clients=8, wait=False)


def test_a_hold_ends_within_a_minute_of_its_workers_last_heartbeat() -> None:
    assert in_flight.HOLD_SECONDS + SWEPT_EVERY < RELEASE_SECONDS
    assert in_flight.HOLD_SECONDS > 1.5 * in_flight.RENEW_SECONDS
    # a killed sweep must not block the next one
    assert jobs.sweep_credit.lock is None
