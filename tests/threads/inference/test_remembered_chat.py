"""Chat completions with `thread_id` and `agent_id`: history added, answer kept, costs told (crafely contract 6.2; checks 14, 16, 17)."""

import json
import threading
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select

from models import assistants, threads
from models.core.db import db, extension
from models.gateway import GatewayCall
from models.ledger import Account
from models.runs import AgentRun
from models.threads import ThreadMessage
from models.turns import Turn
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import events, wait
from tests.threads.inference.conftest import CLIENT_TOOL, MODEL, USAGE, Turns, calls, says

DOORS = ("/v1/chat/completions", "/api/v1/chat/completions")


class Chat:
    """Chat completions with alice's key."""

    def __init__(self, web: FlaskClient, token: str | None) -> None:
        self.web, self.headers = web, {"Authorization": f"Bearer {token}"} if token else {}
        self.door = DOORS[0]

    def __call__(self, text: str | list[Any] = "Hi", headers: Any = None, **body: Any) -> tuple[int, Any]:
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        sent = {"model": MODEL, "messages": messages, **body}
        answer = self.web.post(self.door, json=sent, headers={**self.headers, **(headers or {})})
        if answer.content_type.startswith("text/event-stream"):
            return answer.status_code, events(answer.get_data())
        return answer.status_code, answer.get_json()


@pytest.fixture
def chat(turns: Turns, web: FlaskClient, alice: Person) -> Chat:
    return Chat(web, alice.token)


def assistant(alice: Person, **fields: Any) -> str:
    """An assistant of alice."""
    fields = {"name": "Helper", "instructions": "Be brief.", "model": MODEL, **fields}
    made = assistants.create_assistant(alice.id, Account(user_id=alice.id), fields, extension("settings"))
    db.session.commit()
    return made.assistant.id


@pytest.mark.parametrize("door", DOORS)
def test_a_thread_remembers(chat: Chat, turns: Turns, fake: FakeUpstream, door: str) -> None:
    chat.door = door
    status, first = chat("What is a stoa?", thread_id=turns.thread_id)
    assert status == 200
    assert first["choices"][0]["message"]["content"] == "It is a portico."
    assert chat("Where?", thread_id=turns.thread_id)[0] == 200
    assert fake.requests[-1].body["messages"] == [
        {"role": "user", "content": "What is a stoa?"},
        {"role": "assistant", "content": "It is a portico."},
        {"role": "user", "content": "Where?"},
    ]
    call = turns.calls()[0]
    about = first["stoa"]
    assert (about["credits"], about["message_id"]) == (call.credits, call.message_id)
    assert about["thread_id"] == turns.thread_id
    assert about["thread_message_id"] == turns.messages()[1].id
    assert first["usage"]["prompt_tokens"] == USAGE["prompt_tokens"]


def test_a_stream_ends_with_usage_and_costs(chat: Chat, turns: Turns) -> None:
    status, chunks = chat(thread_id=turns.thread_id, stream=True)
    assert status == 200
    text = "".join(choice["delta"].get("content", "") for each in chunks for choice in each["choices"])
    assert text == "It is a portico."
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]][-1] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == USAGE["total_tokens"]
    assert chunks[-1]["stoa"]["message_id"] == turns.calls()[0].message_id
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


@pytest.mark.parametrize("stream", [False, True])
def test_client_tools_are_answered_by_the_next_request(
    chat: Chat, turns: Turns, fake: FakeUpstream, server_tools: Any, stream: bool
) -> None:
    server_tools(look=lambda _: "seen")
    fake.will(calls(("s1", "look"), ("c1", "ask_user")), says("Done."))
    status, answer = chat(thread_id=turns.thread_id, tools=[CLIENT_TOOL], stream=stream)
    assert status == 200
    if stream:
        called = [each["choices"][0]["delta"].get("tool_calls") for each in answer if each["choices"]]
        found = next(filter(None, called))
        reason = next(each["choices"][0]["finish_reason"] for each in reversed(answer) if each["choices"])
    else:
        found, reason = answer["choices"][0]["message"]["tool_calls"], answer["choices"][0]["finish_reason"]
    assert ([each["id"] for each in found], reason) == (["c1"], "tool_calls")
    status, busy = chat("Never mind", thread_id=turns.thread_id)
    assert (status, busy["error"]["code"]) == (409, "turn_in_progress")
    reply = [{"role": "tool", "tool_call_id": "c1", "content": "yes"}]
    status, answer = chat(reply, thread_id=turns.thread_id)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Done.")
    assert db.session.query(Turn).count() == 1
    status, late = chat(reply, thread_id=turns.thread_id)
    assert (status, late["error"]["code"]) == (409, "turn_not_active")


def test_a_client_that_leaves_gets_the_answer_kept_and_charged(
    chat: Chat, turns: Turns, fake: FakeUpstream
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks("One two three.", use=USAGE), gate, 2))
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    answer = chat.web.post(chat.door, json={**body, "thread_id": turns.thread_id}, headers=chat.headers)
    blocks = iter(answer.response)
    assert b"One" in next(blocks)
    answer.close()
    gate.set()
    assert turns.engine.idle(30)
    assert turns.messages()[1].text == "One two three."
    (call,) = turns.calls()
    assert (call.state, call.credits) == ("settled", turns.messages()[1].credits)
    assert call.credits


def test_an_unpriced_model_is_refused_before_any_call(chat: Chat, turns: Turns, fake: FakeUpstream) -> None:
    for model in ("openai/unheard-of",):
        status, answer = chat(thread_id=turns.thread_id, model=model)
        assert status in (400, 404)
        assert answer["error"]["code"] in ("model_price_missing", "model_not_found")
    assert fake.requests == []


@pytest.mark.parametrize("door", DOORS)
def test_foreign_threads_and_assistants_are_not_found(
    chat: Chat, turns: Turns, fake: FakeUpstream, web: FlaskClient, mallory: Person, alice: Person, door: str
) -> None:
    factories.grant(mallory.user, 1_000)
    agent = assistant(alice)
    stranger = Chat(web, mallory.token)
    stranger.door = door
    for key, own, random in (("thread_id", turns.thread_id, "thrd_0"), ("agent_id", agent, "agnt_0")):
        found, missing = (stranger(**{key: id}) for id in (own, random))
        assert found[0] == missing[0] == 404
        assert found[1]["error"] == missing[1]["error"]
    assert Chat(web, None)(thread_id=turns.thread_id)[0] == 401
    assert fake.requests == []
    assert turns.messages() == []
    assert db.session.scalar(select(func.count()).select_from(Turn)) == 0


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [5]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": {}}]},
        {"messages": [{"role": "user", "content": "nul \x00"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"n": 2},
        {"on_busy": "wait"},
        {"thread_id": 5},
        {"thread_id": "nul \x00"},
        {"agent_id": "\x00"},
        {"tools": "x"},
        {"tools": [{"type": "function", "function": {}}]},
        {"budget": -1},
        {"variables": {"a": 1}},
        {"stream": "yes"},
        {"model": ""},
        {"params": "\x00"},
    ],
)
def test_wrong_bodies_are_refused_clearly(chat: Chat, turns: Turns, fake: FakeUpstream, body: Any) -> None:
    status, answer = (
        chat(**{"thread_id": turns.thread_id, **body})
        if "messages" not in body
        else chat(body["messages"], thread_id=turns.thread_id)
    )
    assert 400 <= status < 500
    assert answer["error"]["message"]
    assert fake.requests == []
    assert turns.messages() == []


def test_idempotency_keys_are_refused(chat: Chat, turns: Turns) -> None:
    status, answer = chat(headers={"Idempotency-Key": "a"}, thread_id=turns.thread_id)
    assert (status, answer["error"]["code"]) == (400, "idempotency_not_supported")


def test_an_assistant_without_a_thread_keeps_nothing(
    chat: Chat, turns: Turns, fake: FakeUpstream, alice: Person, server_tools: Any
) -> None:
    server_tools(look=lambda _: "seen")
    agent = assistant(alice, context="Facts.", model_params={"temperature": 0.5, "max_tokens": 50})
    fake.will(calls(("s1", "look")), says("Done."))
    status, answer = chat(
        [{"role": "system", "content": "In English."}, {"role": "user", "content": "Hi"}],
        agent_id=agent,
        model=None,
        max_completion_tokens=60,
    )
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Done.")
    sent = fake.requests[0].body
    assert sent["messages"][0] == {
        "role": "system",
        "content": "Be brief.\n\n<context>\nFacts.\n</context>\n\nIn English.",
    }
    assert (sent["temperature"], "max_tokens" in sent) == (0.5, False)
    assert turns.engine.idle(30)
    assert answer["stoa"]["credits"] == sum(call.credits or 0 for call in turns.calls()) > 0
    run = db.session.scalars(select(AgentRun)).one()
    assert (run.agent_id, run.status, run.total_steps) == (f"private/{agent}@1", "completed", 2)
    assert db.session.query(ThreadMessage).count() == 0
    wait(lambda: db.session.rollback() is None and db.session.query(Turn).count() == 0)
    found = db.session.get_one(assistants.Assistant, agent, populate_existing=True)
    assert (found.spent, found.reserved) == (answer["stoa"]["credits"], 0)


def test_a_call_with_an_assistant_ends_when_its_client_leaves(
    chat: Chat, turns: Turns, fake: FakeUpstream, alice: Person
) -> None:
    agent = assistant(alice)
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks("One two three.", use=USAGE), gate, 2))
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "agent_id": agent}
    answer = chat.web.post(chat.door, json=body, headers=chat.headers)
    assert b"One" in next(iter(answer.response))
    answer.close()
    try:
        assert turns.engine.idle(30)
    finally:
        gate.set()
    (call,) = turns.calls()
    assert call.error == "client_stopped"


def test_request_thread_and_assistant_are_resolved_in_this_order(
    chat: Chat, turns: Turns, fake: FakeUpstream, alice: Person
) -> None:
    agent = assistant(
        alice,
        instructions="Be {{how}}.",
        variables={"how": {"type": "string", "required": True}},
        tools=[CLIENT_TOOL],
        model="openai/house-model",
    )
    threads.change_thread(turns.thread, assistant_id=agent, instructions="Of the thread.")
    db.session.commit()
    assert chat(thread_id=turns.thread_id)[0] == 422
    own = {**CLIENT_TOOL, "function": {**CLIENT_TOOL["function"], "description": "Mine"}}
    status, _ = chat(
        [{"role": "system", "content": "Of the request."}, {"role": "user", "content": "Hi"}],
        thread_id=turns.thread_id,
        variables={"how": "kind"},
        tools=[own],
        model=None,
    )
    assert status == 200
    sent = fake.requests[-1].body
    assert sent["messages"][0]["content"] == "Be kind.\n\nOf the thread.\n\nOf the request."
    assert [each["function"]["description"] for each in sent["tools"]] == ["Mine"]
    assert sent["model"] == "house-model"
    threads.change_thread(turns.thread, model="openai/tiered-model")
    db.session.commit()
    chat(thread_id=turns.thread_id, variables={"how": "kind"}, model=None)
    assert fake.requests[-1].body["model"] == "tiered-model"
    chat(thread_id=turns.thread_id, variables={"how": "kind"}, model="openai/house-model")
    assert fake.requests[-1].body["model"] == "house-model"


def test_a_deleted_assistants_thread_takes_no_new_turn_unless_another_answers(
    chat: Chat, turns: Turns, fake: FakeUpstream, alice: Person
) -> None:
    agent, other = assistant(alice), assistant(alice, name="Other")
    threads.change_thread(turns.thread, assistant_id=agent)
    db.session.commit()
    assert chat(thread_id=turns.thread_id)[0] == 200
    assistants.delete_assistant(alice.id, Account(user_id=alice.id), agent)
    db.session.commit()
    before = len(turns.messages())
    status, answer = chat(thread_id=turns.thread_id)
    assert (status, answer["error"]["code"]) == (409, "agent_deleted")
    assert len(turns.messages()) == before
    assert chat(thread_id=turns.thread_id, agent_id=other)[0] == 200


def test_a_key_needs_the_scopes_of_calls_and_of_threads(
    chat: Chat, turns: Turns, web: FlaskClient, alice: Person
) -> None:
    agent = assistant(alice)
    for permissions, of_thread, of_assistant in (
        (["inference:chat"], 403, 200),
        (["threads:write"], 403, 403),
        (["inference:chat", "threads:write"], 200, 200),
    ):
        own = Chat(web, factories.api_key(alice.user, permissions=permissions))
        assert own(thread_id=turns.thread_id)[0] == of_thread
        assert own(agent_id=agent)[0] == of_assistant


def test_plain_calls_go_their_own_way(chat: Chat, turns: Turns) -> None:
    status, answer = chat()
    assert (status, "stoa" in answer) == (200, False)
    call = db.session.scalars(select(GatewayCall)).one()
    assert (call.door, call.run_id) == ("openai", None)
    assert json.dumps(answer)
