"""The API of projects as one of the cast, a model's answers, and the proof of projects after tests that move files."""

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.insights import decision_extracting
from tests import factories
from tests.factories import Person
from tests.insights.model_answers import ModelAnswers
from tests.projects.conftest import mine, proved
from views.insights.api import insights_api_blueprint
from views.insights.pages import model_pages

__all__ = ["answers", "mine", "proved"]


@pytest.fixture
def mason(session: OrmSession, alice: Person) -> str:
    """An agent of the store."""
    assert alice.user
    factories.agent_version(factories.publisher(alice.user, "harbor"), "mason")
    session.commit()
    return "harbor/mason"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> ModelAnswers:
    """What the model says next."""
    found = ModelAnswers()
    monkeypatch.setattr(insights_api_blueprint, "complete_chat", found)
    monkeypatch.setattr(model_pages, "chat_once", found)
    monkeypatch.setattr(decision_extracting, "chat_once", found)
    return found
