"""Alice's key at the API, and where this machine can run the level `process`."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.runners import levels
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


@pytest.fixture
def mine(session: OrmSession, client: FlaskClient, alice: Person) -> ProjectsApi:
    """Alice's key."""
    return ProjectsApi(client, alice)


@pytest.fixture
def sandboxed(app: Flask) -> None:
    """Skips the test with the probe's sentence where commands cannot be sandboxed."""
    with app.app_context():
        state = levels()["process"]
    if not state.available:
        pytest.skip(state.sentence)
