"""Request keys reach the provider; those left out are named in `X-Stoa-Dropped`."""

from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient

from models.core.settings import Settings
from models.gateway.chat_format.chat_parsing import parse
from models.gateway.dialects.chat import ChatDialect
from models.gateway.pricing import PriceTable
from models.gateway.providers.provider import Endpoint
from models.gateway.route import Route
from models.gateway.routing import Router
from models.gateway.upstream import HttpUpstream, UpstreamTimeouts
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.test_price_keys import PRICE

HISTORY = [
    {"role": "user", "content": "How much is 2 + 2?"},
    {
        "role": "assistant",
        "content": "4",
        "reasoning_content": "Two and two.",
        "reasoning_details": [{"type": "reasoning.text", "text": "Two and two."}],
    },
    {"role": "user", "content": [{"type": "text", "text": "And 3?", "cache_control": {"type": "ephemeral"}}]},
]
KEYS = {
    "min_p": 0.1,
    "top_k": 40,
    "top_a": 0.2,
    "repetition_penalty": 1.1,
    "service_tier": "flex",
    "transforms": ["middle-out"],
    "provider": {"sort": "price"},
    "usage": {"include": True},
    "reasoning": {"effort": "low"},
    "chat_template_kwargs": {"enable_thinking": True},
    "stop": ["x"],
}
STOA_KEYS = {"codebuff_metadata": {"client_id": "c"}}


@pytest.mark.parametrize("door", ["/v1/chat/completions", "/api/v1/chat/completions"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_server_of_the_operators_is_sent_everything(
    web: FlaskClient, fake: FakeUpstream, body: dict[str, Any], rich: Person, door: str, streaming: bool
) -> None:
    payload = {**body, **KEYS, "model": "openai/house-model", "messages": HISTORY, "stream": streaming}
    answer = web.post(door, json=payload, headers=rich.headers)
    assert answer.status_code == 200
    assert "X-Stoa-Dropped" not in answer.headers
    sent = fake.requests[0].body
    # whole answers without a low limit are read as streams, too
    assert sent.pop("stream") is True
    assert sent.pop("stream_options") == {"include_usage": True}
    assert sent == {"model": "house-model", "messages": HISTORY, **KEYS}


@pytest.mark.parametrize("door", ["/v1/chat/completions", "/api/v1/chat/completions"])
@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_provider_refuses_is_left_out_and_named(
    web: FlaskClient, fake: FakeUpstream, body: dict[str, Any], rich: Person, door: str, streaming: bool
) -> None:
    payload = {
        **body,
        **KEYS,
        "model": "google/gemini-2.5-flash",
        "messages": HISTORY,
        "stream": streaming,
        "logit_bias": {"1": 2},
    }
    answer = web.post(door, json=payload, headers=rich.headers)
    assert answer.status_code == 200
    dropped = answer.headers["X-Stoa-Dropped"].split(", ")
    assert sorted(dropped) == [
        "cache_control",
        "logit_bias",
        "min_p",
        "provider",
        "reasoning_content",
        "reasoning_details",
        "repetition_penalty",
        "top_a",
        "top_k",
        "transforms",
        "usage",
    ]
    sent = fake.requests[0].body
    assert not set(dropped) & set(sent)
    assert sent["reasoning_effort"] == "low"
    assert sent["service_tier"] == "flex"
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}
    assert sent["messages"][1] == {"role": "assistant", "content": "4"}
    assert sent["messages"][2]["content"] == [{"type": "text", "text": "And 3?"}]


def sent(settings: Settings, base_url: str, kind: int, **keys: Any) -> tuple[dict[str, Any], set[str]]:
    routes = Router(settings, PriceTable())
    provider = type(routes.direct[kind])(
        Endpoint(base_url, "sk"), HttpUpstream("Nobody", UpstreamTimeouts(1, 1, 1))
    )
    body = {"messages": HISTORY, **STOA_KEYS, **keys}
    call = parse(body, 100)
    call = ChatDialect().adapt(call, provider)
    route, request = routes.prepare(Route(provider, call.model, call.model, PRICE), call)
    return orjson.loads(request.body), set(route.dropped)


REFUSED = {
    "min_p",
    "top_k",
    "top_a",
    "repetition_penalty",
    "transforms",
    "provider",
    "usage",
    "cache_control",
    "reasoning_content",
    "reasoning_details",
}


def test_openai_itself(settings: Settings) -> None:
    body, dropped = sent(settings, "https://api.openai.com/v1", 0, model="gpt-4o-mini", **KEYS)
    assert dropped == {*REFUSED, "reasoning"}
    assert set(body) == {"model", "messages", "service_tier", "chat_template_kwargs", "stop", "stream"}


def test_openais_reasoning_models(settings: Settings) -> None:
    body, dropped = sent(settings, "https://api.openai.com/v1", 0, model="gpt-5", max_tokens=9, **KEYS)
    assert dropped == {*REFUSED, "stop"}
    assert (body["max_completion_tokens"], body["reasoning_effort"]) == (9, "low")
    assert "max_tokens" not in body


def test_openais_reasoning_models_elsewhere(settings: Settings) -> None:
    body, dropped = sent(settings, "https://azure.example/v1", 0, model="gpt-5", max_tokens=9, **KEYS)
    # contract 5.4
    assert dropped == {"stop", "usage", "provider", "transforms"}
    assert (body["max_completion_tokens"], body["reasoning_effort"], body["min_p"]) == (9, "low", 0.1)
    assert body["messages"] == HISTORY


@pytest.mark.parametrize(
    "base_url",
    ["https://api.deepseek.com/v1", "https://api.x.ai/v1", "http://api.openai.com.evil.example/v1"],
)
def test_others_are_not_openai(settings: Settings, base_url: str) -> None:
    body, dropped = sent(settings, base_url, 0, model="deepseek-reasoner", **KEYS)
    assert dropped == set()
    assert body == {"model": "deepseek-reasoner", "messages": HISTORY, "stream": False, **KEYS}


def test_anthropic(settings: Settings) -> None:
    keys = {**KEYS, "reasoning": {"max_tokens": 2000}, "n": 3, "service_tier": None}
    body, dropped = sent(settings, "https://api.anthropic.com/v1", 1, model="claude-sonnet-4-5", **keys)
    # its reasoning excludes them
    assert dropped == {*REFUSED, "n", "chat_template_kwargs"} - {"cache_control"} - REASONING
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert (body["stop_sequences"], body["max_tokens"]) == (["x"], 64_000)
    assert body["messages"][-1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    body, dropped = sent(
        settings, "https://api.anthropic.com/v1", 1, model="claude-sonnet-4-5", n=1, max_tokens=9, top_k=5
    )
    assert (dropped, body["max_tokens"], body["top_k"]) == (set(), 9, 5)


REASONING = {"reasoning_content", "reasoning_details"}


def test_null_keys_are_dropped_silently(settings: Settings) -> None:
    _, dropped = sent(settings, "https://api.openai.com/v1", 0, model="gpt-4o", min_p=None, usage=None)
    assert dropped == {"cache_control", "reasoning_content", "reasoning_details"}


# -- byte for byte -------------------------------------------------------------------------------------------

ANY = [
    "openai/house-model",
    "gpt-4o-mini",
    "gemini-2.5-flash",
    "openrouter/openai/gpt-4o-mini",
]
TOOL_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"b": 1, "a": 1.0}'},
    "extra_content": {"google": {"thought_signature": "c2ln"}},
}
LETTERS: list[tuple[str, str]] = [
    ('"seed": 9007199254740993', '"seed":9007199254740993'),
    ('"seed": 18446744073709551615', '"seed":18446744073709551615'),
    ('"seed": -9223372036854775808', '"seed":-9223372036854775808'),
    ('"temperature": 1.0', '"temperature":1.0'),
    ('"temperature": 1', '"temperature":1,'),
    ('"top_p": 0.1', '"top_p":0.1'),
    ('"user": null', '"user":null'),
    ('"unknown": {"b": [null, {"a": ""}], "": 0}', '"unknown":{"b":[null,{"a":""}],"":0}'),
    ('"zz": 1, "aa": 2', '"zz":1,"aa":2'),
    ('"max_tokens": 1, "max_tokens": 5', '"max_tokens":5'),
    ('"\\u0075ser": "\\u00e9\\ud83d\\ude00\\u0000"', '"user":"é😀\\u0000"'),
    ('"user": "\\ud800"', '"user":"\ufffd"'),
    ('"a\\r\\nX-Evil: 1": "\\r\\nX-Evil: 1"', '"a\\r\\nX-Evil: 1":"\\r\\nX-Evil: 1"'),
    ('"\u65e5": "\u672c"', '"\u65e5":"\u672c"'),
]  # fmt: skip


@pytest.mark.parametrize("model", ANY)
@pytest.mark.parametrize(("said", "heard"), LETTERS)
def test_json_values_reach_the_provider(
    web: FlaskClient, fake: FakeUpstream, rich: Person, model: str, said: str, heard: str
) -> None:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "x"}}], {said}}}'
    answer = web.post("/v1/chat/completions", data=body.encode(), headers=rich.headers)
    assert answer.status_code == 200
    assert heard in fake.requests[0].raw.decode()
    assert "X-Evil" not in answer.headers
    assert "X-Stoa-Dropped" not in answer.headers


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "01", "0x1", "1."])
def test_invalid_numbers_are_refused(web: FlaskClient, fake: FakeUpstream, rich: Person, number: str) -> None:
    body = f'{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "x"}}], "seed": {number}}}'
    answer = web.post("/v1/chat/completions", data=body, headers=rich.headers)
    assert (answer.status_code, fake.requests) == (400, [])
    assert "not valid JSON" in answer.json["error"]["message"]


@pytest.mark.parametrize("model", ANY)
def test_nested_values_are_sent(web: FlaskClient, fake: FakeUpstream, rich: Person, model: str) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "x", "unknown": {"a": None}}], "unknown": 1},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "call_1", "content": "4", "unknown": [1.0]},
    ]
    schema = {"type": "object", "x-order": [2, 1], "properties": {"b": {}, "a": {"default": None}}}
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": schema, "strict": None}, "unknown": 1}
    ]
    body = {"model": model, "messages": messages, "tools": tools}
    answer = web.post("/v1/chat/completions", data=orjson.dumps(body), headers=rich.headers)
    assert answer.status_code == 200
    sent = fake.requests[0].raw
    assert orjson.dumps(messages) in sent
    assert orjson.dumps(tools) in sent
    assert "X-Stoa-Dropped" not in answer.headers


@pytest.mark.parametrize("door", ["/v1/chat/completions", "/api/v1/chat/completions"])
@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (fakes.answer({"error": {"message": "Bad."}}, 400), 400),
        (fakes.answer({"error": {"message": "Slow down."}}, 429, {"Retry-After": "7"}), 429),
        (fakes.answer({"error": {"message": "Who?"}}, 401), 502),
        (fakes.answer(b"", 500), 500),
        (fakes.hang_up, 502),
        (fakes.answer(b"<html>"), 502),
    ],
)
def test_errors_say_what_was_left_out_too(
    web: FlaskClient,
    fake: FakeUpstream,
    body: dict[str, Any],
    rich: Person,
    door: str,
    behaviour: Any,
    status: int,
) -> None:
    fake.will(behaviour)
    payload = {**body, "model": "gemini-2.5-flash", "min_p": 0.1, "top_k": 5}
    answer = web.post(door, json=payload, headers={**rich.headers, "Origin": "https://app.example"})
    assert answer.status_code == status
    assert answer.headers["X-Stoa-Dropped"] == "min_p, top_k"
    assert "X-Stoa-Dropped" in answer.headers["Access-Control-Expose-Headers"].split(", ")


@pytest.mark.parametrize("model", ["openai/house-model", "gemini-2.5-flash", "openrouter/openai/gpt-4o-mini"])
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 100}])
def test_stream_options_without_a_stream_are_named(
    web: FlaskClient, fake: FakeUpstream, rich: Person, model: str, limit: dict[str, int]
) -> None:
    body = {"model": model, "messages": HISTORY[:1], **limit, "stream_options": {"x": True}}
    answer = web.post("/v1/chat/completions", json=body, headers=rich.headers)
    assert answer.headers["X-Stoa-Dropped"] == "stream_options"
    assert "x" not in (fake.requests[0].body.get("stream_options") or {})
    body["stream_options"] = None
    answer = web.post("/v1/chat/completions", json=body, headers=rich.headers)
    assert "X-Stoa-Dropped" not in answer.headers


def test_null_cache_control_and_reasoning_are_dropped_silently(settings: Settings) -> None:
    history = [
        {"role": "assistant", "content": "4", "reasoning_content": None, "reasoning": None, "name": None},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": None}]},
    ]
    tools = [{"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}]
    body, dropped = sent(
        settings, "https://api.openai.com/v1", 0, model="gpt-4o", **{"messages": history, "tools": None}
    )
    assert dropped == set()
    assert body["messages"] == [
        {"role": "assistant", "content": "4", "name": None},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
    ]
    body, dropped = sent(settings, "https://api.openai.com/v1", 0, model="gpt-4o", tools=tools)
    assert body["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert "cache_control" in dropped
