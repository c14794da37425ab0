"""`/v1`: requests, responses and errors of OpenAI clients."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.runs import AgentRun
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events

pytestmark = pytest.mark.usefixtures("kind")

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES}


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "x-codebuff-api-key", "api-key"])
def test_key_in_any_header(web: FlaskClient, rich: Person, header: str) -> None:
    value = f"Bearer {rich.token}" if header == "authorization" else rich.token
    assert web.post(PATH, json=BODY, headers={header: value}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ({}, "{"),
        ({}, "{}"),
        ({"authorization": "Bearer wrong"}, "{"),
        ({"authorization": "Bearer wrong"}, "{}"),
    ],
)
def test_unauthenticated_callers_get_only_401(web: FlaskClient, headers: dict[str, str], data: str) -> None:
    answer = web.post(PATH, data=data, headers=headers)
    assert answer.status_code == 401
    assert answer.json["error"]["code"] == "invalid_api_key"
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_bad_json(web: FlaskClient, rich: Person) -> None:
    answer = web.post(PATH, data='{"model": 1e999}', headers=rich.headers)
    assert answer.status_code == 400
    assert "JSON" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stream": "yes"}, "stream"),
        ({"model": ""}, "model"),
        ({"messages": {}}, "messages"),
        ({"n": 0}, "n"),
    ],
)
def test_wrong_bodies_name_the_parameter(
    web: FlaskClient, rich: Person, facts: Facts, change: dict[str, Any], param: str
) -> None:
    answer = web.post(PATH, json={**BODY, **change}, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
    assert facts.holds() == 0


def test_body_of_twenty_megabytes_and_more(web: FlaskClient, rich: Person) -> None:
    answer = web.post(PATH, data=b" " * (20 << 20) + b"{}", headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "request_too_large")


def test_banned_user_and_user_without_credits(web: FlaskClient, session: OrmSession) -> None:
    banned = factories.user("banned", banned=True)
    poor = factories.user("poor")
    factories.grant(poor, 500, balance=0)
    for user, status, code in ((banned, 403, "account_suspended"), (poor, 402, "insufficient_credits")):
        headers = {"authorization": f"Bearer {factories.token(user)}"}
        answer = web.post(PATH, json=BODY, headers=headers)
        assert (answer.status_code, answer.json["error"]["code"]) == (status, code)


def test_call_attached_to_a_run(web: FlaskClient, run: AgentRun, rich: Person, facts: Facts) -> None:
    answer = web.post(PATH, json=BODY, headers={**rich.headers, "x-stoa-run-id": run.id})
    assert answer.status_code == 200
    (message,) = facts.messages()
    assert (message.agent_id, message.client_request_id) == (run.agent_id, run.id)
    assert facts.call().run_id == run.id


def test_call_without_a_run(web: FlaskClient, rich: Person, facts: Facts) -> None:
    assert web.post(PATH, json=BODY, headers=rich.headers).status_code == 200
    assert facts.messages()[0].agent_id is None
    assert facts.call().run_id is None


def test_unknown_foreign_and_finished_runs_are_400(
    web: FlaskClient, session: OrmSession, rich: Person, bob: Person, fake: FakeUpstream
) -> None:
    assert rich.user is not None
    assert bob.user is not None
    foreign = factories.run(bob.user)
    over = factories.run(rich.user, status="failed")
    for name, code in (("x", "run_not_found"), (foreign.id, "run_not_found"), (over.id, "run_not_running")):
        answer = web.post(PATH, json=BODY, headers={**rich.headers, "x-stoa-run-id": name})
        assert (answer.status_code, answer.json["error"]["code"]) == (400, code)
    assert fake.requests == []


def test_usage_chunk_only_on_request(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    script = fakes.chunks(use=fakes.usage())
    fake.will(fakes.stream(script))
    without = web.post(PATH, json={**BODY, "stream": True}, headers=rich.headers)
    assert without.data == b"".join(fakes.sse(event) for event in script if "usage" not in event)
    payload = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    answer = web.post(PATH, json=payload, headers=rich.headers)
    assert answer.data == b"".join(fakes.sse(event) for event in script)
    assert "cost" not in events(answer.data)[-1]["usage"]
    assert all(request.body["stream_options"]["include_usage"] is True for request in fake.requests)
    assert [call.output_tokens for call in facts.calls()] == [20, 20]


@pytest.mark.parametrize(
    ("model", "path", "sent"),
    [
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("gpt-4o", "openai", "gpt-4o"),
        ("anthropic/claude-sonnet-4.5", "anthropic", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
        ("google/gemini-2.5-flash", "gemini", "gemini-2.5-flash"),
        ("gemini/gemini-2.5-flash", "gemini", "gemini-2.5-flash"),
        ("meta-llama/llama-3", "openrouter", "meta-llama/llama-3"),
        ("openrouter/openai/gpt-4o", "openrouter", "openai/gpt-4o"),
    ],
)
def test_routes(web: FlaskClient, fake: FakeUpstream, rich: Person, model: str, path: str, sent: str) -> None:
    assert web.post(PATH, json={**BODY, "model": model}, headers=rich.headers).status_code == 200
    (request,) = fake.requests
    native = path == "anthropic"
    assert (request.path, request.body["model"]) == (
        f"/{path}/messages" if native else f"/{path}/chat/completions",
        sent,
    )
    key = request.headers["x-api-key"] if native else request.headers["authorization"].removeprefix("Bearer ")
    assert key == f"sk-operator-{path}"


def test_gemini_bills_its_thoughts(web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts) -> None:
    use = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    fake.will(fakes.answer(fakes.completion(use=use, model="gemini-2.5-flash")))
    web.post(PATH, json={**BODY, "model": "google/gemini-2.5-flash"}, headers=rich.headers)
    call = facts.call()
    assert (call.uncached_input_tokens, call.output_tokens, call.reasoning_tokens) == (10, 105, 100)


def test_free_models_are_free_and_served(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.answer(fakes.completion(use=fakes.usage(10**6, 10**6), model="free-model")))
    assert (
        web.post(PATH, json={**BODY, "model": "openai/free-model"}, headers=rich.headers).status_code == 200
    )
    assert facts.call().credits == 0


def test_unpriced_model_is_refused_by_name(web: FlaskClient, rich: Person, fake: FakeUpstream) -> None:
    answer = web.post(PATH, json={**BODY, "model": "openai/nobody-knows"}, headers=rich.headers)
    assert answer.status_code == 400
    assert "openai/nobody-knows" in answer.json["error"]["message"]
    assert (answer.json["error"]["code"], answer.json["error"]["param"]) == ("model_price_missing", "model")
    assert fake.requests == []


def test_without_providers_other_models_are_404(client: FlaskClient, rich: Person) -> None:
    answer = client.post(PATH, json=BODY, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "model_not_found")
    assert "stoa/demo" in answer.json["error"]["message"]


def test_demo_streams_and_is_billed(client: FlaskClient, rich: Person, facts: Facts) -> None:
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Write a page about columns."}]}
    answer = client.post(PATH, json={**body, "stream": True}, headers=rich.headers)
    assert answer.data.endswith(b"data: [DONE]\n\n")
    call = facts.call()
    assert (call.provider, call.model, call.usage_source) == ("stoa", "stoa/demo", "provider")
    assert call.credits >= 1
    assert call.price is not None
    assert (call.price["input"], call.price["output"]) == ("3", "15")


def test_several_choices(client: FlaskClient, rich: Person, facts: Facts) -> None:
    body = {"model": "stoa/demo", "messages": MESSAGES, "n": 2}
    answer = client.post(PATH, json=body, headers=rich.headers)
    assert [choice["index"] for choice in answer.json["choices"]] == [0, 1]
    stream = client.post(PATH, json={**body, "stream": True}, headers=rich.headers)
    assert {c["index"] for event in events(stream.data) for c in event["choices"]} == {0, 1}
    assert len({call.output_tokens for call in facts.calls()}) == 1


def test_large_requests_are_stored_in_part(web: FlaskClient, rich: Person, facts: Facts) -> None:
    many = [{"role": "user", "content": f"{index} {'x' * 9_000}"} for index in range(60)]
    assert web.post(PATH, json={**BODY, "messages": many}, headers=rich.headers).status_code == 200
    (message,) = facts.messages()
    kept: Any = message.request
    assert kept[0]["role"] == "note"
    assert "earlier messages not stored" in kept[0]["content"]
    assert kept[-1] == many[-1]
    assert len(json.dumps(kept)) < 300 << 10


def test_cache_and_price_of_the_model_that_answered(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    use = fakes.usage(1_000_000, 100_000, prompt_tokens_details={"cached_tokens": 400_000})
    fake.will(fakes.answer(fakes.completion(use=use, model="gpt-4o-2024-08-06")))
    web.post(PATH, json={**BODY, "model": "openai/gpt-4o-mini"}, headers=rich.headers)
    call = facts.call()
    assert (call.requested_model, call.model) == ("openai/gpt-4o-mini", "gpt-4o-2024-08-06")
    assert float(call.cost) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25 + 0.1 * 10)


# -- models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/stoa/demo"])
def test_models_need_a_key(client: FlaskClient, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer x"}):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json["error"]["code"]) == (401, "invalid_api_key")


def test_models_without_providers(client: FlaskClient, alice: Person) -> None:
    answer = client.get("/v1/models", headers=alice.headers)
    demo = {
        "id": "stoa/demo",
        "object": "model",
        "created": 1735689600,
        "owned_by": "stoa",
        "type": "chat",
        "context_window": None,
        "pricing": {
            "prompt": "0.000003",
            "completion": "0.000015",
            "input_cache_read": "0.000003",
            "input_cache_write": "0.000003",
            "request": "0",
        },
    }
    assert answer.json["object"] == "list"
    first, second = answer.json["data"]
    assert {key: first[key] for key in demo} == demo
    assert first["max_output_tokens"] is None or first["max_output_tokens"] > 0
    assert first["capabilities"]["tools"] is not False
    assert (second["id"], second["type"]) == ("stoa/demo-embeddings", "embedding")


def test_models_with_providers(web: FlaskClient, alice: Person) -> None:
    listed = web.get("/v1/models", headers=alice.headers).json["data"]
    names = [model["id"] for model in listed]
    assert {"stoa/demo", "openai/gpt-5", "openai/house-model", "google/gemini-2.5-pro"} <= set(names)
    assert len(names) == len(set(names))
    for name in ("openai/gpt-5", "stoa/demo", "openai/house-model"):
        assert web.get(f"/v1/models/{name}", headers=alice.headers).json["id"] == name
    missing = web.get("/v1/models/openai/nobody-knows", headers=alice.headers)
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "model_not_found")


def test_models_in_anthropics_shape(client: FlaskClient, alice: Person) -> None:
    headers = {"x-api-key": alice.token, "anthropic-version": "2023-06-01"}
    answer = client.get("/v1/models?limit=20", headers=headers)
    (model,) = answer.json["data"]
    assert (model["type"], model["id"], model["created_at"]) == ("model", "stoa/demo", "2025-01-01T00:00:00Z")
    assert {"display_name", "max_input_tokens", "capabilities", "pricing"} <= set(model)
    rest = {key: answer.json[key] for key in ("has_more", "first_id", "last_id")}
    assert rest == {"has_more": False, "first_id": "stoa/demo", "last_id": "stoa/demo"}
    refused = client.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert refused.json["error"]["type"] == "authentication_error"
