"""OpenAI's Responses API: translated for providers of another format, passed on to OpenAI, billed alike."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway.conversation import AnswerBuilder
from models.gateway.formats.chat_answer import ChatAnswerReader
from models.gateway.formats.chat_request import read_chat, write_chat
from models.gateway.formats.foreign_reasoning import PREFIX
from models.gateway.formats.messages_request import read_messages, write_messages
from models.gateway.formats.responses_answer import (
    ResponseHead,
    ResponsesAnswerReader,
    ResponsesWriter,
    response_body,
)
from models.gateway.formats.responses_request import read_responses, write_responses
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunk, completion, stream, usage
from tests.gateway.conftest import Facts

MODEL = "openai/house-model"  # $2 and $10.5 per million tokens
FUNCTION = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}
CUSTOM = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"},
}
NAMESPACE = {
    "type": "namespace",
    "name": "agents",
    "tools": [{"type": "function", "name": "spawn", "parameters": {}}],
}


@pytest.fixture
def call(web: FlaskClient, rich: Person) -> Callable[..., Any]:
    """Post a body to `/v1/responses`; keywords are merged into an ordinary one."""

    def post(**changes: Any) -> Any:
        return web.post(
            "/v1/responses", json={"model": MODEL, "input": "Say hello.", **changes}, headers=rich.headers
        )

    return post


def numbered_events(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream, numbered without a gap, each under its type."""
    found = []
    for block in data.decode().strip().split("\n\n"):
        name, value = block.split("\n")
        event = json.loads(value.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


# -- requests ------------------------------------------------------------------------------------------------

PNG = "data:image/png;base64,iVBORw0KGgo="
TURN = [
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": "QUJD"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
    {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": "{}"},
    {"type": "function_call", "call_id": "c2", "name": "ls", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "a"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "b"}, {"type": "input_image", "image_url": PNG}]},
]  # fmt: skip


def test_a_turn_with_parallel_calls_is_one_message() -> None:
    messages = write_chat(
        read_responses({"instructions": "Be brief.", "input": [{"role": "user", "content": "Hi"}, *TURN]})
    )["messages"]
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
    ]
    turn = messages[2]
    assert turn["content"] == "I look."
    assert [call["id"] for call in turn["tool_calls"]] == ["c1", "c2"]
    assert turn["reasoning_details"] == [
        {
            "type": "reasoning.summary",
            "summary": "Hm",
            "format": "openai-responses-v1",
            "id": "rs_1",
            "index": 0,
        },
        {
            "type": "reasoning.encrypted",
            "data": "QUJD",
            "format": "openai-responses-v1",
            "id": "rs_1",
            "index": 1,
        },
    ]
    assert messages[3] == {"role": "tool", "tool_call_id": "c1", "content": "a"}
    assert messages[5]["content"] == [{"type": "image_url", "image_url": {"url": PNG}}]


def test_reasoning_of_another_vendor_reaches_none() -> None:
    body = {"input": [{"role": "user", "content": "Hi"}, *TURN[:2]]}
    assert "Hm" not in json.dumps(write_messages(read_responses(body)))
    claude = read_messages(
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "s"}]}
            ]
        }
    )
    assert write_responses(claude)["input"] == []


KEYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limits": (
        {"max_output_tokens": 7, "temperature": 0.5, "top_p": 0.9},
        {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9},
    ),
    "roles": (
        {"input": [{"role": "developer", "content": [{"type": "input_text", "text": "D"}]}, {"role": "user", "content": "U"}]},
        {"messages": [{"role": "developer", "content": "D"}, {"role": "user", "content": "U"}]},
    ),
    "a function": (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "ls"}, "parallel_tool_calls": False},
        {
            "tools": [{"type": "function", "function": {"name": "ls", "parameters": FUNCTION["parameters"]}}],
            "tool_choice": {"type": "function", "function": {"name": "ls"}},
            "parallel_tool_calls": False,
        },
    ),
    "a tool in a namespace": (
        {"tools": [NAMESPACE]},
        {"tools": [{"type": "function", "function": {"name": "agents__spawn", "parameters": {}}}]},
    ),
    "effort": ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning": {"effort": "low"}}),
    "no effort": ({"reasoning": {"effort": "none"}}, {"reasoning": {"enabled": False}}),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"}},
        {
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
            "verbosity": "low",
        },
    ),
    "where the answer is kept": ({"store": False, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k"}, {"prompt_cache_key": "k"}),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_keys_are_translated(case: str) -> None:
    given, expected = KEYS[case]
    conversation = read_responses({"input": "Hi", **given})
    body = write_chat(conversation)
    assert {key: body.get(key) for key in expected} == expected
    assert conversation.left_out == []


def test_custom_tools_are_functions_elsewhere_and_come_back() -> None:
    chat = write_chat(read_responses({"input": "Hi", "tools": [CUSTOM]}))
    (tool,) = chat["tools"]
    assert tool["function"]["parameters"]["required"] == ["input"]
    assert "start: X" in tool["function"]["description"]
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "apply_patch", "arguments": '{"input":"*** a\\n"}'},
    }
    builder = AnswerBuilder()
    for event in ChatAnswerReader().read_whole(
        {"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    ):
        builder.add(event)
    head = ResponseHead("resp_1", "m", {"tools": [CUSTOM]})
    (item,) = response_body(head, builder.answer(), None)["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "*** a\n")
    again = write_chat(read_responses({"input": [item], "tools": [CUSTOM]}))
    assert again["messages"][0]["tool_calls"][0]["function"]["arguments"] == '{"input":"*** a\\n"}'


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "'input' is empty"),
    ({"input": []}, "'input' must be a string"),
    ({"input": [3]}, "'input[0]' must be an object"),
    ({"input": [{"content": "x"}]}, "must have a 'role'"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "must be a string"),
    ({"tools": [1]}, "'tools' must be a list of objects"),
    ({"max_output_tokens": 0}, "'max_output_tokens' must be"),
    ({"instructions": 3}, "'instructions' must be a string"),
    ({"text": "x"}, "'text' must be an object"),
    ({"stream": 1}, "'stream' must be true or false"),
]


@pytest.mark.parametrize(("changes", "text"), INVALID, ids=[text for _, text in INVALID])
def test_invalid_bodies_are_refused(
    call: Callable[..., Any], fake: FakeUpstream, changes: Any, text: str
) -> None:
    refused = call(**changes)
    assert refused.status_code == 400
    assert refused.json["error"]["type"] == "invalid_request_error"
    assert text in refused.json["error"]["message"]
    assert not fake.requests


# -- answers of providers of another format ------------------------------------------------------------------


def test_a_whole_answer_is_translated_and_billed(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    use = usage(
        1000,
        200,
        prompt_tokens_details={"cached_tokens": 400},
        completion_tokens_details={"reasoning_tokens": 50},
    )
    fake.will(answer(completion("Hi.", use)))
    found = call(instructions="Be brief.", metadata={"a": "b"}).json
    assert [item["type"] for item in found["output"]] == ["message"]
    assert found["output"][0]["content"][0]["text"] == "Hi."
    assert (found["status"], found["instructions"], found["metadata"]) == (
        "completed",
        "Be brief.",
        {"a": "b"},
    )
    assert found["usage"] == {
        "input_tokens": 1000,
        "input_tokens_details": {"cached_tokens": 400},
        "output_tokens": 200,
        "output_tokens_details": {"reasoning_tokens": 50},
        "total_tokens": 1200,
    }
    assert (facts.call().door, facts.call().state) == ("responses", "settled")
    assert facts.messages()[0].cost == (1000 * Decimal(2) + 200 * Decimal("10.5")) / 1_000_000


STREAMS: dict[str, tuple[list[Any], list[tuple[str, str]], str]] = {
    "text": ([chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop")], [("message", "Hello")], "completed"),
    "reasoning, then text": (
        [chunk({"reasoning_content": "H"}), chunk({"reasoning_content": "m"}), chunk({"content": "A"}), chunk({}, "length")],
        [("reasoning", "Hm"), ("message", "A")],
        "incomplete",
    ),
    "parallel calls, interleaved": (
        [
            chunk({"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "ls", "arguments": ""}}]}),
            chunk({"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "agents__spawn", "arguments": "{"}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x":1}'}}]}),
            chunk({"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]}),
            chunk({}, "tool_calls"),
        ],
        [("function_call", '{"x":1}'), ("function_call", "{}")],
        "completed",
    ),
    "a custom tool": (
        [
            chunk({"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "apply_patch", "arguments": '{"in'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": 'put":"*** a"}'}}]}),
            chunk({}, "tool_calls"),
        ],
        [("custom_tool_call", "*** a")],
        "completed",
    ),
    "refused": ([chunk({"content": "No."}), chunk({}, "content_filter")], [("message", "No.")], "incomplete"),
}  # fmt: skip


def read_items(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The items of a stream: each is opened, filled by deltas and closed before the next, and closed as its deltas said."""
    found: list[tuple[str, str]] = []
    opened: dict[str, Any] | None = None
    text = ""
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert opened is None
            assert event["output_index"] == len(found)
            opened, text = event["item"], ""
        elif kind.endswith(".delta"):
            assert opened is not None
            assert event["item_id"] == opened["id"]
            text += event["delta"]
        elif kind == "response.output_item.done":
            item = event["item"]
            assert opened is not None
            assert item["id"] == opened["id"]
            part = (item.get("content") or item.get("summary") or [{}])[0]
            whole = part.get("text") or item.get("arguments") or item.get("input") or ""
            assert whole == text
            found.append((item["type"], text))
            opened = None
    assert opened is None
    return found


@pytest.mark.parametrize("case", STREAMS)
def test_streams_are_translated(
    case: str, call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    pieces, expected, status = STREAMS[case]
    fake.will(stream([*pieces, chunk(None, usage=usage(100, 20)), "[DONE]"]))
    events = numbered_events(call(stream=True, tools=[FUNCTION, CUSTOM, NAMESPACE]).data)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert read_items(events) == expected
    last = events[-1]
    assert last["type"] == f"response.{status}"
    assert last["response"]["usage"]["output_tokens"] == 20
    assert [item["type"] for item in last["response"]["output"]] == [kind for kind, _ in expected]
    if case.startswith("parallel"):
        assert (last["response"]["output"][1]["namespace"], last["response"]["output"][1]["name"]) == (
            "agents",
            "spawn",
        )
    if case.startswith("reasoning"):
        assert last["response"]["output"][0]["encrypted_content"].startswith(PREFIX)
        assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert facts.call().state == "settled"


def test_a_cut_stream_closes_its_items_and_fails(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    arguments = chunk(
        {"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "ls", "arguments": "{"}}]}
    )
    fake.will(stream([chunk({"content": "Hello"}), arguments], cut_after=2))
    events = numbered_events(call(stream=True, tools=[FUNCTION]).data)
    assert read_items(events) == [("message", "Hello"), ("function_call", "{")]
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert facts.call().state == "settled"
    assert facts.messages()[0].cost > 0


# -- OpenAI itself -------------------------------------------------------------------------------------------


@pytest.fixture
def openai(web: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is OpenAI's own server."""
    provider = web.application.extensions["gateway"].routes.providers["openai"]
    monkeypatch.setitem(provider.__dict__, "first_party", True)


USE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 400},
    "output_tokens": 200,
    "output_tokens_details": {"reasoning_tokens": 50},
    "total_tokens": 1200,
}
RESPONSE: dict[str, Any] = {
    "id": "resp_abc",
    "object": "response",
    "created_at": 1_750_000_000,
    "status": "completed",
    "model": "house-model",
    "output": [{"id": "m1", "type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello", "annotations": []}]}],
    "usage": USE,
}  # fmt: skip
NATIVE: list[dict[str, Any]] = [
    {
        "type": "response.created",
        "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None},
    },
    {"type": "response.output_item.added", "output_index": 0, "item": {"id": "m1", "type": "message"}},
    {
        "type": "response.output_text.delta",
        "output_index": 0,
        "item_id": "m1",
        "content_index": 0,
        "delta": "Hello",
    },
    {"type": "response.output_item.done", "output_index": 0, "item": RESPONSE["output"][0]},
    {"type": "response.completed", "response": RESPONSE},
]


def native(events: list[dict[str, Any]]) -> list[bytes]:
    return [
        f"event: {event['type']}\ndata: {json.dumps({**event, 'sequence_number': at})}\n\n".encode()
        for at, event in enumerate(events)
    ]


def test_a_stream_of_openais_is_passed_on(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts, openai: None
) -> None:
    fake.will(stream(native(NATIVE)))
    found = call(stream=True, store=False, tools=[CUSTOM], include=["x"], truncation="auto", made_up={"a": 1})
    assert found.data == b"".join(native(NATIVE))
    request = fake.requests[-1]
    assert request.path == "/openai/responses"
    # nothing is kept at the provider, under the operator's key
    assert request.body == {
        "model": "house-model",
        "input": "Say hello.",
        "stream": True,
        "store": False,
        "tools": [CUSTOM],
        "include": ["x"],
        "truncation": "auto",
        "made_up": {"a": 1},
    }
    facts.call()
    (message,) = facts.messages()
    assert (message.input_tokens, message.cache_read_input_tokens, message.output_tokens) == (1000, 400, 200)
    assert message.cost == (1000 * Decimal(2) + 200 * Decimal("10.5")) / 1_000_000


def test_a_whole_response_is_passed_on(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts, openai: None
) -> None:
    fake.will(answer(RESPONSE))
    assert call(store=False).json == RESPONSE
    assert facts.messages()[0].output_tokens == 200


def test_a_cut_stream_of_openais_ends_in_its_own_numbers(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts, openai: None
) -> None:
    fake.will(stream(native(NATIVE), cut_after=3))
    events = numbered_events(call(stream=True, store=False).data)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["id"] == "resp_abc"
    assert facts.call().state == "settled"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}, "file_id"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]}, "file_id"),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "code_interpreter"),
    ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, "file_search"),
    ({"service_tier": "priority"}, "service_tier"),
]


@pytest.mark.parametrize(("changes", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_has_no_price_or_belongs_to_others_is_refused_by_name(
    call: Callable[..., Any], fake: FakeUpstream, openai: None, changes: dict[str, Any], text: str
) -> None:
    refused = call(**changes)
    assert refused.status_code == 400
    assert text in refused.json["error"]["message"]
    assert not fake.requests


# -- readers and writers agree -------------------------------------------------------------------------------


def test_what_is_written_is_read_back() -> None:
    message = {
        "content": "A",
        "reasoning_content": "Hm",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}],
    }
    events = ChatAnswerReader().read_whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    built, streamed, whole = AnswerBuilder(), AnswerBuilder(), AnswerBuilder()
    writer = ResponsesWriter(ResponseHead("resp_1", "m", {}))
    sent = writer.start("m")
    for event in events:
        built.add(event)
        sent += writer.write(event)
    sent += writer.finish(None)
    reader = ResponsesAnswerReader()
    for event_body in numbered_events(sent):
        for event in reader.read(event_body):
            streamed.add(event)
    body = response_body(ResponseHead("resp_1", "m", {}), built.answer(), None)
    for event in ResponsesAnswerReader().read_whole(body):
        whole.add(event)
    kinds = [type(part) for part in built.answer().parts]
    assert [type(part) for part in streamed.answer().parts] == kinds
    assert [type(part) for part in whole.answer().parts] == kinds
    again = read_chat({"messages": write_chat(read_responses({"input": body["output"]}))["messages"]})
    assert [type(part) for part in again.messages[0].parts] == kinds


def test_tokens_are_counted_and_sockets_refused(web: FlaskClient, rich: Person, fake: FakeUpstream) -> None:
    counted = web.post(
        "/v1/responses/input_tokens", json={"model": MODEL, "input": "Say hello."}, headers=rich.headers
    )
    assert counted.json["object"] == "response.input_tokens"
    assert 3 < counted.json["input_tokens"] < 20
    assert web.post("/v1/responses/input_tokens", data=b"{").status_code == 401
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x",
    }
    refused = web.get("/v1/responses", headers={**rich.headers, **upgrade})
    assert refused.status_code == 426
    assert "POST /v1/responses" in refused.json["error"]["message"]
    assert not fake.requests
