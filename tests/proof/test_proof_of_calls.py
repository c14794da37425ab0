"""Short form of the proofs without kills, on one gunicorn and the test database."""

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
from tests.proof.aborts import aborts
from tests.proof.faults import faults, unreachable_providers
from tests.proof.garbage import garbage
from tests.proof.hostile import hostile
from tests.proof.race import race
from tests.proof.soak import soak
from tests.proof.stage import Stage, settings_for
from tests.proof.stops import stops
from tests.proof.turns import watched

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def started(app: Flask, engine: Engine, postgres_url: str) -> Iterator[tuple[Stage, list[psutil.Process]]]:
    directory = Path(tempfile.mkdtemp(prefix="stoa-proof-"))
    mine = set(psutil.Process().children(recursive=True))
    with (
        upstream.running() as provider,
        unreachable_providers() as addresses,
        server.running(postgres_url, directory, **settings_for(provider, directory, **addresses)) as address,
    ):
        new = set(psutil.Process().children(recursive=True)) - mine
        workers = [
            process for process in new if process.parent() in new and "gunicorn" in str(process.cmdline())
        ]
        assert len(workers) == server.WORKERS
        yield Stage(address, engine, provider), workers
    shutil.rmtree(directory)


@pytest.fixture
def stage(started: tuple[Stage, list[psutil.Process]], session: object) -> Stage:
    return started[0]


def test_a_race_overspends_by_less_than_a_call_and_charges_nothing_twice(stage: Stage) -> None:
    race(stage, calls=60, affordable=6, accounts=6, calls_each=15)


def test_streams_whose_clients_leave_are_all_billed(stage: Stage) -> None:
    aborts(stage, streams=60, concurrency=30)


def test_stopped_calls_end_over_all_workers(stage: Stage) -> None:
    # other tests may run on the machine; `make prove` allows one second for these
    stops(stage, rounds=1, max_seconds=5.0)


def test_provider_faults_restart_no_worker(stage: Stage, started: tuple[Stage, list[psutil.Process]]) -> None:
    faults(stage, started[1])


def test_mixed_traffic_has_no_errors(stage: Stage, started: tuple[Stage, list[psutil.Process]]) -> None:
    soak(stage, started[1], seconds=2, clients=6)


def test_garbage_gets_no_5xx_and_costs_nothing(stage: Stage) -> None:
    garbage(stage, fuzzed=300, examples=1)


def test_health_checks_respond_during_hostile_input(
    stage: Stage, started: tuple[Stage, list[psutil.Process]]
) -> None:
    # other tests may run on the machine; `make prove` allows one second
    hostile(stage, started[1], times=1, max_wait=5.0, everywhere=False)


def test_many_watch_one_turn_and_the_model_is_called_once(stage: Stage) -> None:
    watched(stage, watchers=40, words=6)
