"""The API of projects as one of the cast, a model's answers, and the proof of projects after tests that move files."""

import pytest

from tests.insights.model_answers import ModelAnswers
from tests.projects.conftest import mine, proved
from views.insights.api import insights_api_blueprint

__all__ = ["answers", "mine", "proved"]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> ModelAnswers:
    """What the model says next."""
    found = ModelAnswers()
    monkeypatch.setattr(insights_api_blueprint, "complete_chat", found)
    return found
