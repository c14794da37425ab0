from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models import billing
from models.core.settings import Settings
from tests.billing.stage import KEY, SECRET, Desk, simulator
from views.demo.stripe_simulator.simulated_state import Simulator
from views.web.guards import limiter


@pytest.fixture(scope="session")
def stripe_server() -> Iterator[tuple[Simulator, str]]:
    """One simulator for the tests of a process; each finds it empty."""
    with simulator() as started:
        yield started


@pytest.fixture
def desk(
    app: Flask, session: OrmSession, settings: Settings, stripe_server: tuple[Simulator, str]
) -> Iterator[Desk]:
    """The application with Stripe's simulator as its Stripe."""
    sim, url = stripe_server
    sim.reset()
    with_stripe(settings, url)
    limiter.enabled = False
    yield Desk(app, sim, url, session)
    limiter.enabled = True
    billing.configure(settings)


def with_stripe(settings: Settings, url: str, **more: object) -> None:
    """Sell through the simulator."""
    loaded = {"stripe_secret_key": KEY, "stripe_webhook_secret": SECRET, "stripe_api_base": url} | more
    billing.configure(Settings(_env_file=None, **(settings.model_dump() | loaded)))  # type: ignore[arg-type]
