"""Plain completions, moderation and ranking: held, passed on, charged once in their own units."""

from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.core.errors import DomainError
from models.core.settings import load_settings
from models.gateway.pricing import PriceTable
from models.gateway.routing import OtherModelKind, Router
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream, answer, stream
from tests.gateway.conftest import Facts, events, wait

TEXT = "gpt-3.5-turbo-instruct"
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1_750_000_000, "model": TEXT}


def completion(*texts: str, use: Any = "default", **extra: Any) -> dict[str, Any]:
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": "stop"}
        for index, text in enumerate(texts)
    ]
    body = {**HEAD, "choices": choices, **extra}
    return (
        body
        if use is None
        else {**body, "usage": fakes.usage(1_000_000, 100_000) if use == "default" else use}
    )


def piece(text: str, reason: str | None = None, index: int = 0) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": reason}]}


PIECES = [piece("Hel"), piece("lo."), piece("", "stop")]
END = [{**HEAD, "choices": [], "usage": fakes.usage(100_000, 100_000)}, "[DONE]"]


@pytest.mark.parametrize("path", ["/v1/completions", "/api/v1/completions"])
@pytest.mark.parametrize("prompt", ["Say", ["Say", "Ask"], [1, 2], [[1], [2]]], ids=str)
def test_a_completion_is_passed_on_and_charged(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, path: str, prompt: Any
) -> None:
    fake.will(answer(completion("Hello.", "What?")))
    body = {"model": TEXT, "prompt": prompt, "max_tokens": 10, "echo": True, "logprobs": 2}
    got = web.post(path, json=body, headers=rich.headers)
    assert (got.status_code, got.json) == (200, completion("Hello.", "What?"))
    assert (fake.requests[0].path, fake.requests[0].body) == ("/openai/completions", body)
    call = facts.call()
    assert (call.door, call.usage_source, call.state) == ("completions", "provider", "settled")
    assert call.cost == Decimal("1.5") + Decimal("0.2")
    (message,) = facts.messages()
    assert "Hello." in str(message.response)


@pytest.mark.parametrize("wants", [True, False])
def test_a_streamed_completion_ends_with_the_billed_usage(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, wants: bool
) -> None:
    fake.will(stream([*PIECES, *END]))
    body = {"model": TEXT, "prompt": "Say", "stream": True}
    got = web.post(
        "/v1/completions", json={**body, "stream_options": {"include_usage": wants}}, headers=rich.headers
    )
    found = events(got.data)
    assert found[:3] == PIECES
    assert found[3:] == (END[:1] if wants else [])
    assert got.data.endswith(b"data: [DONE]\n\n")
    assert fake.requests[0].body["stream_options"] == {"include_usage": True}
    call = facts.call()
    assert (call.cost, call.usage_source) == (Decimal("0.15") + Decimal("0.2"), "provider")


@pytest.mark.parametrize(
    ("behaviour", "texts", "error", "source"),
    [
        (stream([*PIECES, "[DONE]"]), "Hello.", None, "counted"),
        (stream(PIECES, cut_after=2), "Hello.", "upstream_cut", "counted"),
        (
            stream([PIECES[0], {"error": {"message": "Broken", "code": 500}}]),
            "Hel",
            "upstream_error",
            "counted",
        ),
    ],
    ids=["no usage", "cut", "error"],
)
def test_a_stream_without_usage_is_counted(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    behaviour: Any,
    texts: str,
    error: str | None,
    source: str,
) -> None:
    fake.will(behaviour)
    got = web.post(
        "/v1/completions", json={"model": TEXT, "prompt": "Say", "stream": True}, headers=rich.headers
    )
    shown = [each for each in events(got.data) if "choices" in each]
    assert "".join(each["choices"][0]["text"] for each in shown) == texts
    call = facts.call()
    assert (call.state, call.error, call.usage_source) == ("settled", error, source)
    assert call.output_tokens > 0
    assert ("error" in events(got.data)[-1]) == (error is not None)


def test_a_client_that_leaves_pays_for_what_was_written(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(stream([*PIECES, *END], delay=0.01))
    got = web.post(
        "/v1/completions", json={"model": TEXT, "prompt": "Say", "stream": True}, headers=rich.headers
    )
    body = iter(got.response)
    next(body)
    got.close()
    wait(lambda: [each.state for each in facts.calls()] == ["settled"])
    assert facts.calls()[0].client_gone


def test_moderation_costs_its_price_per_request(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    results = [{"flagged": True, "categories": {"hate": True, "violence": False}}, {"flagged": False}]
    body = {"id": "modr-1", "model": "omni", "results": results}
    fake.will(answer(body))
    parts = [
        {"type": "text", "text": "one two"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
    ]
    got = web.post(
        "/v1/moderations", json={"model": "openai/house-moderation", "input": parts}, headers=rich.headers
    )
    assert (got.status_code, got.json) == (200, body)
    assert fake.requests[0].path == "/openai/moderations"
    call = facts.call()
    assert (call.cost, call.credits) == (Decimal("0.02"), 2)
    assert facts.messages()[0].response == "flagged: hate\nnot flagged"


def test_openais_moderation_is_free() -> None:
    settings = load_settings(_env_file=None, openai_api_key="sk")
    routes = Router(settings, PriceTable())
    found = routes.find("omni-moderation-latest", task="moderations")
    assert found.price is not None
    assert found.price.is_free
    assert found.provider.name == "openai"


RESULTS = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]


@pytest.mark.parametrize(
    ("model", "answered", "cost", "source"),
    [
        ("openai/house-rerank", {"meta": {"billed_units": {"search_units": 2}}}, "0.06", "provider"),
        ("openai/house-rerank", {"usage": {"search_units": 2, "total_tokens": 7}}, "0.06", "provider"),
        ("openai/house-rerank", {"usage": {"total_tokens": 7}}, "0", "provider"),
        ("openai/house-rerank", {}, "0.03", "estimated"),
        ("openai/token-rerank", {"usage": {"total_tokens": 1000}}, "0.1", "provider"),
        ("cohere/rerank-v3.5", {"usage": {"cost": 0.002, "search_units": 1}}, "0.002", "provider"),
        ("cohere/rerank-v3.5", {"usage": {"search_units": 2, "total_tokens": 0}}, "0.005", "provider"),
    ],
)
def test_ranking_is_charged_by_search_units_or_tokens(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    model: str,
    answered: Any,
    cost: str,
    source: str,
) -> None:
    fake.will(answer({"id": "r", "results": RESULTS, **answered}))
    body = {"model": model, "query": "apples", "documents": ["apple", {"text": "tax"}], "top_n": 2}
    got = web.post("/v1/rerank", json=body, headers=rich.headers)
    assert (got.status_code, got.json["results"]) == (200, RESULTS)
    assert fake.requests[0].path.endswith("/rerank")
    call = facts.call()
    assert (call.cost, call.usage_source) == (Decimal(cost), source)
    assert call.raw_usage == (answered.get("usage") or answered.get("meta"))


INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("completions", {"model": TEXT}, "prompt"),
    ("completions", {"model": TEXT, "prompt": {}}, "prompt"),
    ("completions", {"model": TEXT, "prompt": ["a", 1]}, "prompt"),
    ("completions", {"model": TEXT, "prompt": "a", "n": 129}, "n"),
    ("completions", {"model": TEXT, "prompt": ["a"] * 3, "n": 100}, "n"),
    ("completions", {"model": TEXT, "prompt": "a", "stream": "yes"}, "stream"),
    ("completions", {"model": TEXT, "prompt": "a", "stream_options": 1}, "stream_options"),
    ("completions", {"model": TEXT, "prompt": "a", "max_tokens": -1}, "max_tokens"),
    ("completions", {"model": TEXT, "prompt": "a", "suffix": []}, "suffix"),
    ("completions", {"model": TEXT, "prompt": "a", "best_of": 5}, "best_of"),
    ("moderations", {}, "input"),
    ("moderations", {"input": [1]}, "input[0]"),
    ("moderations", {"input": [{"type": "audio"}]}, "input[0]"),
    ("moderations", {"input": [{"type": "text", "text": 1}]}, "input[0].text"),
    ("moderations", {"input": "a", "model": ""}, "model"),
    ("rerank", {"model": "cohere/rerank-v3.5", "documents": ["a"]}, "query"),
    ("rerank", {"model": "cohere/rerank-v3.5", "query": "a"}, "documents"),
    ("rerank", {"model": "cohere/rerank-v3.5", "query": "a", "documents": [1]}, "documents[0]"),
    ("rerank", {"model": "cohere/rerank-v3.5", "query": "a", "documents": ["a"] * 10_001}, "documents"),
    ("rerank", {"model": "cohere/rerank-v3.5", "query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
    ("rerank", {"model": "cohere/rerank-v3.5", "query": "a" * 100_001, "documents": ["a"]}, "query"),
]


def test_invalid_requests_are_refused_by_name(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    for name, body, param in INVALID:
        got = web.post(f"/v1/{name}", json=body, headers=rich.headers)
        assert (got.status_code, got.json["error"]["param"]) == (400, param), (name, body)
        assert web.post(f"/v1/{name}", json=body).status_code == 401
    assert (facts.holds(), fake.requests) == (0, [])


WRONG = [
    ("chat", "gpt-5", "completions"),
    ("chat", "cohere/rerank-v3.5", None),
    ("/v1/rerank", "cohere/rerank-v3.5", "embeddings"),
    ("/v1/moderations", "omni-moderation-latest", "rerank"),
    ("/v1/completions", "davinci-002", None),
]


@pytest.mark.parametrize(("named", "model", "task"), WRONG)
def test_a_model_of_another_kind_is_sent_to_its_route(named: str, model: str, task: str | None) -> None:
    settings = load_settings(_env_file=None, openai_api_key="sk")
    with pytest.raises(OtherModelKind, match=named):
        Router(settings, PriceTable()).find(model, task=task)


def test_chat_models_complete_text_where_the_server_does(
    web: FlaskClient, fake: FakeUpstream, rich: Person
) -> None:
    fake.will(answer(completion("Hello.", model="house-model")))
    got = web.post(
        "/v1/completions", json={"model": "openai/house-model", "prompt": "Say"}, headers=rich.headers
    )
    assert got.json["choices"][0]["text"] == "Hello."


def test_a_provider_without_the_route_is_named() -> None:
    settings = load_settings(_env_file=None, openai_api_key="sk", anthropic_api_key="sk")
    routes = Router(settings, PriceTable())
    for model, task in (("openai/my-rerank", "rerank"), ("claude-embed", "embeddings")):
        with pytest.raises(DomainError) as refused:
            routes.find(model, task=task)
        assert refused.value.code == "model_not_found"
