"""Anthropic's Messages API: translated for providers of another format, passed on to Anthropic, billed alike."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway.chat_format import chat_parsing
from models.gateway.conversation import AnswerBuilder
from models.gateway.formats.chat_answer import ChatAnswerReader
from models.gateway.formats.chat_request import read_chat, write_chat
from models.gateway.formats.foreign_reasoning import PREFIX
from models.gateway.formats.messages_answer import MessagesAnswerReader, message_body
from models.gateway.formats.messages_request import read_messages, write_messages
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunk, completion, stream, usage
from tests.gateway.conftest import Facts

MODEL = "openai/house-model"  # $2 and $10.5 per million tokens
CLAUDE = "claude-sonnet-4.5"
HELLO: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Say hello."}],
}
TOOL = {"name": "Bash", "description": "Run", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
def call(web: FlaskClient, rich: Person) -> Callable[..., Any]:
    """Post a body to `/v1/messages`; keywords are merged into an ordinary one."""

    def post(headers: dict[str, str] | None = None, **changes: Any) -> Any:
        return web.post(
            "/v1/messages?beta=true", json={**HELLO, **changes}, headers={**rich.headers, **(headers or {})}
        )

    return post


def named_events(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream; each has its type as its name, as clients require."""
    found = []
    for block in data.decode().strip().split("\n\n"):
        name, value = block.split("\n")
        event = json.loads(value.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def native(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


START = {
    "type": "message_start",
    "message": {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 1000, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 500, "output_tokens": 1},
    },
}  # fmt: skip
TEXT = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "ping"},
    {"type": "content_block_stop", "index": 0},
]
END = [
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 40}},
    {"type": "message_stop"},
]  # fmt: skip


# -- requests ------------------------------------------------------------------------------------------------

PNG = "data:image/png;base64,iVBORw0KGgo="
CALL = {"id": "toolu_1", "type": "function", "function": {"name": "Bash", "arguments": '{"command":"ls"}'}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}}


def result(**changes: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": "done", **changes}


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
CHAT_IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
MESSAGES = {
    "text": ([{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Hi"}]),
    "blocks": (
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}, IMAGE]}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}, CHAT_IMAGE]}],
    ),
    "a call and its result, before what the user says": (
        [
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, USE]},
            {"role": "user", "content": [{"type": "text", "text": "And?"}, result()]},
        ],
        [
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "done"},
            {"role": "user", "content": "And?"},
        ],
    ),
    "an image of a tool follows as the user's": (
        [{"role": "user", "content": [result(content=[{"type": "text", "text": "see"}, IMAGE], is_error=True)]}],
        [
            {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: see"},
            {"role": "user", "content": [CHAT_IMAGE]},
        ],
    ),
    "reasoning of Anthropic's is no text": (
        [
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "Hm", "signature": "sig"}, {"type": "text", "text": "A"}],
            }
        ],
        [
            {
                "role": "assistant",
                "content": "A",
                "reasoning_details": [
                    {
                        "type": "reasoning.text",
                        "text": "Hm",
                        "signature": "sig",
                        "format": "anthropic-claude-v1",
                        "index": 0,
                    }
                ],
            }
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_are_translated(case: str) -> None:
    given, expected = MESSAGES[case]
    assert write_chat(read_messages({"messages": given}))["messages"] == expected


@pytest.mark.parametrize("case", [case for case in MESSAGES if "image of a tool" not in case])
def test_messages_survive_the_way_there_and_back(case: str) -> None:
    conversation = read_messages({"messages": MESSAGES[case][0]})
    chat = {"model": "m", **write_chat(conversation)}
    chat_parsing.parse(chat, 100)
    again = read_messages(write_messages(read_chat(chat)))
    turns = [message for message in again.messages if message.role == "user"]
    first = [each.parts for each in conversation.messages if each.role == "assistant"]
    assert [each.parts for each in again.messages if each.role == "assistant"] == first
    assert {type(part) for turn in turns for part in turn.parts} >= {
        type(part) for message in conversation.messages if message.role == "user" for part in message.parts
    }


KEYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limits": (
        {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop_sequences": ["END"]},
        {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": ["END"]},
    ),
    "system": (
        {"system": [{"type": "text", "text": "x-anthropic-billing-header: cc=1"}, {"type": "text", "text": "Be brief."}]},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]},
    ),
    "tools": (
        {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "Bash", "description": "Run", "parameters": TOOL["input_schema"]},
                }
            ],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    ),
    "one tool": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "Bash"}},
        {"tool_choice": {"type": "function", "function": {"name": "Bash"}}},
    ),
    "a budget": ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, {"reasoning": {"max_tokens": 2048}}),
    "adaptive thinking": (
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        {"reasoning": {"effort": "low"}},
    ),
    "no thinking": ({"thinking": {"type": "disabled"}}, {"reasoning": {"enabled": False}}),
    "a schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
            }
        },
    ),
    "the user": ({"metadata": {"user_id": "u1"}}, {"user": "u1"}),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_keys_are_translated(case: str) -> None:
    given, expected = KEYS[case]
    conversation = read_messages({**HELLO, **given})
    body = write_chat(conversation)
    assert {key: body.get(key) for key in expected} == expected
    assert conversation.left_out == []


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "'max_tokens' is missing"),
    ({"max_tokens": "9"}, "'max_tokens' must be a whole number"),
    ({"messages": []}, "'messages' must be a list"),
    ({"messages": "hi"}, "'messages' must be a list"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "'role' is user or assistant"),
    ({"messages": [{"role": "user", "content": 3}]}, "must be a string or a list"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "must be a string"),
    ({"system": [3]}, "'system' must be"),
    ({"tools": {}}, "'tools' must be a list"),
    ({"stream": "yes"}, "'stream' must be true or false"),
    ({"temperature": "hot"}, "'temperature' must be a number"),
    ({"model": ""}, "'model' is missing"),
    ({"stop_sequences": [1]}, "'stop_sequences' must be"),
]


@pytest.mark.parametrize(("changes", "text"), INVALID, ids=[text for _, text in INVALID])
def test_invalid_bodies_are_refused(
    call: Callable[..., Any], fake: FakeUpstream, changes: Any, text: str
) -> None:
    refused = call(**changes)
    assert refused.status_code == 400
    assert refused.json["type"] == "error"
    assert refused.json["error"]["type"] == "invalid_request_error"
    assert text in refused.json["error"]["message"]
    assert not fake.requests


# -- answers of providers of another format ------------------------------------------------------------------


def test_a_whole_answer_is_translated_and_billed(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    use = usage(1000, 200, prompt_tokens_details={"cached_tokens": 400})
    fake.will(answer(completion("Hi.", use)))
    found = call()
    assert found.json["content"] == [{"type": "text", "text": "Hi."}]
    assert (found.json["stop_reason"], found.json["type"], found.json["role"]) == (
        "end_turn",
        "message",
        "assistant",
    )
    assert found.json["usage"]["input_tokens"] == 600
    assert found.json["usage"]["cache_read_input_tokens"] == 400
    settled = facts.call()
    assert (settled.door, settled.state) == ("anthropic", "settled")
    (message,) = facts.messages()
    assert message.cost == (1000 * Decimal(2) + 200 * Decimal("10.5")) / 1_000_000
    assert message.request == HELLO["messages"]


STREAMS = {
    "text": ([chunk({"content": "Hel"}), chunk({"content": "lo"}), chunk({}, "stop")], [("text", "Hello")], "end_turn"),
    "reasoning, then text": (
        [chunk({"reasoning_content": "Hm"}), chunk({"content": "A"}), chunk({}, "length")],
        [("thinking", "Hm"), ("text", "A")],
        "max_tokens",
    ),
    "parallel calls, interleaved": (
        [
            chunk({"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "a", "arguments": ""}}]}),
            chunk({"tool_calls": [{"index": 1, "id": "c1", "function": {"name": "b", "arguments": "{"}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x":1}'}}]}),
            chunk({"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]}),
            chunk({}, "tool_calls"),
        ],
        [("tool_use", '{"x":1}'), ("tool_use", "{}")],
        "tool_use",
    ),
    "refused": ([chunk({"refusal": "No."}), chunk({}, "content_filter")], [("text", "No.")], "refusal"),
}  # fmt: skip


@pytest.mark.parametrize("case", STREAMS)
def test_streams_are_translated(
    case: str, call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    pieces, expected, reason = STREAMS[case]
    fake.will(stream([*pieces, chunk(None, usage=usage(100, 20)), "[DONE]"]))
    events = named_events(call(stream=True).data)
    assert [events[0]["type"], *(each["type"] for each in events[-2:])] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    blocks: list[list[str]] = []
    opened: int | None = None
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert opened is None
                assert event["index"] == len(blocks)
                opened = event["index"]
                blocks.append([event["content_block"]["type"], ""])
            case "content_block_delta":
                assert event["index"] == opened
                delta = event["delta"]
                blocks[-1][1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
                if delta["type"] == "signature_delta":
                    assert delta["signature"].startswith(PREFIX)
            case "content_block_stop":
                assert event["index"] == opened
                opened = None
    assert opened is None
    assert [(kind, text) for kind, text in blocks] == expected
    assert events[-2]["delta"]["stop_reason"] == reason
    assert events[-2]["usage"]["output_tokens"] == 20
    assert facts.call().state == "settled"


def test_a_cut_stream_ends_with_an_error_and_bills_what_came(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(stream([chunk({"content": "Hello"}), chunk({"content": " there"})], cut_after=2))
    events = named_events(call(stream=True).data)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    assert "message_delta" not in [event["type"] for event in events]
    settled = facts.call()
    assert settled.state == "settled"
    assert facts.messages()[0].cost > 0


def test_an_error_in_the_stream_has_the_clients_form(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(
        stream(
            [
                chunk({"content": "Hi"}),
                {"error": {"message": "Overloaded.", "type": "overloaded_error", "code": 529}},
            ]
        )
    )
    events = named_events(call(stream=True).data)
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "Overloaded."}


def test_reasoning_comes_back_to_the_provider_that_wrote_it(
    call: Callable[..., Any], fake: FakeUpstream
) -> None:
    encrypted = {"type": "reasoning.encrypted", "data": "QUJD", "id": "rs_1", "format": "openai-responses-v1"}
    fake.will(answer(completion("A", usage())), answer())
    message = completion("A", usage())
    message["choices"][0]["message"] |= {"reasoning_details": [encrypted]}
    fake.will(answer(message), answer(completion("B", usage())))
    first = call().json["content"]
    assert first[0]["type"] == "thinking"
    call(
        messages=[
            *HELLO["messages"],
            {"role": "assistant", "content": first},
            {"role": "user", "content": "On."},
        ]
    )
    # a vendor's own server gets no such key; in normal form it is complete
    conversation = read_messages({"messages": [{"role": "assistant", "content": first}]})
    assert write_chat(conversation)["messages"][0]["reasoning_details"] == [{**encrypted, "index": 0}]


# -- Anthropic itself ----------------------------------------------------------------------------------------


def test_a_stream_of_anthropics_is_passed_on(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    sent = native(START, *TEXT, *END)
    fake.will(answer(sent, headers={"Content-Type": "text/event-stream"}))
    body = {
        "context_management": {"edits": []},
        "system": [{"type": "text", "text": "x-anthropic-billing-header: cc=1"}],
        "unknown_key": {"a": 1},
    }
    found = call({"anthropic-beta": "new-thing-2026-11-01"}, model=CLAUDE, stream=True, **body)
    assert named_events(found.data) == named_events(sent)
    request = fake.requests[-1]
    assert request.path == "/anthropic/messages"
    assert request.body == {**HELLO, **body, "model": "claude-sonnet-4-5", "stream": True}
    assert request.headers["anthropic-beta"] == "new-thing-2026-11-01"
    assert request.headers["x-api-key"] == "sk-operator-anthropic"
    assert "authorization" not in request.headers
    assert facts.call().state == "settled"
    (message,) = facts.messages()
    assert (message.input_tokens, message.cache_read_input_tokens, message.cache_creation_input_tokens) == (
        3500,
        2000,
        500,
    )
    assert message.output_tokens == 40
    # $3, $0.30, $3.75 and $15 per million tokens
    assert message.cost == Decimal("0.003") + Decimal("0.0006") + Decimal("0.001875") + Decimal("0.0006")


def test_a_whole_message_is_passed_on(call: Callable[..., Any], fake: FakeUpstream, facts: Facts) -> None:
    message = {**START["message"], "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}  # type: ignore[dict-item]
    fake.will(answer(message))
    assert call(model=CLAUDE).json == message
    assert facts.messages()[0].output_tokens == 1


def test_a_cut_stream_of_anthropics_bills_its_input(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(stream([native(START), native(TEXT[0]), native(TEXT[1])], cut_after=3))
    events = named_events(call(model=CLAUDE, stream=True).data)
    assert events[-1]["type"] == "error"
    facts.call()
    (billed,) = facts.messages()
    assert (billed.input_tokens, billed.cache_read_input_tokens) == (3500, 2000)


ERRORS = [
    (
        400,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 1 > 0"}},
        400,
    ),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529),
    (413, {"type": "error", "error": {"type": "request_too_large", "message": "Too large"}}, 413),
]


@pytest.mark.parametrize(("status", "body", "expected"), ERRORS, ids=[str(status) for status, _, _ in ERRORS])
@pytest.mark.parametrize("streamed", [False, True])
def test_anthropics_errors_keep_their_words(
    call: Callable[..., Any],
    fake: FakeUpstream,
    facts: Facts,
    status: int,
    body: Any,
    expected: int,
    streamed: bool,
) -> None:
    fake.will(answer(body, status))
    found = call(model=CLAUDE, stream=streamed)
    assert found.status_code == expected
    assert found.json["error"] == body["error"]
    assert facts.call().state == "failed"


REFUSED_TOOLS = ["code_execution_20250825", "advisor_20260301"]


@pytest.mark.parametrize("kind", REFUSED_TOOLS)
def test_tools_without_a_price_are_refused_by_name(
    call: Callable[..., Any], fake: FakeUpstream, kind: str
) -> None:
    refused = call(model=CLAUDE, tools=[{"type": kind, "name": "x"}])
    assert refused.status_code == 400
    assert kind in refused.json["error"]["message"]
    assert not fake.requests


def test_tools_of_anthropics_are_left_out_for_others_and_named(call: Callable[..., Any]) -> None:
    found = call(
        tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}], context_management={"edits": []}
    )
    assert found.status_code == 200
    assert found.headers["X-Stoa-Dropped"] == "tools: web_search_20250305, context_management"


# -- the caller ----------------------------------------------------------------------------------------------


def test_who_calls_is_checked_first(web: FlaskClient, session: Any, mallory: Person) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        for headers in ({}, {"x-api-key": "cb-pat-" + "0" * 64}):
            refused = web.post(path, data=b"{", headers=headers)
            assert refused.status_code == 401
            assert refused.json["error"]["type"] == "authentication_error"
    poor = web.post(
        "/v1/messages", json=HELLO, headers={"x-api-key": mallory.headers["authorization"].split()[1]}
    )
    assert poor.status_code in (200, 402)


def test_a_call_without_credits_says_where_to_get_some(web: FlaskClient, session: Any, alice: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 1)
    refused = web.post("/v1/messages", json={**HELLO, "max_tokens": 1_000_000, "messages": [{"role": "user", "content": "x" * 900_000}]}, headers=alice.headers)  # fmt: skip
    assert refused.status_code == 402
    assert refused.json["error"]["type"] == "billing_error"


def test_tokens_are_counted_for_free(
    web: FlaskClient, rich: Person, fake: FakeUpstream, facts: Facts
) -> None:
    body = {"model": MODEL, "messages": HELLO["messages"]}
    counted = web.post("/v1/messages/count_tokens", json=body, headers=rich.headers).json
    assert 3 < counted["input_tokens"] < 20
    fake.will(answer({"input_tokens": 77}))
    exact = web.post("/v1/messages/count_tokens", json={**body, "model": CLAUDE}, headers=rich.headers)
    assert exact.json == {"input_tokens": 77}
    assert fake.requests[-1].path == "/anthropic/messages/count_tokens"
    fake.will(answer({"error": {"message": "no"}}, 500))
    estimated = web.post("/v1/messages/count_tokens", json={**body, "model": CLAUDE}, headers=rich.headers)
    assert estimated.json["input_tokens"] > 3
    unknown = web.post(
        "/v1/messages/count_tokens", json={**body, "model": "nobody/nothing:x"}, headers=rich.headers
    )
    assert unknown.status_code in (200, 404)
    assert facts.calls() == []


def test_readers_and_writers_of_answers_agree() -> None:
    message = {
        "role": "assistant",
        "content": "A",
        "reasoning_content": "Hm",
        "tool_calls": [CALL],
    }
    built = AnswerBuilder()
    for event in ChatAnswerReader().read_whole(
        {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    ):
        built.add(event)
    written = message_body("msg_1", "m", built.answer(), None)
    assert [block["type"] for block in written["content"]] == ["thinking", "text", "tool_use"]
    assert written["content"][2] == USE
    again = AnswerBuilder()
    for event in MessagesAnswerReader().read_whole(written):
        again.add(event)
    assert [type(part) for part in again.answer().parts] == [type(part) for part in built.answer().parts]


def test_a_whole_answer_is_collected_and_ends_with_the_credits(
    web: FlaskClient, alice: Person, fake: FakeUpstream, facts: Facts
) -> None:
    """The limit costs more than the account has; what is said costs less."""
    assert alice.user is not None
    factories.grant(alice.user, 50)
    fake.will(
        stream([chunk({"content": "Hi."}), chunk({}, "stop"), chunk(None, usage=usage(10, 5)), "[DONE]"])
    )
    found = web.post("/v1/messages", json={**HELLO, "max_tokens": 500_000}, headers=alice.headers)
    assert found.status_code == 200
    assert found.json["content"] == [{"type": "text", "text": "Hi."}]
    assert fake.requests[-1].body["stream"] is True
    assert facts.call().state == "settled"
