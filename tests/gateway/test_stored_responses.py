"""Responses that are kept: read, continued, referred to, deleted, and never another account's."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts.account_deletion import account_erasing
from models.core import jobs
from models.core.db import now
from models.gateway.formats.foreign_reasoning import open_summary, seal_summary
from models.gateway.response_state.response_store import ResponseStore
from models.gateway.response_state.stored_response import StoredResponse, stored_bytes
from models.orgs import org_erased
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunk, completion, stream, usage
from tests.gateway.conftest import Facts, events
from tests.gateway.test_responses_door import (
    MODEL,
    NATIVE,
    RESPONSE,
    native,
    numbered_events,
)
from tests.gateway.test_responses_door import openai as openai  # a fixture

Call = Callable[..., Any]
FUNCTION = {"id": "c0", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
CALLED = {"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [FUNCTION]}, "finish_reason": "tool_calls"}]}  # fmt: skip


@pytest.fixture
def call(web: FlaskClient, rich: Person) -> Call:
    """Post a body to `/v1/responses` as Alice, or as `by`; keywords are merged into an ordinary body."""

    def post(by: Person = rich, headers: dict[str, str] | None = None, **changes: Any) -> Any:
        body = {"model": MODEL, "input": "Say hello.", **changes}
        return web.post("/v1/responses", json=body, headers={**by.headers, **(headers or {})})

    return post


@pytest.fixture
def get(web: FlaskClient, rich: Person) -> Call:
    """Get a response, or what is below it."""

    def found(id: str, more: str = "", by: Person = rich, method: str = "GET", **headers: str) -> Any:
        return web.open(f"/v1/responses/{id}{more}", method=method, headers={**by.headers, **headers})

    return found


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for item in items for part in item.get("content") or ()]


def test_a_response_is_kept_read_and_deleted(
    call: Call, get: Call, fake: FakeUpstream, session: OrmSession
) -> None:
    answered = call(metadata={"a": "b"})
    made = answered.json
    assert answered.headers["x-codex-credits-balance"] == "1000"
    assert answered.headers["x-codex-credits-has-credits"] == "true"
    assert (made["store"], made["previous_response_id"]) == (True, None)
    read = get(made["id"])
    assert (read.status_code, read.json) == (200, made)
    listed = get(made["id"], "/input_items").json
    (item,) = listed["data"]
    assert item["id"] == listed["first_id"] == listed["last_id"]
    assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "Say hello."}])
    assert get(made["id"], "/cancel", method="POST").json["error"]["message"] == (
        "Cannot cancel a synchronous response."
    )
    assert get(made["id"], "?stream=true").status_code == 400
    assert stored_bytes(session.scalars(select(StoredResponse.account_id)).one()) > 500
    assert get(made["id"], method="DELETE").json == {"id": made["id"], "object": "response", "deleted": True}
    for method, more in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        gone = get(made["id"], more, method=method)
        assert gone.status_code == 404
        assert gone.json["error"]["message"] == f"Response with id '{made['id']}' not found."
    assert session.scalars(select(StoredResponse)).all() == []


def test_a_chain_is_sent_whole_without_its_instructions(
    call: Call, get: Call, fake: FakeUpstream, web: FlaskClient, rich: Person
) -> None:
    first = call(instructions="Be brief.", input="One").json
    fake.will(
        stream([chunk({"content": "Two!"}), chunk({}, "stop"), chunk(None, usage=usage(9, 9)), "[DONE]"])
    )
    second = numbered_events(call(input="Two", previous_response_id=first["id"], stream=True).data)
    ids = {event["response"]["id"] for event in second if "response" in event}
    assert len(ids) == 1
    fake.will(answer(completion("Three!")))
    third = call(input=[{"role": "user", "content": "Three"}], previous_response_id=ids.pop()).json
    assert [message["content"] for message in fake.requests[-1].body["messages"]] == [
        *("One", "Hello there my friend.", "Two", "Two!", "Three"),
    ]
    assert third["instructions"] is None
    counts = [
        web.post("/v1/responses/input_tokens", json=body, headers=rich.headers).json["input_tokens"]
        for body in (
            {"model": MODEL, "input": "x"},
            {"model": MODEL, "input": "x", "previous_response_id": third["id"]},
        )
    ]
    assert counts[1] > counts[0] + 10
    pages, after = [], ""
    while True:
        page = get(third["id"], f"/input_items?order=asc&limit=2{after}").json
        pages += page["data"]
        after = f"&after={page['last_id']}"
        if not page["has_more"]:
            break
    assert texts(pages) == ["One", "Hello there my friend.", "Two", "Two!", "Three"]
    newest = get(third["id"], "/input_items?limit=1").json
    assert (texts(newest["data"]), newest["has_more"]) == (["Three"], True)
    # a deleted link ends the chain
    assert get(first["id"], method="DELETE").status_code == 200
    assert call(previous_response_id=third["id"]).json["error"]["code"] == "previous_response_not_found"


def test_nothing_is_kept_if_the_client_or_the_operator_says_so(
    call: Call,
    get: Call,
    fake: FakeUpstream,
    session: OrmSession,
    web: FlaskClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = call(store=False).json
    assert first["store"] is False
    # it may still continue what is kept
    kept = call().json
    assert call(store=False, previous_response_id=kept["id"]).json["previous_response_id"] == kept["id"]
    fake.will(stream([chunk({"content": "Hel"})], cut_after=1), answer())
    assert b"response.failed" in call(stream=True).data
    monkeypatch.setattr(web.application.extensions["gateway"].responses, "enabled", False)
    assert call().json["store"] is False
    assert session.scalars(select(StoredResponse.id)).all() == [kept["id"]]
    assert get(first["id"]).status_code == 404


def test_items_are_referred_to(call: Call, get: Call, fake: FakeUpstream, rich: Person) -> None:
    tool = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}
    fake.will(answer(completion("") | CALLED))
    (item,) = call(tools=[tool]).json["output"]
    fake.will(answer(completion("Done.")))
    given = [
        {"role": "user", "content": "Go"},
        {"type": "item_reference", "id": item["id"]},
        {"type": "function_call_output", "call_id": item["call_id"], "output": "a.txt"},
    ]
    made = call(tools=[tool], input=given).json
    messages = fake.requests[-1].body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"]["name"] == "ls"
    assert [each["type"] for each in get(made["id"], "/input_items?order=asc").json["data"]] == [
        *("message", "function_call", "function_call_output")
    ]
    # and in what a chain repeats
    call(tools=[tool], input="Again", previous_response_id=made["id"])
    assert [message["role"] for message in fake.requests[-1].body["messages"]] == [
        *("user", "assistant", "tool", "assistant", "user")
    ]
    unknown = call(input=[{"type": "item_reference", "id": "msg_unknown"}])
    assert unknown.status_code == 404
    assert unknown.json["error"]["message"].startswith("Item with id 'msg_unknown' not found.")


def test_openais_own_answers_get_ids_of_ours(
    call: Call, get: Call, fake: FakeUpstream, openai: None, facts: Facts
) -> None:
    fake.will(stream(native(NATIVE)))
    found = numbered_events(call(stream=True).data)
    (id,) = {event["response"]["id"] for event in found if "response" in event}
    assert id != RESPONSE["id"]
    assert found[-1]["response"] == RESPONSE | {"id": id, "store": True, "previous_response_id": None}
    assert get(id).json == found[-1]["response"]
    fake.will(answer(RESPONSE))
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "stoa1.eyJvIjoiY2hhdCJ9"}
    again = call(previous_response_id=id, input=[foreign, {"role": "user", "content": "More"}])
    assert again.json == RESPONSE | {"id": again.json["id"], "store": True, "previous_response_id": id}
    assert again.headers["X-Stoa-Dropped"] == "input: reasoning of another vendor"
    sent = fake.requests[-1].body
    assert sent["store"] is False
    assert "previous_response_id" not in sent
    assert texts(sent["input"][:2]) == ["Say hello.", "Hello"]
    assert not any("id" in item for item in sent["input"])
    assert facts.messages()[0].cost > 0


def test_responses_belong_to_one_person_and_one_account(
    call: Call, get: Call, session: OrmSession, rich: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    assert rich.user is not None
    assert bob.user is not None
    org = factories.org(rich.user, "Acme", (bob.user,))
    factories.grant(rich.user, 1000, type="organization", org_id=org.id)
    paid = {"x-stoa-org": org.slug}
    own, shared = call().json["id"], call(headers=paid).json["id"]
    assert get(shared, **paid).status_code == 200
    refused: list[tuple[str, Person, dict[str, str]]] = [
        (shared, rich, {}),
        (own, rich, paid),
        (shared, bob, paid),
        (own, mallory, {}),
    ]
    for id, by, headers in refused:
        for method, more in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            assert get(id, more, by=by, method=method, **headers).status_code == 404
        factories.grant(by.user, 10) if by.user else None
        found = call(by, headers, previous_response_id=id)
        assert found.status_code == 400
        assert found.json["error"] == {
            "message": f"Previous response with id '{id}' not found.",
            "type": "invalid_request_error",
            "param": "previous_response_id",
            "code": "previous_response_not_found",
        }
        assert (
            call(by, headers, input=[{"type": "item_reference", "id": f"msg_{id[5:]}_1"}]).status_code == 404
        )
    assert get(own, by=anonymous).status_code == 401
    assert call(anonymous, previous_response_id=own).status_code == 401
    assert get(shared, by=mallory, **paid).status_code == 404


INVALID = [
    "?include=made_up",
    *(
        f"/input_items?{query}"
        for query in ("limit=0", "limit=101", "limit=x", "limit=1e2", "order=up", "after=%00")
    ),
    "/input_items?after=msg_1",
]


def test_what_is_wrong_is_refused(call: Call, get: Call) -> None:
    id = call().json["id"]
    for query in INVALID:
        assert get(id, query).status_code == 400, query
    assert get("x%00y").status_code == 404
    assert call(previous_response_id="x\0y").json["error"]["code"] == "previous_response_not_found"
    assert call(previous_response_id=3).status_code == 400
    assert call(input=[{"type": "item_reference", "id": "\0"}]).status_code == 400
    nul = call(input=[{"role": "user", "content": "a\0b \ud800"}]).json["id"]
    assert call(previous_response_id=nul, input=[]).status_code == 200


def test_old_chains_are_pruned_whole(call: Call, session: OrmSession) -> None:
    old, live = call().json["id"], call().json["id"]
    session.execute(update(StoredResponse).values(created_at=now() - timedelta(days=31)))
    session.commit()
    continued = call(previous_response_id=live).json["id"]
    jobs.prune_responses(0)
    assert set(session.scalars(select(StoredResponse.id))) == {live, continued}
    assert old not in {live, continued}


def test_an_account_keeps_no_more_than_its_limit(
    call: Call, session: OrmSession, web: FlaskClient, rich: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: ResponseStore = web.application.extensions["gateway"].responses
    monkeypatch.setattr(store, "_limit", 40_000)
    ids = [call(input="x" * 15_000).json["id"] for _ in range(4)]
    assert session.scalars(select(StoredResponse.id).order_by(StoredResponse.created_at)).all() == ids[2:]
    total = session.scalars(select(func.sum(StoredResponse.size))).one()
    assert rich.user is not None
    assert stored_bytes(rich.user.id) == total <= 40_000
    call(input="x" * 60_000)  # more than the limit: not kept
    session.rollback()
    assert session.scalars(select(func.count(StoredResponse.id))).one() == 2


def test_they_end_with_the_account(call: Call, session: OrmSession, rich: Person, bob: Person) -> None:
    assert rich.user is not None
    assert bob.user is not None
    org = factories.org(bob.user, "Acme", (rich.user,))
    factories.grant(bob.user, 1000, type="organization", org_id=org.id)
    call()
    call(headers={"x-stoa-org": org.slug})
    account_erasing.send(rich.user, now=now())
    assert session.scalars(select(StoredResponse.account_id)).all() == [org.id]
    assert stored_bytes(rich.user.id) == 0
    session.commit()
    org_erased.send(org.id)
    assert session.scalars(select(StoredResponse.id)).all() == []


def test_an_answer_that_cannot_be_kept_is_sent(
    call: Call, get: Call, web: FlaskClient, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = web.application.extensions["gateway"].responses
    execute = store._pool.execute

    def failing(query: str, *rest: Any, **options: Any) -> Any:
        if "stored_response" in query:
            raise psycopg.OperationalError("gone")
        return execute(query, *rest, **options)

    monkeypatch.setattr(store._pool, "execute", failing)
    made = call()
    assert made.status_code == 200
    assert get(made.json["id"]).status_code == 503
    assert call(previous_response_id=made.json["id"]).json["error"]["code"] == "responses_unavailable"
    monkeypatch.undo()
    assert get(made.json["id"]).status_code == 404
    assert facts.calls()[0].state == "settled"


def test_a_responses_body_on_the_chat_path_is_answered_in_chats_shape(
    web: FlaskClient, rich: Person, fake: FakeUpstream, facts: Facts
) -> None:
    def post(**changes: Any) -> Any:
        body = {"model": MODEL, "input": "Say hello.", "instructions": "Be brief.", "max_output_tokens": 9}
        return web.post("/v1/chat/completions", json=body | changes, headers=rich.headers)

    found = post(made_up=1)
    assert "x-codex-credits-balance" not in found.headers
    assert found.json["choices"][0]["message"]["content"].startswith("Hello there")
    assert found.headers["X-Stoa-Dropped"] == "made_up"
    sent = fake.requests[-1].body
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert (sent["max_tokens"], "input" in sent) == (9, False)
    tool = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}
    chunks = events(post(stream=True, tools=[tool], stream_options={"include_usage": True}).data)
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] == 20
    assert fake.requests[-1].body["tools"][0]["function"]["name"] == "ls"
    for refused, param in (({"input": []}, "input"), ({"previous_response_id": "r"}, "previous_response_id")):
        assert post(**refused).json["error"]["param"] == param
    assert {call.door for call in facts.calls()} == {"openai"}


# -- compaction ----------------------------------------------------------------------------------------------

HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "One"},
    {"role": "assistant", "content": "Hm."},
    {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "a"},
    {"role": "user", "content": "Two"},
]
LS = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}


def test_a_conversation_is_compacted_by_a_summary_that_is_opened_again(
    web: FlaskClient, call: Call, rich: Person, fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(answer(completion("They want one and two.")))
    body = {"model": MODEL, "input": HISTORY, "instructions": "Be brief.", "tools": [LS]}
    found = web.post("/v1/responses/compact", json=body, headers=rich.headers).json
    assert (found["object"], found["usage"]["output_tokens"]) == ("response.compaction", 20)
    *messages, item = found["output"]
    assert texts(messages) == ["One", "Two"]
    assert item["type"] == "compaction"
    assert "two" not in str(item)
    sent = fake.requests[-1].body
    assert sent["tool_choice"] == "none"
    assert sent["messages"][-1]["content"].startswith("Stop here")
    assert (facts.call().door, facts.call().state) == ("responses", "settled")
    call(input=[*found["output"], {"role": "user", "content": "Go on"}])
    (*_, summary, last) = fake.requests[-1].body["messages"]
    assert summary["content"].endswith("They want one and two.")
    assert last["content"] == "Go on"


def test_a_kept_chain_is_compacted(web: FlaskClient, call: Call, rich: Person, fake: FakeUpstream) -> None:
    id = call(input="One").json["id"]
    body = {"model": MODEL, "input": "Two", "previous_response_id": id}
    found = web.post("/v1/responses/compact", json=body, headers=rich.headers).json
    assert texts(found["output"][:-1]) == ["One", "Two"]
    fake.will(answer(completion("") | CALLED))
    unwritten = web.post("/v1/responses/compact", json=body, headers=rich.headers).json["output"][-1]
    assert (open_summary(unwritten["encrypted_content"]) or "").endswith("Hello there my friend.")
    refused = web.post("/v1/responses/compact", json=body | {"stream": True}, headers=rich.headers)
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "stream")


def test_openai_compacts_for_its_own_models(
    web: FlaskClient, call: Call, rich: Person, fake: FakeUpstream, openai: None, facts: Facts
) -> None:
    item = {"id": "cmp_1", "type": "compaction", "encrypted_content": "QUJD"}
    compacted = {"id": "resp_c", "object": "response.compaction", "created_at": 1, "output": [item], "usage": RESPONSE["usage"]}  # fmt: skip
    fake.will(answer(compacted), answer(RESPONSE))
    body = {"model": MODEL, "input": HISTORY, "store": True}
    assert web.post("/v1/responses/compact", json=body, headers=rich.headers).json == compacted
    assert (fake.requests[-1].path, fake.requests[-1].body) == (
        "/openai/responses/compact",
        {"model": "house-model", "input": HISTORY},
    )
    assert facts.messages()[0].output_tokens == 200
    sealed = {"type": "compaction", "encrypted_content": seal_summary("Before.")}
    call(input=[item, sealed, {"role": "user", "content": "Go on"}])
    native_item, opened, _ = fake.requests[-1].body["input"]
    assert native_item == item
    assert opened["content"][0]["text"].endswith("Before.")


def test_answers_to_a_test_key_are_kept_too(web: FlaskClient, rich: Person, session: OrmSession) -> None:
    assert rich.user is not None
    key = factories.api_key(rich.user, environment="test")
    session.commit()
    headers = {"authorization": f"Bearer {key}"}
    made = web.post("/v1/responses", json={"model": MODEL, "input": 'Say "hi".'}, headers=headers)
    assert "x-codex-credits-balance" not in made.headers
    again = web.post(
        "/v1/responses",
        json={"model": MODEL, "input": "More", "previous_response_id": made.json["id"]},
        headers=headers,
    )
    assert again.status_code == 200
