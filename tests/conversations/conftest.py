"""Alice, with credits, in a conversation about her project."""

from collections.abc import Iterator

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from models.core.db import db
from models.projects.storage_proof import accounts_to_prove, prove_account
from models.turns import TurnEngine
from tests import factories
from tests.conversations.talks import Talk
from tests.factories import Person


@pytest.fixture
def engine_of_turns(app: Flask) -> TurnEngine:
    """What runs the turns of the application."""
    found: TurnEngine = app.extensions["turns"]
    return found


@pytest.fixture
def rich(session: OrmSession, alice: Person) -> Person:
    """Alice with credits."""
    factories.grant(alice.user, 100_000)
    db.session.commit()
    return alice


@pytest.fixture
def talk(rich: Person, engine_of_turns: TurnEngine) -> Talk:
    """Alice's conversation."""
    return Talk(rich, engine_of_turns)


@pytest.fixture
def proved(session: OrmSession) -> Iterator[None]:
    """Fails the test that leaves anything which `flask projects prove` would find."""
    yield
    session.rollback()
    for account_id in accounts_to_prove():
        assert prove_account(account_id)[1] == []
