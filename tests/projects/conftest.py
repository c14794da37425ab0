"""The API of projects as one of the cast, and the proof after each test."""

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.projects.storage_proof import accounts_to_prove, prove_account
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


@pytest.fixture
def mine(session: OrmSession, client: FlaskClient, alice: Person) -> ProjectsApi:
    """Alice's key."""
    return ProjectsApi(client, alice)


@pytest.fixture
def proved(session: OrmSession) -> Iterator[None]:
    """Fails the test that leaves anything which `flask projects prove` would find."""
    yield
    session.rollback()
    for account_id in accounts_to_prove():
        assert prove_account(account_id)[1] == []
