"""OpenAI's Assistants API, driven by OpenAI's own client: assistants, threads, messages, runs, steps and streams."""

import json
from typing import Any

import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient
from openai import AssistantEventHandler
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from models.assistants import Assistant
from models.assistants.assistant_import import import_assistants
from models.core.db import db
from models.gateway import GatewayCall
from models.ledger import Account, CreditHold
from models.threads import Thread
from models.turns import Turn, TurnEngine
from tests import factories
from tests.factories import Person
from tests.threads.thread_calls import Gpt

MODEL = "stoa/demo"
LS: Any = {
    "type": "function",
    "function": {
        "name": "ls",
        "description": "List files",
        "parameters": {"type": "object", "properties": {}},
    },
}
Row = tuple[Any, str | None]

# OpenAI has deprecated the API, not its clients here
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")


@pytest.fixture
def beta(rich: Person, gpt: Gpt) -> Any:
    return gpt(rich).beta


@pytest.fixture
def agent(beta: Any) -> str:
    """An assistant of alice with a function."""
    made = beta.assistants.create(
        model=MODEL, name="Lister", instructions="List what is asked for.", tools=[LS]
    )
    return str(made.id)


# -- assistants ----------------------------------------------------------------------------------------------


def test_an_assistant_is_created_changed_and_deleted(beta: Any, session: OrmSession) -> None:
    made = beta.assistants.create(
        model=MODEL,
        name="Ada",
        description="Counts",
        instructions="Count.",
        tools=[LS, {"type": "file_search"}],
        metadata={"a": "b"},
        temperature=0.3,
        top_p=0.9,
        response_format={"type": "json_object"},
        tool_resources={"file_search": {"vector_store_ids": []}},
    )
    assert (made.object, made.name, made.model, made.temperature) == ("assistant", "Ada", MODEL, 0.3)
    assert [tool.type for tool in made.tools] == ["function", "file_search"]
    assert made.tools[0].function.name == "ls"
    assert made.response_format.type == "json_object"
    assert beta.assistants.retrieve(made.id) == made
    changed = beta.assistants.update(
        made.id, instructions="Count twice.", temperature=0.5, response_format="auto"
    )
    assert (changed.instructions, changed.temperature, changed.top_p) == ("Count twice.", 0.5, 0.9)
    assert (changed.response_format, changed.metadata, changed.name) == ("auto", {"a": "b"}, "Ada")
    assert session.get_one(Assistant, made.id).version == 2
    deleted = beta.assistants.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "assistant.deleted")
    with pytest.raises(openai.NotFoundError):
        beta.assistants.retrieve(made.id)
    bare = beta.assistants.create(model=MODEL)
    assert (bare.name, bare.tools, bare.response_format) == ("Assistant", [], "auto")


def test_lists_go_both_ways(beta: Any) -> None:
    made = [beta.assistants.create(model=MODEL, name=str(number)).id for number in range(5)]
    assert [each.id for each in beta.assistants.list(limit=2)] == made[::-1]
    assert [each.id for each in beta.assistants.list(limit=2, order="asc")] == made
    assert [each.id for each in beta.assistants.list(limit=2, order="asc", before=made[4]).data] == made[2:4]
    assert [each.id for each in beta.assistants.list(limit=9, before=made[1]).data] == made[:1:-1]
    page = beta.assistants.list(limit=2, after=made[4])
    assert ([each.id for each in page.data], page.has_more) == ([made[3], made[2]], True)
    with pytest.raises(openai.NotFoundError):
        beta.assistants.list(after="agnt_unknown")


BAD_ASSISTANTS: list[Row] = [
    ({}, "model"),
    ({"model": 7}, "model"),
    ({"model": MODEL, "tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
    ({"model": MODEL, "tools": [{"type": "function"}]}, "tools"),
    ({"model": MODEL, "tools": "x"}, "tools"),
    (
        {"model": MODEL, "tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}},
        "tool_resources.file_search",
    ),
    (
        {"model": MODEL, "tool_resources": {"code_interpreter": {"file_ids": ["f"]}}},
        "tool_resources.code_interpreter",
    ),
    ({"model": MODEL, "temperature": 3}, "model_params"),
    ({"model": MODEL, "response_format": "yaml"}, "model_params"),
    ({"model": MODEL, "metadata": {"a": 1}}, "metadata.a"),
    ({"model": MODEL, "instructions": "x" * (1 << 17)}, "instructions"),
    ({"model": MODEL, "name": "a\x00"}, None),
    ([], None),
]


@pytest.mark.parametrize(("body", "param"), BAD_ASSISTANTS)
def test_wrong_assistants_are_refused(
    client: FlaskClient, rich: Person, session: OrmSession, body: Any, param: str | None
) -> None:
    refused = client.post("/v1/assistants", json=body, headers=rich.headers)
    assert refused.status_code == 400, refused.json
    assert refused.json["error"]["param"] == param
    assert session.scalars(select(Assistant)).all() == []


def test_an_imported_assistant_answers_to_its_old_id(
    beta: Any, gpt: Gpt, rich: Person, bob: Person, app: Flask, turns: TurnEngine
) -> None:
    old = {"id": "asst_abc", "name": "Old", "instructions": "Greet.", "model": MODEL}
    (made,) = import_assistants(rich.id, Account(user_id=rich.id), old, app.extensions["settings"])
    db.session.commit()
    assert beta.assistants.retrieve("asst_abc").id == made.id
    thread = beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    assert beta.threads.runs.create(thread.id, assistant_id="asst_abc").assistant_id == made.id
    assert turns.idle(20)
    assert gpt(rich).responses.create(prompt={"id": "asst_abc"}, input="Hi").instructions == "Greet."
    with pytest.raises(openai.NotFoundError):
        gpt(bob).beta.assistants.retrieve("asst_abc")


# -- threads and messages ------------------------------------------------------------------------------------


def test_threads_and_messages(beta: Any, session: OrmSession) -> None:
    thread = beta.threads.create(metadata={"a": "b"}, messages=[{"role": "user", "content": "One"}])
    assert (thread.object, thread.metadata) == ("thread", {"a": "b"})
    assert session.get_one(Thread, thread.id).kind == "assistants"
    assert beta.threads.retrieve(thread.id) == thread
    assert beta.threads.update(thread.id, metadata={"c": "d"}).metadata == {"c": "d"}
    image = {"type": "image_url", "image_url": {"url": "https://stoa.test/a.png", "detail": "low"}}
    two = beta.threads.messages.create(
        thread.id, role="user", content=[{"type": "text", "text": "Two"}, image], metadata={"n": "2"}
    )
    three = beta.threads.messages.create(thread.id, role="assistant", content="Three")
    assert (two.object, two.status, two.content[0].text.value) == ("thread.message", "completed", "Two")
    assert two.content[1].image_url.url == image["image_url"]["url"]  # type: ignore[index]
    assert beta.threads.messages.retrieve(two.id, thread_id=thread.id) == two
    changed = beta.threads.messages.update(two.id, thread_id=thread.id, metadata={"n": "3"})
    assert changed.metadata == {"n": "3"}
    ids = [message.id for message in beta.threads.messages.list(thread.id, order="asc", limit=1)]
    assert ids[1:] == [two.id, three.id]
    messages = beta.threads.messages
    assert [each.id for each in messages.list(thread.id, limit=2)] == ids[::-1]
    assert [each.id for each in messages.list(thread.id, before=ids[0]).data] == ids[:0:-1]
    assert [each.id for each in messages.list(thread.id, order="asc", before=ids[2], limit=1).data] == [
        ids[1]
    ]
    deleted = messages.delete(two.id, thread_id=thread.id)
    assert (deleted.deleted, deleted.object) == (True, "thread.message.deleted")
    assert [each.id for each in messages.list(thread.id)] == [ids[2], ids[0]]
    with pytest.raises(openai.NotFoundError):
        messages.retrieve(two.id, thread_id=thread.id)
    assert beta.threads.delete(thread.id).object == "thread.deleted"
    with pytest.raises(openai.NotFoundError):
        beta.threads.retrieve(thread.id)


BAD_MESSAGES: list[Row] = [
    ({"role": "system", "content": "x"}, "role"),
    ({"role": "user"}, "content"),
    ({"role": "user", "content": ""}, "content"),
    ({"role": "user", "content": []}, "content"),
    ({"role": "user", "content": [7]}, "content[0]"),
    ({"role": "user", "content": [{"type": "text", "text": {}}]}, "content[0]"),
    ({"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": "f"}}]}, "content[0]"),
    ({"role": "user", "content": "x", "attachments": [{"file_id": "file-1"}]}, "attachments[0].file_id"),
    ({"role": "user", "content": "x", "attachments": "x"}, "attachments"),
    ({"role": "user", "content": "x", "metadata": {"a": 1}}, "metadata.a"),
    ({"role": "user", "content": "x" * (2 << 20)}, "content"),
]


@pytest.mark.parametrize(("body", "param"), BAD_MESSAGES)
def test_wrong_messages_are_refused(
    client: FlaskClient, rich: Person, beta: Any, body: Any, param: str | None
) -> None:
    thread = beta.threads.create().id
    refused = client.post(f"/v1/threads/{thread}/messages", json=body, headers=rich.headers)
    assert refused.status_code == 400, refused.json
    assert refused.json["error"]["param"] == param
    assert beta.threads.messages.list(thread).data == []


# -- runs ----------------------------------------------------------------------------------------------------


def test_a_run_answers_and_is_charged_once(
    beta: Any, agent: str, session: OrmSession, turns: TurnEngine
) -> None:
    thread = beta.threads.create(messages=[{"role": "user", "content": "What is a stoa?"}])
    run = beta.threads.runs.create_and_poll(
        thread_id=thread.id,
        assistant_id=agent,
        tools=[],
        additional_instructions="Be brief.",
        metadata={"k": "v"},
        temperature=0.4,
        poll_interval_ms=20,
    )
    assert (run.status, run.assistant_id, run.thread_id) == ("completed", agent, thread.id)
    assert (run.metadata, run.temperature, run.tools) == ({"k": "v"}, 0.4, [])
    assert run.instructions == "List what is asked for.\n\nBe brief."
    assert run.id.startswith("run_")
    assert run.usage.total_tokens > 0
    answer, question = beta.threads.messages.list(thread.id).data
    assert (question.role, question.run_id, answer.role) == ("user", None, "assistant")
    assert (answer.run_id, answer.assistant_id, answer.status) == (run.id, agent, "completed")
    assert answer.content[0].text.value
    assert [each.id for each in beta.threads.messages.list(thread.id, run_id=run.id)] == [answer.id]
    (step,) = beta.threads.runs.steps.list(run.id, thread_id=thread.id).data
    assert (step.type, step.status, step.step_details.message_creation.message_id) == (
        "message_creation",
        "completed",
        answer.id,
    )
    assert beta.threads.runs.steps.retrieve(step.id, thread_id=thread.id, run_id=run.id) == step
    call = session.scalars(select(GatewayCall)).one()
    assert call.credits == session.scalars(select(Turn)).one().credits
    assert [each.id for each in beta.threads.runs.list(thread.id)] == [run.id]
    assert beta.threads.runs.update(run.id, thread_id=thread.id, metadata={"x": "y"}).metadata == {"x": "y"}
    with pytest.raises(openai.BadRequestError, match="Cannot cancel run with status 'completed'"):
        beta.threads.runs.cancel(run.id, thread_id=thread.id)
    overridden = beta.threads.create_and_run_poll(
        assistant_id=agent,
        instructions="Only this.",
        thread={"messages": [{"role": "user", "content": "Call ls"}]},
        tools=[],
        poll_interval_ms=20,
    )
    assert (overridden.status, overridden.instructions) == ("completed", "Only this.")
    assert turns.idle()
    assert session.scalar(select(func.count()).select_from(CreditHold)) == 0


def test_a_run_waits_for_the_outputs_of_functions(beta: Any, agent: str, turns: TurnEngine) -> None:
    thread = beta.threads.create()
    run = beta.threads.runs.create_and_poll(
        thread_id=thread.id,
        assistant_id=agent,
        additional_messages=[{"role": "user", "content": "Call ls"}],
        poll_interval_ms=20,
    )
    assert run.status == "requires_action"
    (call,) = run.required_action.submit_tool_outputs.tool_calls
    assert (call.type, call.function.name) == ("function", "ls")
    (step,) = beta.threads.runs.steps.list(run.id, thread_id=thread.id).data
    assert (step.type, step.status, step.step_details.tool_calls[0].function.output) == (
        "tool_calls",
        "in_progress",
        None,
    )
    with pytest.raises(openai.BadRequestError, match="already has an active run"):
        beta.threads.runs.create(thread.id, assistant_id=agent)
    with pytest.raises(openai.BadRequestError, match="while a run is active"):
        beta.threads.messages.create(thread.id, role="user", content="Wait")
    for wrong in ([], [{"tool_call_id": "x", "output": "y"}], [{"tool_call_id": call.id}], [{"output": 7}]):
        with pytest.raises(openai.BadRequestError):
            beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=wrong)
    done = beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": call.id, "output": "a.txt"}],
        poll_interval_ms=20,
    )
    assert done.status == "completed"
    calls, message = beta.threads.runs.steps.list(run.id, thread_id=thread.id, order="asc").data
    assert (calls.status, calls.step_details.tool_calls[0].function.output) == ("completed", "a.txt")
    assert message.type == "message_creation"
    assert [each.role for each in beta.threads.messages.list(thread.id)] == ["assistant", "user"]
    with pytest.raises(openai.BadRequestError):
        beta.threads.runs.submit_tool_outputs(
            run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": call.id, "output": "b"}]
        )


class Heard(AssistantEventHandler):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.said = ""

    def on_event(self, event: Any) -> None:
        self.names.append(event.event)

    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.said += delta.value


def test_a_run_is_streamed(beta: Any, agent: str) -> None:
    thread = beta.threads.create(messages=[{"role": "user", "content": "What is a stoa?"}])
    heard = Heard()
    with beta.threads.runs.stream(
        thread_id=thread.id, assistant_id=agent, tools=[], event_handler=heard
    ) as stream:
        stream.until_done()
        (message,) = stream.get_final_messages()
        run = stream.get_final_run()
        (step,) = stream.get_final_run_steps()
    assert (run.status, step.type) == ("completed", "message_creation")
    assert heard.said == message.content[0].text.value
    deltas = [name for name in heard.names if name == "thread.message.delta"]
    assert len(deltas) > 1
    assert list(dict.fromkeys(heard.names)) == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "thread.message.delta",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
    ]
    assert beta.threads.messages.list(thread.id, limit=1).data[0].id == message.id


def test_a_streamed_run_asks_for_outputs_and_goes_on(beta: Any, agent: str) -> None:
    asked, answered = Heard(), Heard()
    with beta.threads.create_and_run_stream(
        assistant_id=agent,
        thread={"messages": [{"role": "user", "content": "Call ls"}]},
        event_handler=asked,
    ) as stream:
        stream.until_done()
        run = stream.current_run
        (step,) = stream.get_final_run_steps()
    assert (run.status, asked.names[0], asked.names[-1]) == (
        "requires_action",
        "thread.created",
        "thread.run.requires_action",
    )
    (call,) = run.required_action.submit_tool_outputs.tool_calls
    assert step.step_details.tool_calls[0].id == call.id
    with beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id,
        thread_id=run.thread_id,
        tool_outputs=[{"tool_call_id": call.id, "output": "a.txt"}],
        event_handler=answered,
    ) as stream:
        stream.until_done()
        (message,) = stream.get_final_messages()
    assert answered.names[:3] == ["thread.run.queued", "thread.run.in_progress", "thread.run.step.completed"]
    assert answered.names[-1] == "thread.run.completed"
    assert message.content[0].text.value == answered.said


@pytest.mark.usefixtures("slow_demo")
def test_a_run_is_cancelled(beta: Any, agent: str, turns: TurnEngine) -> None:
    thread = beta.threads.create(messages=[{"role": "user", "content": "Tell a long story."}])
    with beta.threads.runs.create(thread.id, assistant_id=agent, tools=[], stream=True) as events:
        for event in events:
            if event.event == "thread.message.delta":
                break
    (run,) = beta.threads.runs.list(thread.id).data
    assert run.status == "in_progress"
    assert beta.threads.runs.cancel(run.id, thread_id=thread.id).status in ("cancelling", "cancelled")
    assert turns.idle()
    run = beta.threads.runs.retrieve(run.id, thread_id=thread.id)
    assert run.status == "cancelled"
    assert run.cancelled_at
    message = beta.threads.messages.list(thread.id, limit=1).data[0]
    assert (message.status, message.content[0].text.value != "") == ("incomplete", True)
    (step,) = beta.threads.runs.steps.list(run.id, thread_id=thread.id).data
    assert step.status == "cancelled"


def test_statuses_of_runs(
    beta: Any, agent: str, rich: Person, session: OrmSession, turns: TurnEngine
) -> None:
    thread = beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    failed = beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=agent, model="no/such", poll_interval_ms=20
    )
    assert (failed.status, failed.last_error.code) == ("failed", "server_error")
    assert (
        beta.threads.runs.create_and_poll(
            thread_id=thread.id, assistant_id=agent, tools=[], poll_interval_ms=20
        ).status
        == "completed"
    )
    states = {
        "queued": "queued",
        "running": "in_progress",
        "requires_action": "requires_action",
        "paused": "failed",
        "failed": "failed",
        "cancelled": "cancelled",
        "interrupted": "failed",
        "expired": "expired",
    }
    turn = session.scalars(select(Turn).order_by(Turn.created_at.desc())).first()
    assert turn is not None
    assert turns.idle()
    for state, status in states.items():
        turn.state = state
        turn.lease_owner = "other" if state == "running" else None
        turn.required_action = {"tool_calls": []} if state == "requires_action" else None
        session.commit()
        assert (
            beta.threads.runs.retrieve(turn.id.replace("turn_", "run_"), thread_id=thread.id).status == status
        )
        session.expire_all()


def test_a_paused_run_makes_room_for_the_next(
    beta: Any, agent: str, turns: TurnEngine, session: OrmSession
) -> None:
    thread = beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    row = session.get_one(Thread, thread.id)
    row.budget = 0
    session.commit()
    run = beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=agent, tools=[], poll_interval_ms=20
    )
    assert (run.status, run.last_error.code) == ("failed", "rate_limit_exceeded")
    session.expire_all()
    session.get_one(Thread, thread.id).budget = None
    session.commit()
    beta.threads.runs.create(thread.id, assistant_id=agent, tools=[])
    turns.tick()
    assert turns.idle(20)
    turns.tick()
    assert turns.idle(20)
    assert {each.status for each in beta.threads.runs.list(thread.id)} == {"cancelled", "completed"}


BAD_RUNS: list[Row] = [
    ({}, "assistant_id"),
    ({"assistant_id": 7}, "assistant_id"),
    ({"assistant_id": "AGENT", "temperature": 9}, "temperature"),
    ({"assistant_id": "AGENT", "max_prompt_tokens": 500}, "max_prompt_tokens"),
    ({"assistant_id": "AGENT", "truncation_strategy": {"type": "last_messages"}}, "truncation_strategy"),
    ({"assistant_id": "AGENT", "tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
    ({"assistant_id": "AGENT", "response_format": "yaml"}, "response_format"),
    ({"assistant_id": "AGENT", "additional_messages": [{"role": "king"}]}, "additional_messages[0].role"),
    ({"assistant_id": "AGENT", "additional_messages": "x"}, "additional_messages"),
    ({"assistant_id": "AGENT", "metadata": {"a": 1}}, "metadata.a"),
    ({"assistant_id": "AGENT", "instructions": 7}, "instructions"),
    ({"assistant_id": "AGENT", "stream": "yes"}, "stream"),
    ({"assistant_id": "AGENT"}, "messages"),
    ([], None),
]


@pytest.mark.parametrize(("body", "param"), BAD_RUNS)
def test_wrong_runs_are_refused(
    client: FlaskClient,
    rich: Person,
    beta: Any,
    agent: str,
    session: OrmSession,
    body: Any,
    param: str | None,
) -> None:
    if isinstance(body, dict) and body.get("assistant_id") == "AGENT":
        body = {**body, "assistant_id": agent}
    thread = beta.threads.create().id
    refused = client.post(f"/v1/threads/{thread}/runs", json=body, headers=rich.headers)
    assert refused.status_code == 400, refused.json
    assert refused.json["error"]["param"] == param
    assert session.scalars(select(Turn)).all() == []


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/v1/assistants/{agent}", None),
    ("POST", "/v1/assistants/{agent}", {"name": "x"}),
    ("DELETE", "/v1/assistants/{agent}", None),
    ("GET", "/v1/threads/{thread}", None),
    ("POST", "/v1/threads/{thread}", {"metadata": {}}),
    ("GET", "/v1/threads/{thread}/messages", None),
    ("POST", "/v1/threads/{thread}/messages", {"role": "user", "content": "x"}),
    ("GET", "/v1/threads/{thread}/messages/{message}", None),
    ("POST", "/v1/threads/{thread}/messages/{message}", {"metadata": {}}),
    ("DELETE", "/v1/threads/{thread}/messages/{message}", None),
    ("GET", "/v1/threads/{thread}/runs", None),
    ("POST", "/v1/threads/{thread}/runs", {"assistant_id": "{agent}"}),
    ("GET", "/v1/threads/{thread}/runs/{run}", None),
    ("POST", "/v1/threads/{thread}/runs/{run}", {"metadata": {}}),
    ("POST", "/v1/threads/{thread}/runs/{run}/cancel", None),
    ("POST", "/v1/threads/{thread}/runs/{run}/submit_tool_outputs", {"tool_outputs": []}),
    ("GET", "/v1/threads/{thread}/runs/{run}/steps", None),
    ("GET", "/v1/threads/{thread}/runs/{run}/steps/{step}", None),
    ("DELETE", "/v1/threads/{thread}", None),
    ("POST", "/v1/threads/runs", {"assistant_id": "{agent}"}),
]


def test_nothing_is_anybody_elses(
    client: FlaskClient, beta: Any, agent: str, bob: Person, mallory: Person, gpt: Gpt, turns: TurnEngine
) -> None:
    run = beta.threads.create_and_run_poll(
        assistant_id=agent,
        thread={"messages": [{"role": "user", "content": "Hi"}]},
        tools=[],
        poll_interval_ms=20,
    )
    message = beta.threads.messages.list(run.thread_id).data[0].id
    step = beta.threads.runs.steps.list(run.id, thread_id=run.thread_id).data[0].id
    ids = {"agent": agent, "thread": run.thread_id, "run": run.id, "message": message, "step": step}
    for method, path, body in ROUTES:
        address = path.format(**ids)
        sent = json.loads(json.dumps(body).replace("{agent}", agent))
        for stranger in (bob, mallory):
            refused = client.open(address, method=method, json=sent, headers=stranger.headers)
            assert refused.status_code == 404, (method, path, refused.json)
            assert refused.json["error"]["type"] == "invalid_request_error"
        for headers in ({}, {"authorization": "Bearer unknown"}):
            refused = client.open(address, method=method, data="{", headers=headers)
            assert refused.status_code == 401, (method, path)
    own = gpt(mallory).beta.threads.create().id
    for path in ("/runs/{run}", "/messages/{message}", "/runs/{run}/steps"):
        # through a thread of one's own
        address = f"/v1/threads/{own}{path.format(**ids)}"
        assert client.get(address, headers=mallory.headers).status_code == 404
    assert beta.threads.messages.retrieve(message, thread_id=run.thread_id).id == message


def test_scopes(client: FlaskClient, beta: Any, agent: str, rich: Person) -> None:
    thread = beta.threads.create().id
    assert rich.user is not None

    def status(scope: str, method: str, path: str, body: Any = None) -> int:
        assert rich.user is not None
        key = factories.api_key(rich.user, permissions=(scope,))
        headers = {"authorization": f"Bearer {key}"}
        return int(client.open(path, method=method, json=body, headers=headers).status_code)

    assert status("agents:read", "GET", f"/v1/assistants/{agent}") == 200
    assert status("agents:read", "DELETE", f"/v1/assistants/{agent}") == 403
    assert status("threads:read", "GET", f"/v1/assistants/{agent}") == 403
    assert status("threads:read", "GET", f"/v1/threads/{thread}") == 200
    assert status("threads:read", "POST", f"/v1/threads/{thread}", {}) == 403
    assert status("threads:read", "POST", f"/v1/threads/{thread}/runs", {}) == 403
    assert status("inference:chat", "GET", f"/v1/threads/{thread}") == 403


def test_an_agent_that_was_deleted_runs_no_more(beta: Any, agent: str, app: Flask) -> None:
    thread = beta.threads.create(messages=[{"role": "user", "content": "Hi"}])
    beta.assistants.delete(agent)
    with pytest.raises(openai.ConflictError) as gone:
        beta.threads.runs.create(thread.id, assistant_id=agent)
    assert gone.value.code == "agent_deleted"
    db.session.rollback()
