"""A thread of alice."""

import pytest

from models import threads
from models.core.db import db
from models.ledger import Account
from models.threads import Thread
from tests.factories import Person


@pytest.fixture
def thread(alice: Person) -> Thread:
    """An empty thread of alice, paid by her own account."""
    created = threads.create_thread(alice.id, Account(user_id=alice.id), name="Trees")
    db.session.commit()
    return created
