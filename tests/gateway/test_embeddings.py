"""`/v1/embeddings`: held by the size of the input, charged once by the reported usage, passed on as it is."""

import math
import struct
from base64 import b64encode
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream, answer
from tests.gateway.conftest import Facts

PATH = "/v1/embeddings"
MODEL = "text-embedding-3-large"
VECTOR = [0.5, -0.25, 1.0]
PACKED = b64encode(struct.pack("<3f", *VECTOR)).decode()


def vectors(embedding: Any = PACKED, use: Any = "default", **extra: Any) -> dict[str, Any]:
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": embedding}],
        "model": MODEL,
        **extra,
    }
    usage = {"prompt_tokens": 1_000_000, "total_tokens": 1_000_000} if use == "default" else use
    return body if usage is None else {**body, "usage": usage}


@pytest.mark.parametrize("path", [PATH, "/api/v1/embeddings"])
@pytest.mark.parametrize(
    "given",
    ["Hello", ["Hello", "there"], [1, 2, 3], [[1, 2], [3]]],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_an_embedding_is_passed_on_and_charged(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, given: Any, path: str
) -> None:
    fake.will(answer(vectors()))
    body = {"model": MODEL, "input": given, "encoding_format": "base64", "dimensions": 3, "novel": 1}
    got = web.post(path, json=body, headers=rich.headers)
    assert (got.status_code, got.json) == (200, vectors())
    assert fake.requests[0].path == "/openai/embeddings"
    assert fake.requests[0].body == body
    call = facts.call()
    assert (call.state, call.door, call.usage_source) == ("settled", "embeddings", "provider")
    # $0.13 per million tokens, and the margin of 5.5 %
    assert (call.cost, call.uncached_input_tokens, call.output_tokens) == (Decimal("0.13"), 1_000_000, 0)
    assert call.credits == 14
    (message,) = facts.messages()
    assert message.response == "1 embedding of 3 dimensions"
    stored = [each["content"] for each in message.request]
    assert stored[0] in ("Hello", "[3 tokens]", "[2 tokens]")


@pytest.mark.parametrize(
    ("asked", "sent", "received"),
    [
        ("base64", VECTOR, PACKED),
        ("base64", PACKED, PACKED),
        ("float", PACKED, VECTOR),
        (None, PACKED, VECTOR),
        (None, VECTOR, VECTOR),
        ("float", "no base64", "no base64"),
    ],
)
def test_vectors_have_the_requested_encoding(
    web: FlaskClient, fake: FakeUpstream, rich: Person, asked: str | None, sent: Any, received: Any
) -> None:
    fake.will(answer(vectors(sent)))
    body = {"model": MODEL, "input": "Hello", "encoding_format": asked}
    got = web.post(PATH, json=body, headers=rich.headers).json
    assert got["data"][0]["embedding"] == received


@pytest.mark.parametrize(
    ("use", "tokens", "source"),
    [
        ({"prompt_tokens": 7, "total_tokens": 7}, 7, "provider"),
        ({"total_tokens": 7}, 7, "provider"),
        ({"prompt_tokens": -7}, 2, "counted"),
        ({}, 2, "counted"),
        (None, 2, "counted"),
    ],
)
def test_missing_usage_is_counted(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, use: Any, tokens: int, source: str
) -> None:
    fake.will(answer(vectors(use=use)))
    assert (
        web.post(PATH, json={"model": MODEL, "input": "Hello there"}, headers=rich.headers).status_code == 200
    )
    call = facts.call()
    assert (call.uncached_input_tokens, call.usage_source) == (tokens, source)


def test_openrouters_cost_is_the_bill(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(answer(vectors(use={"prompt_tokens": 8, "total_tokens": 8, "cost": 0.02})))
    assert (
        web.post(PATH, json={"model": "baai/bge-m3", "input": "Hello"}, headers=rich.headers).status_code
        == 200
    )
    assert fake.requests[0].path == "/openrouter/embeddings"
    assert facts.call().cost == Decimal("0.02")


@pytest.mark.parametrize(
    ("path", "model", "code", "named"),
    [
        (PATH, "gpt-5", "model_wrong_route", "/v1/chat/completions"),
        (PATH, "stoa/demo", "model_wrong_route", "/v1/chat/completions"),
        (PATH, "gpt-realtime", "model_wrong_route", "/v1/embeddings"),
        ("/v1/chat/completions", MODEL, "model_not_chat", PATH),
        ("/v1/chat/completions", "stoa/demo-embeddings", "model_not_chat", PATH),
    ],
)
def test_a_model_on_the_wrong_route_is_sent_to_the_right_one(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    path: str,
    model: str,
    code: str,
    named: str,
) -> None:
    body = {"model": model, "input": "Hello", "messages": [{"role": "user", "content": "Hello"}]}
    got = web.post(path, json=body, headers=rich.headers)
    assert got.json["error"]["code"] == code
    assert named in got.json["error"]["message"]
    assert got.json["error"]["param"] == "model"
    assert (facts.holds(), fake.requests) == (0, [])


INVALID: list[tuple[Any, str | None]] = [
    ([], None),
    ({"model": MODEL}, "input"),
    ({"model": MODEL, "input": ""}, None),
    ({"model": MODEL, "input": []}, "input"),
    ({"model": MODEL, "input": [[]]}, "input"),
    ({"model": MODEL, "input": ["a", 1]}, "input"),
    ({"model": MODEL, "input": [1, 2**31]}, "input"),
    ({"model": MODEL, "input": [10**400]}, None),
    ({"model": MODEL, "input": [True]}, "input"),
    ({"model": MODEL, "input": [{"text": "a"}]}, "input"),
    ({"model": MODEL, "input": ["a"] * 2049}, "input"),
    ({"model": MODEL, "input": 7}, "input"),
    ({"input": "a"}, "model"),
    ({"model": 7, "input": "a"}, "model"),
    ({"model": "a\x00b", "input": "a"}, "model"),
    ({"model": MODEL, "input": "a", "encoding_format": "int8"}, "encoding_format"),
    ({"model": MODEL, "input": "a", "encoding_format": {}}, "encoding_format"),
    ({"model": MODEL, "input": "a", "dimensions": 0}, "dimensions"),
    ({"model": MODEL, "input": "a", "dimensions": 1e99}, "dimensions"),
]


def test_invalid_requests_are_refused_by_name(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(answer(vectors()))
    for body, param in INVALID:
        got = web.post(PATH, json=body, headers=rich.headers)
        if body == {"model": MODEL, "input": ""}:
            assert got.status_code == 200  # the provider's own check
            continue
        assert (got.status_code, got.json["error"]["param"]) == (400, param), body
    nul = web.post(PATH, json={"model": MODEL, "input": "a\x00b"}, headers=rich.headers)
    assert nul.status_code == 200
    assert web.post(PATH, data=b"{", headers=rich.headers).status_code == 400
    assert web.post(PATH, json={"model": MODEL, "input": "a"}).status_code == 401
    assert facts.holds() == 0


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (answer({"error": {"message": "Slow down", "code": "rate"}}, 429), 429, "rate"),
        (answer({"error": {"message": "Too long", "code": "max_tokens"}}, 400), 400, "max_tokens"),
        (answer({"error": {"message": "Bad key"}}, 401), 502, "upstream_account"),
        (answer({"error": {"message": "Broken", "code": 500}}), 500, 500),
        (answer({"object": "list", "data": []}), 502, "upstream_empty"),
        (answer(b"<html>"), 502, "upstream_cut"),
        (answer(b"[]"), 502, "upstream_cut"),
        (fakes.hang_up, 502, "upstream_cut"),
    ],
)
def test_a_failure_of_the_provider_costs_nothing(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, behaviour: Any, status: int, code: Any
) -> None:
    fake.will(behaviour)
    got = web.post(PATH, json={"model": MODEL, "input": "Hello"}, headers=rich.headers)
    assert (got.status_code, got.json["error"]["code"]) == (status, code)
    call = facts.call()
    assert (call.state, call.credits) == ("failed", 0)


def test_what_the_input_may_cost_must_be_available(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 10)
    texts = ["word " * 2_000] * 400  # 4 MB: about 800,000 tokens, 11 credits
    got = web.post(PATH, json={"model": MODEL, "input": texts}, headers=alice.headers)
    assert (got.status_code, got.json["error"]["code"]) == (402, "insufficient_credits")
    assert (facts.holds(), fake.requests) == (0, [])


def test_the_demo_model_works_offline(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    body = {
        "model": "stoa/demo-embeddings",
        "input": ["a red apple", "the red apple", "tax law"],
        "dimensions": 64,
    }
    first, second = (web.post(PATH, json=body, headers=rich.headers).json for _ in "12")
    assert first == second
    apple, other, law = (each["embedding"] for each in first["data"])
    assert math.hypot(*apple) == pytest.approx(1)
    assert len(apple) == 64
    near, far = (sum(a * b for a, b in zip(apple, each, strict=True)) for each in (other, law))
    assert near > 0.4 > far
    encoded = web.post(PATH, json={**body, "encoding_format": "base64"}, headers=rich.headers).json
    packed = encoded["data"][0]["embedding"]
    assert packed == b64encode(struct.pack("<64f", *apple)).decode()
    assert first["usage"]["prompt_tokens"] == facts.calls()[0].uncached_input_tokens > 0
    assert fake.requests == []


def test_models_of_every_kind_are_listed_with_their_kind(web: FlaskClient, alice: Person) -> None:
    models = {each["id"]: each for each in web.get("/v1/models", headers=alice.headers).json["data"]}
    assert models["stoa/demo"]["type"] == "chat"
    assert models["stoa/demo-embeddings"]["type"] == "embedding"
    small = models["openai/text-embedding-3-small"]
    assert (small["type"], small["pricing"]["prompt"]) == ("embedding", "0.00000002")
    assert web.get("/v1/models/openai/text-embedding-3-small", headers=alice.headers).json == small
