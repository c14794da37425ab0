"""`/v1/conversations`, driven by OpenAI's own client."""

from typing import Any

import openai
import pytest
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.threads import Thread, ThreadMessage
from tests import factories
from tests.factories import Person
from tests.threads.thread_calls import Gpt

CALL: Any = {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": '{"p": 1}'}
OUTPUT: Any = {"type": "function_call_output", "call_id": "c1", "output": "a.txt"}
REASONING: Any = {
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Look first."}],
    "encrypted_content": "sealed",
}
HELLO: Any = {"type": "message", "role": "user", "content": "Hello"}


def test_a_conversation_is_created_changed_and_deleted(alice: Person, gpt: Gpt) -> None:
    conversations = gpt(alice).conversations
    made = conversations.create(metadata={"topic": "stoa"}, items=[HELLO])
    assert (made.object, made.metadata) == ("conversation", {"topic": "stoa"})
    assert made.id.startswith("conv_")
    assert conversations.retrieve(made.id) == made
    assert conversations.update(made.id, metadata={"a": "b"}).metadata == {"a": "b"}
    deleted = conversations.delete(made.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError, match="not found"):
        conversations.retrieve(made.id)


def test_items_of_every_kind_round_trip(alice: Person, gpt: Gpt, session: OrmSession) -> None:
    conversations = gpt(alice).conversations
    made = conversations.create()
    other: Any = {
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "stoa"},
    }
    image: Any = {
        "role": "user",
        "content": [{"type": "input_image", "image_url": "data:image/png;base64,aGk="}],
    }
    given = [HELLO, CALL, OUTPUT, REASONING, other, image]
    added = conversations.items.create(made.id, items=given)
    assert [item.type for item in added.data] == [item.get("type", "message") for item in given]
    read = list(
        conversations.items.list(made.id, order="asc", include=["reasoning.encrypted_content"], limit=2)
    )
    assert [item.id for item in read] == [item.id for item in added.data]
    hello, call, output, reasoning, search, picture = (item.to_dict() for item in read)
    assert hello["content"] == [{"type": "input_text", "text": "Hello"}]
    assert CALL.items() <= call.items()
    assert OUTPUT.items() <= output.items()
    assert REASONING.items() <= reasoning.items()
    assert search["action"] == other["action"]
    assert picture["content"][0]["image_url"] == image["content"][0]["image_url"]
    assert {item["status"] for item in (hello, call, output)} == {"completed"}
    assert [item.id for item in conversations.items.list(made.id, limit=4)] == [item.id for item in read][
        ::-1
    ]
    plain = conversations.items.retrieve(read[3].id, conversation_id=made.id).to_dict()
    assert "encrypted_content" not in plain
    rows = session.scalars(select(ThreadMessage).order_by(ThreadMessage.seq)).all()
    assert [row.role for row in rows] == ["user", "assistant", "tool", "assistant", "assistant", "user"]
    assert rows[1].tool_calls[0]["function"]["name"] == "ls"
    assert [row.text for row in rows[:3]] == ["Hello", "", "a.txt"]


def test_a_removed_item_is_not_listed_and_keeps_the_tree(
    alice: Person, gpt: Gpt, session: OrmSession
) -> None:
    conversations = gpt(alice).conversations
    made = conversations.create(items=[HELLO, CALL, OUTPUT])
    first, middle, last = (item.id for item in conversations.items.list(made.id, order="asc"))
    assert conversations.items.delete(middle, conversation_id=made.id).id == made.id
    assert [item.id for item in conversations.items.list(made.id)] == [last, first]
    for lost in (middle, "msg_unknown", "x\x00y"):
        with pytest.raises(openai.NotFoundError):
            conversations.items.retrieve(lost, conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        conversations.items.delete(middle, conversation_id=made.id)
    conversations.items.delete(last, conversation_id=made.id)
    (added,) = conversations.items.create(made.id, items=[HELLO]).data
    assert [item.id for item in conversations.items.list(made.id, order="asc")] == [first, added.id]
    assert [item.id for item in conversations.items.list(made.id, order="asc", after=first)] == [added.id]
    row = session.get_one(ThreadMessage, middle)
    assert (row.content, row.item, row.tool_calls) == ([], None, None)


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "", {"metadata": {}}),
    ("GET", "/items", None),
    ("POST", "/items", {"items": [HELLO]}),
    ("GET", "/items/{item}", None),
    ("DELETE", "/items/{item}", None),
    ("DELETE", "", None),
]


def test_a_conversation_is_only_its_owners(
    client: FlaskClient, alice: Person, bob: Person, mallory: Person, anonymous: Person, gpt: Gpt
) -> None:
    made = gpt(alice).conversations.create(items=[HELLO])
    (item,) = gpt(alice).conversations.items.list(made.id)
    for method, more, body in ROUTES:
        address = f"/v1/conversations/{made.id}{more.format(item=item.id)}"
        unknown = address.replace(made.id, "conv_unknown")
        for stranger in (bob, mallory):
            refused = client.open(address, method=method, json=body, headers=stranger.headers)
            nothing = client.open(unknown, method=method, json=body, headers=stranger.headers)
            assert (refused.status_code, nothing.status_code) == (404, 404)
            assert refused.json["error"]["message"].replace(made.id, "") == nothing.json["error"][
                "message"
            ].replace("conv_unknown", "")
        for headers in ({}, {"authorization": "Bearer unknown"}):
            refused = client.open(address, method=method, data="{", headers=headers)
            assert (refused.status_code, refused.json["error"]["type"]) == (401, "authentication_error")
    assert client.post("/v1/conversations", data="{").status_code == 401
    assert [found.id for found in gpt(alice).conversations.items.list(made.id)] == [item.id]


def test_scopes(client: FlaskClient, alice: Person, gpt: Gpt) -> None:
    made = gpt(alice).conversations.create()
    assert alice.user is not None
    reads = {"authorization": f"Bearer {factories.api_key(alice.user, permissions=('threads:read',))}"}
    chats = {"authorization": f"Bearer {factories.api_key(alice.user, permissions=('inference:chat',))}"}
    assert client.get(f"/v1/conversations/{made.id}", headers=reads).status_code == 200
    for headers, method in ((reads, "POST"), (reads, "DELETE"), (chats, "GET")):
        refused = client.open(f"/v1/conversations/{made.id}", method=method, headers=headers)
        assert (refused.status_code, refused.json["error"]["code"]) == (403, "insufficient_permissions")


BAD: list[tuple[Any, str | None]] = [
    ([], None),
    ("text", None),
    ({"items": {}}, "items"),
    ({"items": ["a"]}, "items[0]"),
    ({"items": [HELLO] * 21}, "items"),
    ({"items": [{"type": "message", "role": "king", "content": "x"}]}, "items[0].role"),
    ({"items": [{"role": "user", "content": 7}]}, "items[0].content"),
    ({"items": [{"role": "user", "content": [7]}]}, "items[0].content"),
    ({"items": [{"role": "user", "content": [{"type": "input_text", "text": 7}]}]}, "items[0].content"),
    ({"items": [{"role": "user", "content": "a" * (1 << 20)}]}, "items[0]"),
    ({"items": [{"type": 7}]}, "items[0].type"),
    ({"items": [{"type": "function_call", "call_id": 1}]}, "items[0].call_id"),
    ({"items": [{"type": "function_call_output"}]}, "items[0].call_id"),
    ({"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0]"),
    ({"items": [{"role": "user", "content": "a\x00b"}]}, None),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"metadata": "x"}, "metadata"),
]


@pytest.mark.parametrize(("body", "param"), BAD)
def test_wrong_bodies_are_refused_with_the_parameter(
    client: FlaskClient, alice: Person, session: OrmSession, body: Any, param: str | None
) -> None:
    refused = client.post("/v1/conversations", json=body, headers=alice.headers)
    assert refused.status_code == 400, refused.json
    assert refused.json["error"]["param"] == param
    assert refused.json["error"]["message"]
    assert session.scalars(select(Thread)).all() == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "order=up", "include=all", "after=msg_1"]
)
def test_wrong_queries_are_refused(client: FlaskClient, alice: Person, gpt: Gpt, query: str) -> None:
    made = gpt(alice).conversations.create()
    refused = client.get(f"/v1/conversations/{made.id}/items?{query}", headers=alice.headers)
    assert refused.status_code in (400, 404)
    assert refused.json["error"]["message"]
