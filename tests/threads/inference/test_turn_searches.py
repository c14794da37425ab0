"""Searches of assistants in turns: billed calls of the turn's run, told to the model, and not offered where no service is set up."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.accounts.key_format import present
from models.assistants import create_assistant
from models.assistants.tool_requests import ToolFailed
from models.assistants.turn_searches import TurnSearches
from models.core.db import db
from models.core.settings import Settings
from models.gateway.search_tools.search_providers import SearchRouter
from models.gateway.upstream import Egress
from models.ledger import Account
from models.turns import TurnEngine
from tests import factories
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


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("environment", ["live", "test"])
def test_a_search_counts_what_it_was_charged(
    turns: Turns, fake: FakeUpstream, alice: Person, environment: str
) -> None:
    assert alice.user is not None
    fake.will(answer({"answer": "Paris.", "sources": []}))
    key = present(factories.api_key(alice.user, environment=environment))
    handle: Any = SimpleNamespace(gateway=turns.engine.gateway, key=key, run_id=None)
    searches = TurnSearches(handle, None)
    with nullcontext() if environment == "live" else pytest.raises(ToolFailed, match="Test keys"):
        searches.search("web_search", {"query": "Capital of France?"})
    charged = sum(call.credits or 0 for call in turns.calls())
    assert (searches.take_credits(), bool(charged)) == (charged, environment == "live")
    assert len(fake.requests) == (environment == "live")
    assert searches.take_credits() == 0


def test_searches_are_not_offered_where_none_is_set_up(
    turns: Turns, fake: FakeUpstream, assistant_id: str
) -> None:
    assert turns.ask(assistant_id=assistant_id).state == "completed"
    assert offered(fake) == []
