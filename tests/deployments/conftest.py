"""A project of Alice that can be deployed."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from tests.deployments.deployment_calls import SiteCalls
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


@pytest.fixture
def pier(session: OrmSession, client: FlaskClient, alice: Person) -> SiteCalls:
    return SiteCalls(ProjectsApi(client, alice))
