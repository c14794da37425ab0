from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models import billing
from models.core.settings import Settings
from tests.billing.stage import Desk
from tests.fakes.stripe_simulator import StripeSim
from views.web.guards import limiter


@pytest.fixture
def desk(app: Flask, session: OrmSession, settings: Settings, stripe_sim: StripeSim) -> Iterator[Desk]:
    """The application, connected to the Stripe simulator."""
    made = Desk(app, stripe_sim, session, settings)
    made.configure()
    limiter.enabled = False
    yield made
    limiter.enabled = True
    app.extensions["stripe"] = billing.connect(settings)
