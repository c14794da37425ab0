"""Searches of assistants in turns: billed calls of the turn's run, told to the model, and not offered where no service is set up."""

from typing import Any

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.assistants import create_assistant
from models.core.db import db
from models.core.settings import Settings
from models.gateway.search_tools.search_providers import SearchRouter
from models.gateway.upstream import Egress
from models.ledger import Account
from models.turns import TurnEngine
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Behaviour, FakeUpstream, answer
from tests.threads.inference.conftest import USAGE, Turns, says


def searches(name: str, arguments: str) -> Behaviour:
    """An answer that calls a search."""
    function = {"name": name, "arguments": arguments}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    chunks = [
        fakes.chunk({"role": "assistant", "content": ""}),
        fakes.chunk({"tool_calls": [call]}),
        fakes.chunk({}, "tool_calls"),
        fakes.chunk(None, usage=USAGE),
        "[DONE]",
    ]
    return fakes.stream(chunks)


@pytest.fixture
def assistant_id(session: OrmSession, alice: Person, settings: Settings) -> str:
    """An assistant that searches."""
    new = {"name": "Reader", "instructions": "Look things up.", "tools": ["web_search", "docs_search"]}
    found = create_assistant(alice.id, Account(user_id=alice.id), new, settings).assistant.id
    db.session.commit()
    return found


@pytest.fixture
def services(
    engine_of_turns: TurnEngine,
    fake: FakeUpstream,
    gateway_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linkup, on loopback, and nothing for documentation."""
    changes = {"linkup_api_key": "sk-linkup", "linkup_base_url": f"{fake.url}/linkup"}
    settings = Settings.model_validate({**gateway_settings.model_dump(), **changes})
    monkeypatch.setattr(engine_of_turns.gateway.routes, "searches", SearchRouter(settings, Egress()))


def offered(fake: FakeUpstream) -> list[str]:
    return [each["function"]["name"] for each in fake.requests[0].body.get("tools", ())]


@pytest.mark.usefixtures("services")
def test_a_search_is_a_billed_call_of_the_turn(turns: Turns, fake: FakeUpstream, assistant_id: str) -> None:
    fake.will(
        searches("web_search", '{"query": "Capital of France?"}'),
        answer({"answer": "Paris.", "sources": []}),
        says("It is Paris."),
    )
    turn = turns.ask(assistant_id=assistant_id)
    assert (turn.state, turn.error_message) == ("completed", None)
    assert offered(fake) == ["web_search"]
    tool = next(message for message in turns.messages() if message.role == "tool")
    assert tool.text == "Paris."
    assert fake.requests[1].body["q"] == "Capital of France?"
    billed = turns.calls()
    assert [call.door for call in billed].count("web_search") == 1
    assert {call.run_id for call in billed} == {turn.run_id}
    assert turn.credits == sum(call.credits or 0 for call in billed)


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize(
    ("arguments", "behaviour", "text"),
    [
        ('{"query": 7}', None, "do not fit"),
        ("{}", None, "missing: query"),
        ('{"query": "x"}', answer({"error": "no"}, 500), "The search failed: Error performing web search"),
    ],
)
def test_a_search_that_fails_is_told_to_the_model_and_free(
    turns: Turns,
    fake: FakeUpstream,
    assistant_id: str,
    arguments: str,
    behaviour: Behaviour | None,
    text: str,
) -> None:
    failing: list[Any] = [behaviour] if behaviour else []
    fake.will(searches("web_search", arguments), *failing, says("I do not know."))
    turn = turns.ask(assistant_id=assistant_id)
    assert turn.state == "completed"
    tool = next(message for message in turns.messages() if message.role == "tool")
    assert text in tool.text
    settled = [call for call in turns.calls() if call.state == "settled"]
    assert [call.door for call in settled if call.door == "web_search"] == []
    assert turn.credits == sum(call.credits or 0 for call in settled)


def test_searches_are_not_offered_where_none_is_set_up(
    turns: Turns, fake: FakeUpstream, assistant_id: str
) -> None:
    assert turns.ask(assistant_id=assistant_id).state == "completed"
    assert offered(fake) == []
