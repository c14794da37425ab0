"""A thread of alice, and callers of the JSON API."""

import pytest
from flask.testing import FlaskClient

from models import threads
from models.core.db import db
from models.ledger import Account
from models.threads import Thread
from tests.factories import Person
from tests.threads.thread_calls import Caller


@pytest.fixture
def thread(alice: Person) -> Thread:
    """An empty thread of alice, paid by her own account."""
    created = threads.create_thread(alice.id, Account(user_id=alice.id), name="Trees")
    db.session.commit()
    return created


@pytest.fixture
def call(client: FlaskClient, alice: Person) -> Caller:
    """Calls as alice."""
    return Caller(client, alice.token)


@pytest.fixture
def stranger(client: FlaskClient, mallory: Person) -> Caller:
    """Calls as mallory."""
    return Caller(client, mallory.token)
