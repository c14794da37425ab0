"""Google's Gemini API: translated for providers of another format, passed on to Google, billed alike."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway.conversation import AnswerBuilder
from models.gateway.formats.chat_answer import ChatAnswerReader
from models.gateway.formats.chat_request import read_chat, write_chat
from models.gateway.formats.gemini_answer import GeminiAnswerReader, gemini_body
from models.gateway.formats.gemini_parsing import camel_case, parse_gemini
from models.gateway.formats.gemini_request import read_gemini, write_gemini
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunk, completion, stream, usage
from tests.gateway.conftest import Facts, events

MODEL = "openai/house-model"
GEMINI = "gemini-2.5-flash"
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}
TOOLS = [
    {
        "functionDeclarations": [
            {
                "name": "ls",
                "description": "List",
                "parameters": {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": True}}},
            }
        ]
    }
]
SCHEMA = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}


@pytest.fixture
def call(web: FlaskClient, rich: Person) -> Callable[..., Any]:
    """Call a method of a model; keywords are merged into an ordinary body."""

    def post(method: str = "generateContent", model: str = MODEL, **changes: Any) -> Any:
        query = "?alt=sse" if method.startswith("stream") else ""
        key = rich.headers["authorization"].split()[1]
        return web.post(
            f"/v1beta/models/{model}:{method}{query}",
            json={**HELLO, **changes},
            headers={"x-goog-api-key": key},
        )

    return post


CALLS = [
    {"role": "user", "parts": [{"text": "Hi"}, {"inline_data": {"mime_type": "image/png", "data": "iVBO"}}]},
    {
        "role": "model",
        "parts": [
            {"text": "Hm", "thought": True, "thoughtSignature": "s1"},
            {"text": "I look."},
            {"functionCall": {"name": "ls", "args": {"a": "x"}}, "thoughtSignature": "s2"},
            {"functionCall": {"name": "ls", "args": {"a_b": "y"}}},
        ],
    },
    {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "ls", "response": {"output": "one"}}},
            {"functionResponse": {"name": "ls", "response": {"n": 2}}},
        ],
    },
]


def test_a_conversation_is_translated() -> None:
    parsed = parse_gemini({"contents": CALLS}, "m", 100, stream=False)
    messages = write_chat(read_gemini(parsed.body))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,iVBO"},
    }
    first, second = messages[1]["tool_calls"]
    assert first["extra_content"] == {"google": {"thought_signature": "s2"}}
    # the client's own keys are not ours to spell
    assert json.loads(second["function"]["arguments"]) == {"a_b": "y"}
    assert [first["id"], second["id"]] == [messages[2]["tool_call_id"], messages[3]["tool_call_id"]]
    assert [messages[2]["content"], messages[3]["content"]] == ["one", '{"n":2}']
    assert "Hm" not in str(messages[1]["content"])


def test_a_conversation_survives_the_way_there_and_back() -> None:
    parsed = parse_gemini({"contents": CALLS, "tools": TOOLS}, "m", 100, stream=False)
    conversation = read_gemini(parsed.body)
    again = read_gemini(write_gemini(read_chat({"model": "m", **write_chat(conversation)})))
    kinds = [[type(part) for part in message.parts] for message in conversation.messages]
    assert [[type(part) for part in message.parts] for message in again.messages] == kinds
    assert again.messages[1].parts[0] == conversation.messages[1].parts[0]
    assert again.messages[1].parts[2].signature == "s2"
    assert again.tools == conversation.tools


KEYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limits": (
        {"generation_config": {"max_output_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["E"]}},
        {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop": ["E"]},
    ),
    "system": (
        {"systemInstruction": {"parts": [{"text": "Be brief."}]}},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]},
    ),
    "tools": (
        {"tools": TOOLS, "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["ls"]}}},
        {
            "tools": [{"type": "function", "function": {"name": "ls", "description": "List", "parameters": SCHEMA}}],
            "tool_choice": {"type": "function", "function": {"name": "ls"}},
        },
    ),
    "a budget": ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 100}}}, {"reasoning": {"max_tokens": 100}}),
    "no thinking": ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, {"reasoning": {"enabled": False}}),
    "a level": ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH"}}}, {"reasoning": {"effort": "high"}}),
    "a schema": (
        {"generationConfig": {"responseMimeType": "application/json", "responseSchema": TOOLS[0]["functionDeclarations"][0]["parameters"]}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_keys_are_translated(case: str) -> None:
    given, expected = KEYS[case]
    conversation = read_gemini(parse_gemini({**HELLO, **given}, "m", 100, stream=False).body)
    body = write_chat(conversation)
    assert {key: body.get(key) for key in expected} == expected
    assert conversation.left_out == []


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"contents": []}, "'contents' must be a list"),
    ({"contents": [3]}, "'contents[0]' must be an object"),
    ({"contents": [{"parts": "x"}]}, "must be a list of objects"),
    ({"contents": [{"parts": [{"text": 3}]}]}, "must be a string"),
    ({"generationConfig": {"candidateCount": 2}}, "'candidateCount' must be 1"),
    ({"generationConfig": {"maxOutputTokens": -1}}, "'maxOutputTokens' must be"),
    ({"tools": "x"}, "'tools' must be a list"),
    ({"generationConfig": 3}, "'generationConfig' must be an object"),
]


@pytest.mark.parametrize(("changes", "text"), INVALID, ids=[text for _, text in INVALID])
def test_invalid_bodies_are_refused(
    call: Callable[..., Any], fake: FakeUpstream, changes: Any, text: str
) -> None:
    refused = call(**changes)
    assert refused.status_code == 400
    assert (refused.json["error"]["code"], refused.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert text in refused.json["error"]["message"]
    assert not fake.requests


def test_a_whole_answer_is_translated_and_billed(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(answer(completion("Hi.", usage(1000, 200, completion_tokens_details={"reasoning_tokens": 50}))))
    found = call().json
    assert found["candidates"][0] == {
        "content": {"parts": [{"text": "Hi."}], "role": "model"},
        "index": 0,
        "finishReason": "STOP",
    }
    assert found["usageMetadata"] == {
        "promptTokenCount": 1000,
        "candidatesTokenCount": 150,
        "thoughtsTokenCount": 50,
        "totalTokenCount": 1200,
    }
    assert (facts.call().door, facts.call().state) == ("gemini", "settled")


def test_a_stream_is_translated(call: Callable[..., Any], fake: FakeUpstream, facts: Facts) -> None:
    pieces = [
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "ls", "arguments": '{"a"'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        chunk({}, "tool_calls"),
    ]
    fake.will(stream([*pieces, chunk(None, usage=usage(100, 20)), "[DONE]"]))
    found = events(call("streamGenerateContent").data)
    parts = [part for each in found for part in each["candidates"][0]["content"]["parts"]]
    assert parts == [
        {"text": "Hel"},
        {"text": "lo"},
        {"functionCall": {"id": "c0", "name": "ls", "args": {"a": 1}}},
    ]
    assert found[-1]["candidates"][0]["finishReason"] == "STOP"
    assert found[-1]["usageMetadata"]["totalTokenCount"] == 120
    assert facts.call().state == "settled"


def test_a_cut_stream_ends_with_an_error(call: Callable[..., Any], fake: FakeUpstream, facts: Facts) -> None:
    fake.will(stream([chunk({"content": "Hello"}), chunk({"content": "!"})], cut_after=2))
    found = events(call("streamGenerateContent").data)
    assert found[-1]["error"]["status"] == "INTERNAL"
    assert facts.call().state == "settled"


# -- Google itself -------------------------------------------------------------------------------------------


@pytest.fixture
def google(web: FlaskClient, fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider has Google's own API beside the compatible one."""
    provider = web.application.extensions["gateway"].routes.providers["gemini"]
    endpoint = type(provider.endpoint)(f"{fake.url}/v1beta/openai", "sk-operator-gemini")
    monkeypatch.setattr(provider, "endpoint", endpoint)


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    counts = {"promptTokenCount": 1000, "cachedContentTokenCount": 400, "candidatesTokenCount": 30, "thoughtsTokenCount": 20, "totalTokenCount": 1050}  # fmt: skip
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": GEMINI, "responseId": "r1"}


def test_a_stream_of_googles_is_passed_on(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts, google: None
) -> None:
    fake.will(stream([piece("Hel"), piece("lo", "STOP")]))
    found = call("streamGenerateContent", GEMINI, safetySettings=[], madeUp={"a": 1})
    assert events(found.data) == [piece("Hel"), piece("lo", "STOP")]
    request = fake.requests[-1]
    assert request.path == f"/v1beta/models/{GEMINI}:streamGenerateContent?alt=sse"
    assert request.body == {**HELLO, "safetySettings": [], "madeUp": {"a": 1}}
    assert request.headers["x-goog-api-key"] == "sk-operator-gemini"
    assert facts.call().state == "settled"
    (message,) = facts.messages()
    assert (message.input_tokens, message.cache_read_input_tokens, message.output_tokens) == (1000, 400, 50)


def test_a_whole_answer_of_googles_is_passed_on(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts, google: None
) -> None:
    fake.will(answer(piece("Hello", "STOP")))
    limited = {"generationConfig": {"maxOutputTokens": 100}}
    assert call(model=GEMINI, **limited).json == piece("Hello", "STOP")
    assert fake.requests[-1].path == f"/v1beta/models/{GEMINI}:generateContent"
    assert facts.messages()[0].output_tokens == 50


def test_a_whole_answer_without_a_limit_is_collected_from_a_stream(
    call: Callable[..., Any], fake: FakeUpstream, facts: Facts, google: None
) -> None:
    fake.will(stream([piece("Hel"), piece("lo"), piece("!", "STOP")]))
    assert call(model=GEMINI).json == piece("Hello!", "STOP")
    assert fake.requests[-1].path == f"/v1beta/models/{GEMINI}:streamGenerateContent?alt=sse"
    assert facts.messages()[0].output_tokens == 50


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"googleSearch": {}}]}, "googleSearch"),
    ({"cachedContent": "cachedContents/1"}, "cachedContent"),
    (
        {"contents": [{"parts": [{"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/a"}}]}]},
        "fileData",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_has_no_price_or_belongs_to_others_is_refused_by_name(
    call: Callable[..., Any], fake: FakeUpstream, google: None, changes: dict[str, Any], text: str
) -> None:
    refused = call(model=GEMINI, **changes)
    assert refused.status_code == 400
    assert text in refused.json["error"]["message"]
    assert not fake.requests


# -- the address and the caller ------------------------------------------------------------------------------


def test_addresses_say_what_is_missing(call: Callable[..., Any], web: FlaskClient, rich: Person) -> None:
    assert call("embedContent").status_code == 404
    assert (
        "alt=sse"
        in web.post(f"/v1beta/models/{MODEL}:streamGenerateContent", json=HELLO, headers=rich.headers).text
    )


def test_who_calls_is_checked_first(web: FlaskClient, session: Any) -> None:
    for method in ("generateContent", "countTokens"):
        for headers in ({}, {"x-goog-api-key": "cb-pat-" + "0" * 64}):
            refused = web.post(f"/v1beta/models/{MODEL}:{method}", data=b"{", headers=headers)
            assert (refused.status_code, refused.json["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert web.get("/v1beta/models").status_code == 401


def test_tokens_are_counted_and_models_listed(
    call: Callable[..., Any], web: FlaskClient, rich: Person
) -> None:
    assert 3 < call("countTokens").json["totalTokens"] < 20
    listed = web.get("/v1beta/models", headers=rich.headers).json["models"]
    assert f"models/{MODEL}" in [model["name"] for model in listed]


def test_what_is_written_is_read_back() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    message = {"content": "A", "reasoning_content": "Hm", "tool_calls": [call]}
    built, again = AnswerBuilder(), AnswerBuilder()
    for event in ChatAnswerReader().read_whole({"choices": [{"message": message, "finish_reason": "stop"}]}):
        built.add(event)
    for event in GeminiAnswerReader().read_whole(gemini_body("r", "m", built.answer(), None)):
        again.add(event)
    assert [type(part) for part in again.answer().parts] == [type(part) for part in built.answer().parts]


def test_only_our_keys_are_spelled() -> None:
    given = {
        "system_instruction": {"parts": []},
        "tools": [{"function_declarations": [{"parameters": {"a_b": 1}}]}],
    }
    assert camel_case(given) == {
        "systemInstruction": {"parts": []},
        "tools": [{"functionDeclarations": [{"parameters": {"a_b": 1}}]}],
    }
