"""Trees and workplaces of the level `process`, where this machine can run it."""

import pytest
from flask import Flask

from models.runners import levels


@pytest.fixture
def sandboxed(app: Flask) -> None:
    """Skips the test with the probe's sentence where commands cannot be sandboxed."""
    with app.app_context():
        state = levels()["process"]
    if not state.available:
        pytest.skip(state.sentence)
