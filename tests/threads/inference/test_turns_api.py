"""`/api/v1/threads/{id}/turns` and what resumes turns: who may, and what is refused."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.core.db import db
from models.turns import Turn
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream
from tests.threads.inference.conftest import CLIENT_TOOL, MODEL, Turns, calls, says


class Api:
    """Calls with a key."""

    def __init__(self, web: FlaskClient, token: str | None) -> None:
        self.web, self.headers = web, {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.web.open(f"/api/v1{path}", method=method, json=body, headers=self.headers)
        return answer.status_code, answer.get_json(silent=True)


@pytest.fixture
def api(turns: Turns, web: FlaskClient, alice: Person) -> Api:
    return Api(web, alice.token)


def test_a_turn_is_begun_and_listed(api: Api, turns: Turns) -> None:
    path = f"/threads/{turns.thread_id}/turns"
    status, turn = api("post", path, {"content": "Hi", "model": MODEL, "params": {"temperature": 0}})
    assert (status, turn["state"], turn["thread_id"]) == (201, "running", turns.thread_id)
    assert turns.after(turn["id"]).state == "completed"
    again = api("post", path, {"parent_id": turns.messages()[0].id, "model": MODEL})[1]
    turns.after(again["id"])
    assert [message.parent_id for message in turns.messages()][1:] == [turns.messages()[0].id] * 2
    status, page = api("get", f"{path}?limit=1")
    assert [each["id"] for each in page["data"]] == [again["id"]]
    status, page = api("get", f"{path}?limit=1&cursor={page['next_cursor'].replace('+', '%2B')}")
    assert ([each["id"] for each in page["data"]], page["next_cursor"]) == ([turn["id"]], None)


def test_a_turn_is_streamed(api: Api, turns: Turns) -> None:
    answer = api.web.post(
        f"/api/v1/threads/{turns.thread_id}/turns",
        json={"content": "Hi", "model": MODEL, "stream": True},
        headers=api.headers,
    )
    assert answer.content_type.startswith("text/event-stream")
    types = [line[7:] for line in answer.get_data(as_text=True).split("\n") if line.startswith("event: ")]
    assert (types[0], types[-1]) == ("turn.started", "turn.completed")


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"content": ""}, {"content": 5}, {"content": "x", "messages": []}, {"messages": []}),
        {"content": "x", "messages": [{"role": "user", "content": "y"}]},
        {"messages": [{"role": "assistant", "content": "y"}]},
        {"messages": [{"role": "tool", "content": "y"}]},
        {"content": "nul \x00"},
        {"content": "x", "unknown": 1},
        {"content": "x", "budget": 0},
        {"content": "x", "budget": 2**70},
        {"content": "x", "max_rounds": 0},
        {"content": "x", "on_busy": "wait"},
        {"content": "x", "params": {"messages": []}},
        {"content": "x", "tools": [{"type": "function"}]},
        {"content": "x", "variables": {"a": "b"}},
        {"content": [{"type": "audio"}]},
        [],
        "x",
    ],
)
def test_wrong_turns_are_refused_and_nothing_is_stored(api: Api, turns: Turns, body: Any) -> None:
    sent = {"model": MODEL, **body} if isinstance(body, dict) else body
    status, answer = api("post", f"/threads/{turns.thread_id}/turns", sent)
    assert status in (400, 422), answer
    assert turns.messages() == []
    assert db.session.query(Turn).count() == 0


def test_no_model_and_no_such_parent_or_assistant_are_refused(api: Api, turns: Turns) -> None:
    path = f"/threads/{turns.thread_id}/turns"
    assert api("post", path, {"content": "x"})[0] == 400
    for more in ({"parent_id": "msg_1"}, {"agent_id": "agnt_1"}, {"parent_id": "\x00"}):
        assert api("post", path, {"content": "x", "model": MODEL, **more})[0] in (400, 404, 422)
    assert turns.messages() == []


def test_outputs_and_resuming_by_the_api(api: Api, turns: Turns, fake: FakeUpstream) -> None:
    fake.will(calls(("c1", "ask_user")), says("Done."))
    body = {"content": "Hi", "model": MODEL, "tools": [CLIENT_TOOL]}
    id = api("post", f"/threads/{turns.thread_id}/turns", body)[1]["id"]
    turns.after(id)
    turn = api("get", f"/turns/{id}")[1]
    assert [call["id"] for call in turn["required_action"]["tool_calls"]] == ["c1"]
    path = f"/turns/{id}/tool_outputs"
    assert api("post", path, {"tool_outputs": [{"tool_call_id": "c9", "output": "x"}]})[0] == 422
    assert api("post", f"/turns/{id}/resume", {})[0] == 409
    outputs = {"tool_outputs": [{"tool_call_id": "c1", "output": "x"}]}
    assert api("post", path, outputs)[1]["state"] == "running"
    assert turns.after(id).state == "completed"
    assert api("post", path, outputs)[0] == 409


def test_strangers_find_no_turns(
    api: Api, turns: Turns, fake: FakeUpstream, web: FlaskClient, mallory: Person, bob: Person
) -> None:
    fake.will(calls(("c1", "ask_user")), says("Done."))
    id = turns.ask(tools=[CLIENT_TOOL]).id
    outputs = {"tool_outputs": [{"tool_call_id": "c1", "output": "x"}]}
    before = len(turns.messages())
    for token, expected in ((mallory.token, 404), (bob.token, 404), (None, 401)):
        other = Api(web, token)
        for method, path, body in (
            ("post", "/threads/{}/turns", {"content": "x", "model": MODEL}),
            ("get", "/threads/{}/turns", None),
            ("post", "/turns/{}/tool_outputs", outputs),
            ("post", "/turns/{}/resume", {}),
        ):
            own = turns.thread_id if "threads" in path else id
            random = own[:5] + "00000000-0000-0000-0000-000000000000"
            found, missing = (other(method, path.format(each), body) for each in (own, random))
            assert found[0] == missing[0] == expected
            without = [json.dumps(each[1]).replace(own, "").replace(random, "") for each in (found, missing)]
            assert "request_id" in without[0]
    assert len(turns.messages()) == before
    assert turns.after(id).state == "requires_action"
