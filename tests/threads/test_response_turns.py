"""Responses of conversations, of saved prompts and in the background, driven by OpenAI's own client."""

from typing import Any

import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from models.assistants import create_assistant
from models.core.db import db, now
from models.gateway import GatewayCall
from models.gateway.response_state import StoredResponse
from models.ledger import Account, CreditHold
from models.threads import Thread
from models.threads.response_request import ResponseRequest, stored_headers
from models.threads.response_turn import RunningResponse
from models.threads.response_turn_start import prune_response_turns
from models.turns import Turn, TurnEngine, TurnEvent
from models.turns.engine import TurnHandle
from models.usage import Message
from tests import factories
from tests.factories import Person
from tests.threads.thread_calls import Gpt

MODEL = "stoa/demo"
HELLO: Any = {"type": "message", "role": "user", "content": "Hello"}
LS: Any = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}
Body = dict[str, Any]


@pytest.fixture
def client_of_alice(rich: Person, gpt: Gpt) -> openai.OpenAI:
    return gpt(rich)


def kinds(client: openai.OpenAI, conversation: str) -> list[str]:
    return [
        f"{item.role}: {item.content[0].text[:20]}" if item.type == "message" else item.type  # type: ignore[union-attr]
        for item in client.conversations.items.list(conversation, order="asc")
    ]


def test_a_response_continues_its_conversation(
    client_of_alice: openai.OpenAI, session: OrmSession, turns: TurnEngine
) -> None:
    gpt = client_of_alice
    conversation = gpt.conversations.create(items=[HELLO])
    first = gpt.responses.create(model=MODEL, input="What is a stoa?", conversation=conversation.id)
    assert (first.status, first.background) == ("completed", False)
    assert first.output_text
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    items = gpt.conversations.items.list(conversation.id, order="asc").data
    assert items[-1].id == first.output[-1].id
    assert kinds(gpt, conversation.id)[:2] == ["user: Hello", "user: What is a stoa?"]
    with gpt.responses.stream(
        model=MODEL, input="More.", extra_body={"conversation": {"id": conversation.id}}
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        second = stream.get_final_response()
    assert text == second.output_text
    assert kinds(gpt, conversation.id)[3:] == ["user: More.", f"assistant: {text[:20]}"]
    sent = session.scalars(select(Message.request).order_by(Message.finished_at.desc())).first()
    assert sent is not None
    assert [message["role"] for message in sent][:3] == ["user", "user", "assistant"]
    assert gpt.responses.retrieve(second.id).output_text == text
    again = gpt.responses.create(model=MODEL, conversation=conversation.id)
    assert again.output_text
    assert len(kinds(gpt, conversation.id)) == 6
    assert turns.idle()
    assert (
        session.scalar(select(func.count()).select_from(TurnEvent).where(TurnEvent.type.startswith("resp")))
        == 0
    )
    assert session.scalar(select(func.count()).select_from(CreditHold)) == 0


def test_calls_of_functions_belong_to_the_conversation(client_of_alice: openai.OpenAI) -> None:
    gpt = client_of_alice
    conversation = gpt.conversations.create()
    called = gpt.responses.create(model=MODEL, input="Call ls", conversation=conversation.id, tools=[LS])
    (call,) = [item for item in called.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "a.txt"}
    answered = gpt.responses.create(
        model=MODEL, input=[result], conversation=conversation.id, tools=[LS], store=False
    )
    assert answered.output_text
    assert [item.split(":")[0] for item in kinds(gpt, conversation.id)] == [
        "user",
        "function_call",
        "function_call_output",
        "assistant",
    ]
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(answered.id)


@pytest.mark.usefixtures("slow_demo")
def test_one_response_of_a_conversation_is_written_at_a_time(
    client_of_alice: openai.OpenAI, turns: TurnEngine
) -> None:
    gpt = client_of_alice
    conversation = gpt.conversations.create()
    running = gpt.responses.create(
        model=MODEL, input="Tell a long story.", conversation=conversation.id, background=True
    )
    with pytest.raises(openai.ConflictError) as locked:
        gpt.responses.create(model=MODEL, input="Me too", conversation=conversation.id)
    assert locked.value.code == "conversation_locked"
    gpt.responses.cancel(running.id)
    assert turns.idle()
    assert kinds(gpt, conversation.id) == []
    assert gpt.responses.create(
        model=MODEL, input="Now", conversation=conversation.id, max_output_tokens=50
    ).id


def test_a_response_in_the_background_is_polled_and_streamed_again(
    client_of_alice: openai.OpenAI, turns: TurnEngine, session: OrmSession
) -> None:
    gpt = client_of_alice
    made = gpt.responses.create(model=MODEL, input="Say hello.", background=True)
    assert (made.status, made.background, made.output) == ("queued", True, [])
    assert turns.idle(20)
    whole = gpt.responses.retrieve(made.id)
    assert (whole.status, whole.background, whole.created_at) == ("completed", True, made.created_at)
    assert whole.output_text
    events = list(gpt.responses.retrieve(made.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    rest = list(gpt.responses.retrieve(made.id, stream=True, starting_after=events[3].sequence_number))
    assert rest == events[4:]
    with gpt.responses.stream(response_id=made.id) as again:
        assert again.get_final_response().output_text == whole.output_text
    assert [item.type for item in gpt.responses.input_items.list(made.id)] == ["message"]
    assert gpt.responses.cancel(made.id).status == "completed"
    call = session.scalars(select(GatewayCall)).one()
    turn = session.scalars(select(Turn)).one()
    assert (call.state, call.credits, turn.state) == ("settled", turn.credits, "completed")
    gpt.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(made.id)
    session.expire_all()
    assert session.scalars(select(Turn)).all() == []
    assert session.scalars(select(StoredResponse)).all() == []


@pytest.mark.usefixtures("slow_demo")
def test_a_response_in_the_background_survives_its_client_and_is_cancelled(
    client_of_alice: openai.OpenAI, turns: TurnEngine, session: OrmSession
) -> None:
    gpt = client_of_alice
    with gpt.responses.create(model=MODEL, input="Tell a story.", background=True, stream=True) as stream:
        seen = []
        for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    id = seen[0].response.id  # type: ignore[union-attr]
    assert gpt.responses.retrieve(id).status == "in_progress"
    with pytest.raises(openai.ConflictError):
        gpt.responses.delete(id)
    assert [item.type for item in gpt.responses.input_items.list(id)] == ["message"]
    resumed = gpt.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number)
    assert next(iter(resumed)).sequence_number == seen[-1].sequence_number + 1
    cancelled = gpt.responses.cancel(id)
    assert cancelled.status == "cancelled"
    assert turns.idle()
    assert gpt.responses.retrieve(id).status == "cancelled"
    call = session.scalars(select(GatewayCall)).one()
    assert (call.state, call.error) == ("settled", "client_stopped")
    assert call.credits == session.scalars(select(Turn)).one().credits


def test_a_killed_worker_ends_the_response_and_charges_what_it_wrote(
    app: Flask, client_of_alice: openai.OpenAI, rich: Person, turns: TurnEngine, session: OrmSession
) -> None:
    made = client_of_alice.responses.create(model=MODEL, input="Hi", background=True)
    assert turns.idle(20)
    # as it was when the worker died: events and a call, but no end
    turn = session.scalars(select(Turn)).one()
    session.execute(
        TurnEvent.__table__.delete().where(TurnEvent.type.in_(("response.completed", "turn.completed")))
    )  # type: ignore[attr-defined]
    session.execute(StoredResponse.__table__.delete())  # type: ignore[attr-defined]
    turn.state, turn.lease_owner, turn.ended_at = "running", "dead", None
    turn.lease_until, turn.call_id = now(), turn.request["request_id"]
    session.commit()
    turns.tick()
    assert turns.idle(20)
    failed = client_of_alice.responses.retrieve(made.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.code == "server_error"
    assert failed.output_text
    session.expire_all()
    assert session.scalars(select(Turn)).one().state == "interrupted"
    assert session.scalar(select(func.count()).select_from(GatewayCall)) == 1


def test_a_killed_response_is_charged_for_its_input(
    app: Flask, client_of_alice: openai.OpenAI, turns: TurnEngine, session: OrmSession
) -> None:
    client_of_alice.responses.create(model=MODEL, input="word " * 2_000, background=True)
    assert turns.idle(20)
    handle = TurnHandle(turns, session.scalars(select(Turn)).one())
    sent = RunningResponse(handle, app.extensions["settings"])._input_of_killed()
    handle.close()
    assert [len(item["content"]) for item in sent] == [10_000]


def test_the_clients_own_key_is_sealed(app: Flask) -> None:
    with app.app_context():
        kept = stored_headers({"x-openrouter-api-key": "sk-or-secret", "x-stoa-org": "acme"}, "resp_1")
        assert kept["x-stoa-org"] == "acme"
        assert "sk-or-secret" not in str(kept)
        sent = ResponseRequest("1", {}, {}, kept).sent_headers()
        assert sent == {"x-openrouter-api-key": "sk-or-secret", "x-stoa-org": "acme"}
        assert ResponseRequest("2", {}, {}, kept).sent_headers() == {"x-stoa-org": "acme"}


def test_refusals_are_those_of_plain_responses(client_of_alice: openai.OpenAI, turns: TurnEngine) -> None:
    gpt = client_of_alice
    conversation = gpt.conversations.create()
    with pytest.raises(openai.NotFoundError) as unknown:
        gpt.responses.create(model="no/such", input="Hi", conversation=conversation.id)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        gpt.responses.create(model="no/such", input="Hi", conversation=conversation.id, stream=True)
    failed = gpt.responses.create(model="no/such", input="Hi", background=True)
    assert turns.idle(20)
    found = gpt.responses.retrieve(failed.id)
    assert found.status == "failed"
    assert found.error is not None
    assert found.error.code == "model_not_found"
    assert [event.type for event in gpt.responses.retrieve(failed.id, stream=True)] == ["response.failed"]
    assert kinds(gpt, conversation.id) == []


@pytest.fixture
def agent(rich: Person, app: Flask) -> str:
    fields = {
        "name": "Greeter",
        "instructions": "Greet {{name}} in {{tone}} words.",
        "model": MODEL,
        "model_params": {"temperature": 0.5, "max_tokens": 90},
        "tools": [
            {
                "type": "function",
                "function": {"name": "ls", "parameters": {"type": "object", "properties": {}}},
            }
        ],
        "variables": {
            "name": {"type": "string", "required": True},
            "tone": {"type": "enum", "values": ["warm", "cool"], "default": "warm"},
        },
    }
    saved = create_assistant(rich.id, Account(user_id=rich.id), fields, app.extensions["settings"])
    db.session.commit()
    return saved.assistant.id


def test_a_saved_prompt_gives_instructions_model_and_tools(
    client_of_alice: openai.OpenAI, agent: str, session: OrmSession
) -> None:
    prompt: Any = {"id": agent, "version": "1", "variables": {"name": "Ada"}}
    made = client_of_alice.responses.create(prompt=prompt, input="Go on", instructions="Be brief.")
    assert made.instructions == "Greet Ada in warm words.\n\nBe brief."
    assert (made.temperature, made.max_output_tokens) == (0.5, 90)
    assert [tool.name for tool in made.tools if tool.type == "function"] == ["ls"]
    assert made.prompt is not None
    assert (made.prompt.id, made.prompt.version) == (agent, "1")


@pytest.mark.parametrize(
    ("prompt", "status", "param"),
    [
        ("agnt", 400, "prompt"),
        ({"id": 7}, 400, "prompt"),
        ({"id": "agnt_unknown"}, 404, None),
        ({"id": "AGENT", "version": "9"}, 404, None),
        ({"id": "AGENT", "version": "x"}, 400, "prompt.version"),
        ({"id": "AGENT", "version": True}, 400, "prompt.version"),
        ({"id": "AGENT"}, 400, "prompt.variables"),
        ({"id": "AGENT", "variables": {"name": ["x"]}}, 400, "prompt.variables"),
        ({"id": "AGENT", "variables": {"name": "x", "tone": "hot"}}, 400, "prompt.variables"),
        ({"id": "AGENT", "variables": "x"}, 400, "prompt.variables"),
        ({"id": "AGENT", "other": 1}, 400, "prompt.other"),
    ],
)
def test_wrong_prompts_are_refused(
    client: FlaskClient, rich: Person, agent: str, prompt: Any, status: int, param: str | None
) -> None:
    if isinstance(prompt, dict) and prompt.get("id") == "AGENT":
        prompt = {**prompt, "id": agent}
    refused = client.post("/v1/responses", json={"prompt": prompt, "input": "Hi"}, headers=rich.headers)
    assert refused.status_code == status, refused.json
    assert refused.json["error"]["param"] == param


BAD: list[tuple[Body, str | None]] = [
    ({"background": "yes"}, "background"),
    ({"background": True, "store": False}, "background"),
    ({"conversation": 7}, "conversation"),
    ({"conversation": {"id": 7}}, "conversation"),
    ({"conversation": "CONV", "previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "CONV", "input": [7]}, "input[0]"),
    ({"conversation": "CONV", "input": 7}, "input"),
    ({"conversation": "CONV", "input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    ({"conversation": "CONV", "input": None}, "input"),
    ({"conversation": "CONV", "model": None}, "model"),
    ({"background": True, "input": []}, "input"),
    ({"background": True, "input": "a\x00b"}, None),
    ({"conversation": "CONV", "input": "a\x00b"}, None),
    ({"conversation": "CONV", "input": [{"role": "user", "content": "x" * (2 << 20)}]}, "input[0]"),
    ({"background": True, "temperature": "hot"}, "temperature"),
]


@pytest.mark.parametrize(("changes", "param"), BAD)
def test_wrong_requests_begin_no_turn(
    client: FlaskClient, rich: Person, gpt: Gpt, session: OrmSession, changes: Body, param: str | None
) -> None:
    body = {"model": MODEL, "input": "Hi", **changes}
    if body.get("conversation") == "CONV":
        body["conversation"] = gpt(rich).conversations.create().id
    refused = client.post("/v1/responses", json=body, headers=rich.headers)
    assert refused.status_code == 400, refused.json
    assert refused.json["error"]["param"] == param
    assert session.scalars(select(Turn)).all() == []


def test_responses_are_only_their_owners(
    client: FlaskClient, rich: Person, bob: Person, mallory: Person, agent: str, gpt: Gpt, turns: TurnEngine
) -> None:
    conversation = gpt(rich).conversations.create().id
    made = gpt(rich).responses.create(model=MODEL, input="Hi", background=True).id
    assert turns.idle(20)
    for stranger in (bob, mallory):
        factories.grant(stranger.user, 100)
        for body in ({"conversation": conversation}, {"prompt": {"id": agent}}):
            refused = client.post(
                "/v1/responses", json={"model": MODEL, "input": "Hi", **body}, headers=stranger.headers
            )
            assert refused.status_code == 404
        for method, more in (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/input_items")):  # fmt: skip
            answer = client.open(f"/v1/responses/{made}{more}", method=method, headers=stranger.headers)
            assert answer.status_code == 404
    for headers in ({}, {"authorization": "Bearer unknown"}):
        refused = client.post("/v1/responses", json={"background": True}, headers=headers)
        assert refused.status_code == 401
    assert gpt(rich).responses.retrieve(made).status == "completed"


def test_scopes_of_stateful_responses(
    client: FlaskClient, rich: Person, agent: str, gpt: Gpt, turns: TurnEngine
) -> None:
    conversation = gpt(rich).conversations.create().id
    assert rich.user is not None
    chats = {"authorization": f"Bearer {factories.api_key(rich.user, permissions=('inference:chat',))}"}
    for body in ({"conversation": conversation}, {"prompt": {"id": agent}}):
        refused = client.post("/v1/responses", json={"model": MODEL, "input": "Hi", **body}, headers=chats)
        assert (refused.status_code, refused.json["error"]["code"]) == (403, "insufficient_permissions")
    # keys with an id of their own make the turn's calls, too
    made = client.post(
        "/v1/responses", json={"model": MODEL, "input": "Hi", "background": True}, headers=chats
    ).json
    assert turns.idle(20)
    assert client.get(f"/v1/responses/{made['id']}", headers=chats).json["status"] == "completed"
    reads = {"authorization": f"Bearer {factories.api_key(rich.user, permissions=('threads:write',))}"}
    refused = client.post("/v1/responses", json={"background": True}, headers=reads)
    assert refused.status_code == 403


@pytest.mark.parametrize("name", ["Idempotency-Key", "x-openrouter-api-key"])
def test_headers_that_turns_do_not_have_are_refused(client: FlaskClient, rich: Person, name: str) -> None:
    refused = client.post(
        "/v1/responses",
        json={"model": MODEL, "input": "Hi", "background": True},
        headers={**rich.headers, name: "a"},
    )
    assert refused.status_code == 400
    assert name in refused.json["error"]["message"]


def test_the_budget_of_a_conversation_ends_it(
    client_of_alice: openai.OpenAI, session: OrmSession, turns: TurnEngine
) -> None:
    gpt = client_of_alice
    conversation = gpt.conversations.create().id
    gpt.responses.create(model=MODEL, input="Hi", conversation=conversation)
    assert turns.idle(20)
    thread = session.scalars(select(Thread)).one()
    assert thread.spent == session.scalars(select(Turn)).one().credits
    thread.budget = thread.spent
    session.commit()
    with pytest.raises(openai.APIStatusError) as ended:
        gpt.responses.create(model=MODEL, input="Hi", conversation=conversation)
    assert (ended.value.status_code, ended.value.code) == (402, "budget_exceeded")


def test_old_turns_of_responses_are_pruned(
    client_of_alice: openai.OpenAI, turns: TurnEngine, session: OrmSession
) -> None:
    client_of_alice.responses.create(model=MODEL, input="Hi", background=True)
    assert turns.idle(20)
    assert prune_response_turns(now(), 1) == 0
    assert prune_response_turns(now(), 0) == 1
