"""What a client sends reaches the provider, and what does not is named."""

from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient

from models.gateway.pricing import Prices
from models.gateway.providers.base import Endpoint
from models.gateway.routing import Route, Routes
from models.gateway.upstream import HttpUpstream, Patience
from models.gateway.wire.chat import parse
from models.settings import Settings
from tests.factories import Person
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
OURS = {"codebuff_metadata": {"client_id": "c"}}


@pytest.mark.parametrize("door", ["/v1/chat/completions", "/api/v1/chat/completions"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_server_of_the_operators_is_sent_everything(
    web: FlaskClient, fake: FakeUpstream, body: dict[str, Any], rich: Person, door: str, streaming: bool
) -> None:
    asked = {**body, **KEYS, "model": "openai/house-model", "messages": HISTORY, "stream": streaming}
    answer = web.post(door, json=asked, headers=rich.headers)
    assert answer.status_code == 200
    assert "X-Stoa-Dropped" not in answer.headers
    sent = fake.requests[0].body
    assert sent.pop("stream") is streaming
    assert sent.pop("stream_options", None) == ({"include_usage": True} if streaming else None)
    assert sent == {"model": "house-model", "messages": HISTORY, **KEYS}


@pytest.mark.parametrize("door", ["/v1/chat/completions", "/api/v1/chat/completions"])
@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_provider_refuses_is_left_out_and_named(
    web: FlaskClient, fake: FakeUpstream, body: dict[str, Any], rich: Person, door: str, streaming: bool
) -> None:
    asked = {
        **body,
        **KEYS,
        "model": "google/gemini-2.5-flash",
        "messages": HISTORY,
        "stream": streaming,
        "logit_bias": {"1": 2},
    }
    answer = web.post(door, json=asked, headers=rich.headers)
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
    routes = Routes(settings, Prices())
    provider = type(routes.direct[kind])(Endpoint(base_url, "sk"), HttpUpstream("Nobody", Patience(1, 1, 1)))
    body = {"messages": HISTORY, **OURS, **keys}
    call = parse(body, 100)
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
    keys = {**KEYS, "reasoning": {"max_tokens": 2000}, "n": 3}
    body, dropped = sent(settings, "https://api.anthropic.com/v1", 1, model="claude-sonnet-4-5", **keys)
    assert dropped == {*REFUSED, "n"}
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    _, dropped = sent(settings, "https://api.anthropic.com/v1", 1, model="claude-sonnet-4-5", n=1)
    assert dropped == {"cache_control", "reasoning_content", "reasoning_details"}


def test_what_is_null_is_not_missed(settings: Settings) -> None:
    _, dropped = sent(settings, "https://api.openai.com/v1", 0, model="gpt-4o", min_p=None, usage=None)
    assert dropped == {"cache_control", "reasoning_content", "reasoning_details"}
