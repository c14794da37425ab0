"""Which model pages offer first."""

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.gateway.model_suggestion import suggested_model
from tests import factories
from tests.factories import Person

DEMO = "stoa/demo"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([DEMO], DEMO),
        ([DEMO, "anthropic/claude-2", "house/x"], "anthropic/claude-2"),
        ([DEMO, "anthropic/claude-2", "openai/gpt-4o-mini", "openai/gpt-5-mini"], "openai/gpt-5-mini"),
        (
            [DEMO, "anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4.10", "openai/gpt-5-mini"],
            "anthropic/claude-sonnet-4.10",
        ),
        ([DEMO, "google/gemini-2.5-flash", "google/gemini-3-flash"], "google/gemini-3-flash"),
    ],
)
def test_a_well_known_model_is_offered(names: list[str], expected: str) -> None:
    assert suggested_model(names) == expected


def test_the_last_model_of_the_account_comes_first(session: OrmSession, alice: Person) -> None:
    assert alice.user is not None
    factories.call(alice.user, requested_model="house/x")
    session.commit()
    assert suggested_model([DEMO, "house/x", "openai/gpt-5-mini"], alice.id) == "house/x"
    assert suggested_model([DEMO, "openai/gpt-5-mini"], alice.id) == "openai/gpt-5-mini"
