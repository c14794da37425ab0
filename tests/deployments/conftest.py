"""A project of Alice that can be deployed, and where this machine can run programs."""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from tests.deployments.deployment_calls import SiteCalls
from tests.deployments.program_calls import ProgramCalls
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi
from tests.runners.conftest import sandboxed  # noqa: F401  (a fixture)


@pytest.fixture
def pier(session: OrmSession, client: FlaskClient, alice: Person) -> SiteCalls:
    return SiteCalls(ProjectsApi(client, alice))


@pytest.fixture
def program(sandboxed: None, app: Flask, pier: SiteCalls) -> ProgramCalls:  # noqa: F811
    return ProgramCalls(app, pier)
