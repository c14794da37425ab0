"""A small project that is indexed, the API as its owner, and a model that describes its parts."""

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.atlas import words_writing
from models.ledger import Account
from tests.atlas.atlas_rows import Shop, indexed, shop_rows
from tests.atlas.words_answers import WordsAnswers
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


@pytest.fixture
def shop(session: OrmSession, alice: Person) -> Shop:
    found = shop_rows(alice.id, Account(user_id=alice.id))
    indexed(session, found.project)
    return found


@pytest.fixture
def mine(session: OrmSession, client: FlaskClient, alice: Person) -> ProjectsApi:
    return ProjectsApi(client, alice)


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> WordsAnswers:
    """What the model says next."""
    found = WordsAnswers()
    monkeypatch.setattr(words_writing, "chat_once", found)
    return found
