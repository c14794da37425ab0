"""`POST /api/v1/chat/completions`: contract section 5, row by row."""

import json
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.gateway.dialects.codebuff import relative_time
from models.runs import AgentRun
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events

pytestmark = pytest.mark.usefixtures("kind")

PATH = "/api/v1/chat/completions"


# -- 5.2, in its order ---------------------------------------------------------------------------------------


def test_json_is_checked_before_the_key(web: FlaskClient) -> None:
    answer = web.post(PATH, data="{")
    assert (answer.status_code, answer.json) == (400, {"message": "Invalid JSON in request body"})


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic x"}, {"authorization": "bearer x"}])
def test_no_key(web: FlaskClient, headers: dict[str, str]) -> None:
    answer = web.post(PATH, json={}, headers=headers)
    assert (answer.status_code, answer.json) == (401, {"message": "Unauthorized"})


def test_unknown_key(web: FlaskClient) -> None:
    answer = web.post(PATH, json={}, headers={"authorization": "Bearer nobody"})
    assert (answer.status_code, answer.json) == (401, {"message": "Invalid Codebuff API key"})


def test_ban_is_checked_before_credits(web: FlaskClient, session: OrmSession) -> None:
    user = factories.user("banned", banned=True)
    key = factories.token(user)
    answer = web.post(PATH, json={}, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json) == (
        403,
        {
            "error": "account_suspended",
            "message": "Your account has been suspended due to billing issues. "
            "Please contact help@stoa.test to resolve this.",
        },
    )


def test_credits_are_checked_before_the_run(web: FlaskClient, session: OrmSession) -> None:
    reset = datetime.now(UTC) + timedelta(days=3, hours=1)
    user = factories.user("poor", next_quota_reset=reset)
    factories.grant(user, 500, balance=0, expires_at=reset)
    key = factories.token(user)
    answer = web.post(PATH, json={}, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json) == (
        402,
        {
            "message": "Out of credits. Please add credits at http://localhost:8000/usage."
            + ("" if factories.org_of(user.id) else " Your free credits reset in 3 days.")
        },
    )


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"codebuff_metadata": 3},
        {"codebuff_metadata": {"run_id": 7}},
        {"codebuff_metadata": {"run_id": ""}},
    ],
)
def test_no_run(web: FlaskClient, rich: Person, body: Any) -> None:
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert (answer.status_code, answer.json) == (400, {"message": "No runId found in request body"})


def test_unknown_run(web: FlaskClient, rich: Person) -> None:
    answer = web.post(PATH, json={"codebuff_metadata": {"run_id": "nope"}}, headers=rich.headers)
    assert (answer.status_code, answer.json) == (400, {"message": "runId Not Found: nope"})


def test_another_ones_run_is_not_found(
    web: FlaskClient,
    session: OrmSession,
    run: AgentRun,
    body: dict[str, Any],
    mallory: Person,
    fake: FakeUpstream,
) -> None:
    assert mallory.user is not None
    factories.grant(mallory.user, 1000)
    answer = web.post(PATH, json=body, headers=mallory.headers)
    assert (answer.status_code, answer.json) == (400, {"message": f"runId Not Found: {run.id}"})
    assert fake.requests == []


def test_finished_run(web: FlaskClient, session: OrmSession, rich: Person) -> None:
    assert rich.user is not None
    over = factories.run(rich.user, status="completed", completed_at=datetime.now(UTC))
    answer = web.post(PATH, json={"codebuff_metadata": {"run_id": over.id}}, headers=rich.headers)
    assert (answer.status_code, answer.json) == (400, {"message": f"runId Not Running: {over.id}"})


@pytest.mark.parametrize("name", ["alice", "bob", "mallory"])
def test_anyone_with_credits_and_a_run_of_their_own_is_served(
    web: FlaskClient, session: OrmSession, request: pytest.FixtureRequest, name: str
) -> None:
    person: Person = request.getfixturevalue(name)
    assert person.user is not None
    factories.grant(person.user, 1000)
    run = factories.run(person.user)
    body = {"model": "a/b", "messages": MESSAGES, "codebuff_metadata": {"run_id": run.id}}
    assert web.post(PATH, json=body, headers=person.headers).status_code == 200


@pytest.mark.parametrize("header", ["x-codebuff-api-key", "authorization"])
def test_either_header_carries_the_key(
    web: FlaskClient, rich: Person, body: dict[str, Any], header: str
) -> None:
    value = rich.token if header.startswith("x-") else f"Bearer {rich.token}"
    assert web.post(PATH, json=body, headers={header: value}).status_code == 200


def test_json_is_read_whatever_the_content_type(web: FlaskClient, rich: Person, body: dict[str, Any]) -> None:
    answer = web.post(
        PATH, data=json.dumps(body), content_type="text/plain;charset=UTF-8", headers=rich.headers
    )
    assert answer.status_code == 200


def test_provider_refusal_is_passed_on(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    error = {
        "message": "Provider returned error",
        "code": 400,
        "metadata": {"provider_name": "Azure", "raw": "x" * 1200},
    }
    fake.will(fakes.answer({"error": error}, 400))
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert answer.status_code == 400
    assert answer.json == {
        "error": {
            "message": f"Provider returned error [Azure: {'x' * 1000}...]",
            "code": 400,
            "type": None,
            "param": None,
            "metadata": error["metadata"],
        }
    }
    call = facts.call()
    assert (call.state, call.credits, call.http_status) == ("failed", 0, 400)


def test_provider_refusal_in_plain_text(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any]
) -> None:
    fake.will(fakes.answer(b"busy", 503, {"Retry-After": "7"}))
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert (answer.status_code, answer.json) == (503, {"error": {"message": "busy", "code": 503}})
    assert answer.headers["Retry-After"] == "7"


def test_html_error_page_of_a_provider_becomes_a_message(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any]
) -> None:
    fake.will(fakes.answer(b"<h1>Bad gateway</h1>", 502))
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert (answer.status_code, answer.json) == (
        502,
        {"error": {"message": "The provider answered with a web page: Bad gateway", "code": 502}},
    )
    fake.will(fakes.answer(b"", 503))
    assert web.post(PATH, json=body, headers=rich.headers).json["error"]["message"] == "Service Unavailable"


@pytest.mark.parametrize("margin", ["0", "0.055", "0.2"])
def test_sdk_shows_the_ledgers_credits_whatever_the_margin(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
    margin: str,
) -> None:
    monkeypatch.setattr(web.application.extensions["gateway"], "margin", Decimal(margin))
    fake.will(fakes.stream(fakes.chunks(use=fakes.usage(100, 20, cost=0.77))))
    answer = web.post(PATH, json={**body, "stream": True}, headers=rich.headers)
    usage = events(answer.data)[-1]["usage"]["cost"]
    (message,) = facts.messages()
    assert message.cost == Decimal("0.77")
    assert message.credits == int(usage * 1.055 * 100 + 0.5) == int(77 * (1 + float(margin)) + 0.5)


BYOK = {"is_byok": True}
NOT_BYOK = {"is_byok": False}


@pytest.mark.parametrize(
    ("said", "billed"),
    [
        ({**NOT_BYOK, "cost": 0.02, "cost_details": {"upstream_inference_cost": 0.02}}, "0.02"),
        ({**NOT_BYOK, "cost": 0, "cost_details": {"upstream_inference_cost": 0.02}}, "0"),
        ({"cost": 0.02, "cost_details": {"upstream_inference_cost": 0.02}}, "0.02"),
        ({"cost": 0.02, "cost_details": {"upstream_inference_cost": None}}, "0.02"),
        ({"cost": 0.02, "cost_details": None}, "0.02"),
        ({"cost": 0.02, "cost_details": {"upstream_inference_cost": 0}}, "0.02"),
        ({"cost": "0.02", "cost_details": {"upstream_inference_cost": "0.02"}}, "0.02"),
        ({"is_byok": None, "cost": 0.02, "cost_details": {"upstream_inference_cost": "x"}}, "0.02"),
        ({**BYOK, "cost": 0.001, "cost_details": {"upstream_inference_cost": 0.02}}, "0.021"),
        ({**BYOK, "cost": 0, "cost_details": {"upstream_inference_cost": 0.02}}, "0.02"),
        ({**BYOK, "cost_details": {"upstream_inference_cost": 0.02}}, "0.02"),
        ({**BYOK, "cost": "0.001", "cost_details": {"upstream_inference_cost": "0.02"}}, "0.021"),
        ({**BYOK, "cost": None, "cost_details": {"upstream_inference_cost": 0.02}}, "0.02"),
        # the amount paid by the operator's key is not reported: the list price is charged
        ({**BYOK, "cost": 0.001}, "0.00027"),
        ({**BYOK, "cost": 0.001, "cost_details": {"upstream_inference_cost": "?"}}, "0.00027"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_sdk_is_shown_what_was_billed_whatever_openrouter_adds(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    said: dict[str, Any],
    billed: str,
    streaming: bool,
) -> None:
    use = fakes.usage(1000, 200, **said)
    fake.will(
        fakes.stream(fakes.chunks(use=use, model="openai/gpt-5-mini-x"))
        if streaming
        else fakes.answer(fakes.completion(use=use, model="openai/gpt-5-mini-x"))
    )
    payload = {**body, "model": "openrouter/openai/gpt-4o-mini", "stream": streaming}
    answer = web.post(PATH, json=payload, headers=rich.headers)
    usage = (events(answer.data)[-1] if streaming else answer.json)["usage"]
    call = facts.call()
    assert call.cost == Decimal(billed)
    assert call.raw_usage == use
    # the SDK's formula, contract 5.5
    extra = (usage.get("cost_details") or {}).get("upstream_inference_cost") or 0
    assert abs(Decimal(str(usage["cost"])) + Decimal(str(extra)) - call.cost) < Decimal("1e-12")


def test_relative_time() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    spans = {
        "in 3 days": timedelta(days=3, hours=23),
        "in 1 day": timedelta(days=1),
        "in 5 hours": timedelta(hours=5, minutes=59),
        "in 1 hour": timedelta(hours=1),
        "in 12 minutes": timedelta(minutes=12, seconds=50),
        "in 1 minute": timedelta(seconds=5),
        "soon": timedelta(0),
    }
    assert {words: relative_time(now + span, now) for words, span in spans.items()} == {
        words: words for words in spans
    }
    assert relative_time(None, now) == "soon"


# -- Stoa's own refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": None}, "'model'"),
        ({"model": 7}, "'model'"),
        ({"model": "a\x00b"}, "'model'"),
        ({"messages": None}, "'messages'"),
        ({"messages": []}, "'messages'"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0]"),
        ({"max_tokens": 1e300}, "'max_tokens'"),
        ({"max_tokens": -1}, "'max_tokens'"),
        ({"n": 10**9}, "'n'"),
        ({"n": "2"}, "'n'"),
        ({"tools": "x"}, "'tools'"),
        ({"tools": [1]}, "'tools'"),
        ({"stream_options": 1}, "'stream_options'"),
    ],
)
def test_invalid_bodies_are_refused_with_messages_both_sdks_show(
    web: FlaskClient,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    fake: FakeUpstream,
    change: Any,
    word: str,
) -> None:
    answer = web.post(PATH, json={**body, **change}, headers=rich.headers)
    assert answer.status_code == 400
    assert word in answer.json["message"]
    assert answer.json["error"]["message"] == answer.json["message"]
    assert fake.requests == []
    assert facts.holds() == 0


def test_deep_nesting_is_refused(web: FlaskClient, rich: Person) -> None:
    answer = web.post(PATH, data='{"a":' * 500 + "1" + "}" * 500, headers=rich.headers)
    assert answer.status_code == 400


def test_too_large_a_body_is_refused(web: FlaskClient, rich: Person) -> None:
    answer = web.post(PATH, data=b'"' + b"x" * (20 << 20) + b'"', headers=rich.headers)
    assert answer.status_code == 413
    assert answer.json["error"]["code"] == "request_too_large"


def test_hold_larger_than_the_credits_available_besides_other_calls(
    web: FlaskClient, session: OrmSession, rich: Person, body: dict[str, Any]
) -> None:
    assert rich.user is not None
    factories.hold(rich.user, 995)
    answer = web.post(
        PATH, json={**body, "model": "openai/gpt-5", "max_tokens": 100_000}, headers=rich.headers
    )
    assert answer.status_code == 429
    assert answer.json["error"]["code"] == "credits_held"
    assert "995" in answer.json["message"]


def test_model_without_a_price_is_refused_by_name(
    web: FlaskClient, rich: Person, body: dict[str, Any], facts: Facts, fake: FakeUpstream
) -> None:
    answer = web.post(PATH, json={**body, "model": "openai/unheard-of"}, headers=rich.headers)
    assert answer.status_code == 400
    assert "openai/unheard-of" in answer.json["message"]
    assert answer.json["error"]["code"] == "model_price_missing"
    assert fake.requests == []
    web.application.extensions["gateway"].refused_calls.flush()
    assert facts.call().requested_model == "openai/unheard-of"


def test_without_any_provider_the_demo_is_named(
    client: FlaskClient, rich: Person, body: dict[str, Any]
) -> None:
    answer = client.post(PATH, json={**body, "model": "openai/gpt-5"}, headers=rich.headers)
    assert answer.status_code == 404
    assert "stoa/demo" in answer.json["error"]["message"]


# -- 5.3 to 5.5, whole answers -------------------------------------------------------------------------------


def test_answer_is_passed_on_byte_for_byte_and_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, run: AgentRun, body: dict[str, Any], facts: Facts
) -> None:
    use = fakes.usage(
        120,
        40,
        prompt_tokens_details={"cached_tokens": 20},
        completion_tokens_details={"reasoning_tokens": 10},
        cost=0.02,
        is_byok=True,
        cost_details={"upstream_inference_cost": 0.03},
    )
    whole = fakes.completion(use=use)
    whole["choices"][0]["message"]["reasoning"] = "Hm."
    sent = json.dumps(whole, indent=1).encode()
    fake.will(fakes.answer(sent))
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert (answer.status_code, answer.data) == (200, sent)
    (message,) = facts.messages()
    assert (message.id, message.agent_id, message.client_id) == ("chatcmpl-1", run.agent_id, "client-7")
    assert message.client_request_id == run.id
    assert message.model == "openai/gpt-5-mini"
    assert message.response == "Hello there."
    assert message.reasoning_text == "Hm."
    assert (message.output_tokens, message.cache_read_input_tokens, message.reasoning_tokens) == (40, 20, 10)
    assert message.cost == Decimal("0.05")
    assert (message.credits, message.byok) == (5, False)
    assert message.request == MESSAGES
    call = facts.call()
    assert (call.state, call.usage_source, call.provider) == ("settled", "provider", "openrouter")
    assert (call.uncached_input_tokens, call.cache_read_tokens) == (100, 20)


def test_what_openrouter_is_sent(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any]
) -> None:
    extra = {"transforms": ["middle-out"], "provider": {"order": ["x"]}, "usage": {"mine": 1}}
    web.post(PATH, json={**body, **extra}, headers=rich.headers)
    (request,) = fake.requests
    assert request.path == "/openrouter/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-operator-openrouter"
    assert request.headers["http-referer"] == "http://localhost:8000"
    assert request.headers["x-title"] == "Stoa"
    assert request.body["usage"] == {"mine": 1, "include": True}
    assert request.body["transforms"] == ["middle-out"]
    assert "codebuff_metadata" not in request.body


def test_own_key_pays_and_is_not_stored(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    headers = {**rich.headers, "x-openrouter-api-key": "sk-or-mine"}
    answer = web.post(PATH, json={**body, "model": "openai/gpt-5"}, headers=headers)
    assert answer.status_code == 200
    (request,) = fake.requests
    assert (request.path, request.headers["authorization"]) == (
        "/openrouter/chat/completions",
        "Bearer sk-or-mine",
    )
    (message,) = facts.messages()
    assert (message.byok, message.credits) == (True, 1)
    row = facts.call()
    assert "sk-or-mine" not in repr([message.__dict__, row.__dict__])


def test_errors_of_the_own_key_are_passed_on(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any]
) -> None:
    fake.will(fakes.answer({"error": {"message": "No auth", "code": 401}}, 401))
    headers = {**rich.headers, "x-openrouter-api-key": "sk-or-mine"}
    assert web.post(PATH, json=body, headers=headers).status_code == 401


@pytest.mark.parametrize("status", [401, 402, 403])
def test_errors_of_the_operators_key_become_server_errors(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], status: int
) -> None:
    fake.will(fakes.answer({"error": {"message": "bad key sk-operator-openrouter"}}, status))
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert answer.status_code == 502
    assert "sk-operator" not in answer.text
    assert "your key is fine" in answer.json["error"]["message"]


def test_several_answers_from_openrouter_become_one(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    body["codebuff_metadata"]["n"] = 3
    one = fakes.completion("same", fakes.usage(100, 10, cost=0.01))
    fake.will(fakes.answer(one), fakes.answer(status=500, body=b"no"), fakes.answer(one))
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert len(fake.requests) == 3
    assert answer.json["choices"] == [
        {
            "index": 0,
            "message": {"content": '["same","same"]', "role": "assistant"},
            "finish_reason": "stop",
        }
    ]
    use = answer.json["usage"]
    assert (use["prompt_tokens"], use["completion_tokens"], use["total_tokens"], use["cost"]) == (
        200,
        20,
        220,
        0.02,
    )
    (message,) = facts.messages()
    assert (message.response, message.cost, message.credits) == ('["same","same"]', Decimal("0.02"), 2)


def test_several_answers_that_all_fail_fail_with_the_first(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    body["codebuff_metadata"]["n"] = 2
    fake.will(fakes.answer(status=429, body=b"slow down"))
    assert web.post(PATH, json=body, headers=rich.headers).status_code == 429
    assert facts.call().credits == 0


def test_several_answers_from_openai_itself(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    body["codebuff_metadata"]["n"] = 2
    body |= {
        "model": "openai/gpt-5",
        "max_tokens": 500,
        "reasoning": {"enabled": True},
        "stop": ["x"],
        "provider": {},
        "transforms": [],
    }
    two = fakes.completion(use=fakes.usage(1000, 100, prompt_tokens_details={"cached_tokens": 400}))
    two["choices"] = [
        {"index": i, "message": {"role": "assistant", "content": c}, "finish_reason": "stop"}
        for i, c in enumerate("ab")
    ]
    two["model"] = "gpt-5-2025-08-07"
    fake.will(fakes.answer(two))
    headers = {**rich.headers, "x-openrouter-api-key": "ignored-here"}
    answer = web.post(PATH, json=body, headers=headers)
    (request,) = fake.requests
    assert request.path == "/openai/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-operator-openai"
    assert request.body == {
        "model": "gpt-5",
        "messages": MESSAGES,
        "n": 2,
        "max_completion_tokens": 500,
        "reasoning_effort": "medium",
        "stream": False,
    }
    assert answer.json["choices"][0]["message"]["content"] == '["a","b"]'
    # 600 x 1.25 + 400 x 0.125 + 100 x 10 dollars per million
    assert answer.json["usage"]["cost"] == 0.0018
    assert answer.json["usage"]["cost_details"]["upstream_inference_cost"] is None
    assert facts.messages()[0].cost == Decimal("0.0018")


def test_cost_that_no_provider_reports_reaches_the_client(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    fake.will(fakes.answer(fakes.completion(use=fakes.usage(100_000, 10_000), model="house-model")))
    answer = web.post(PATH, json={**body, "model": "openai/house-model"}, headers=rich.headers)
    assert answer.json["usage"]["cost"] == 0.305
    (message,) = facts.messages()
    assert message.credits == int(0.305 * 1.055 * 100 + 0.5) == 32
    call = facts.call()
    assert call.price == {
        "source": "operator",
        "input": "2",
        "cache_write": "2",
        "cache_read": "2",
        "output": "10.5",
    }


# -- 5.4, streams --------------------------------------------------------------------------------------------


def test_stream_headers_and_lines(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    sent = [b": OPENROUTER PROCESSING\n\n", *fakes.chunks(), b"dropped without an end"]
    fake.will(fakes.stream(sent))
    answer = web.post(PATH, json={**body, "stream": 1}, headers=rich.headers)
    assert answer.status_code == 200
    expected = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "Connection": "keep-alive",
        "Access-Control-Allow-Origin": "*",
        "X-Frame-Options": "SAMEORIGIN",
    }
    assert {name: answer.headers[name] for name in expected} == expected
    first, _, rest = answer.data.partition(b"\n")
    assert first.startswith(b": connected 20")
    assert first.endswith(b"Z")
    assert rest == b"".join(fakes.sse(event) for event in sent[:-1])
    (message,) = facts.messages()
    assert (message.response, message.credits, message.cost) == (
        "Hello there my friend.",
        1,
        Decimal("0.0123"),
    )
    call = facts.call()
    assert call.stream
    assert call.ttft_ms is not None
    assert not call.client_gone


def test_usage_is_settled_before_it_is_seen(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    fake.will(fakes.stream())
    answer = web.post(PATH, json={**body, "stream": True}, headers=rich.headers, buffered=False)
    for block in answer.response:
        if b'"usage"' in block:
            assert len(facts.messages()) == 1
            assert facts.holds() == 0
            return
    pytest.fail("no usage")


def test_stream_shows_a_cost_the_provider_did_not_report(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    fake.will(fakes.stream(fakes.chunks(use=fakes.usage(100_000, 10_000))))
    answer = web.post(
        PATH, json={**body, "stream": True, "model": "openai/house-model"}, headers=rich.headers
    )
    last = events(answer.data)[-1]
    assert last["usage"]["cost"] == 0.305
    assert answer.data.endswith(b"data: [DONE]\n\n")
    assert facts.messages()[0].credits == 32
    assert fake.requests[0].body["stream_options"] == {"include_usage": True}


def test_error_inside_a_stream_is_passed_on_and_not_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    error = {"id": "gen-1", "error": {"code": 502, "message": "Provider disconnected"}, "choices": []}
    fake.will(fakes.stream([error, "[DONE]"]))
    answer = web.post(PATH, json={**body, "stream": True}, headers=rich.headers)
    assert answer.data.split(b"\n", 1)[1] == fakes.sse(error) + fakes.sse("[DONE]")
    assert facts.messages() == []
    assert facts.call().state == "failed"


def test_error_after_some_text_bills_the_text(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    error = {"error": {"code": 502, "message": "Provider disconnected"}}
    fake.will(fakes.stream([*fakes.chunks("one two three")[:4], error]))
    answer = web.post(PATH, json={**body, "stream": True}, headers=rich.headers)
    assert events(answer.data)[-1] == error
    call = facts.call()
    assert (call.state, call.error, call.output_tokens) == ("settled", "upstream_error", 3)
    assert call.usage_source == "counted"
    assert call.cost > 0


def test_refusal_before_the_first_byte_of_a_stream_is_ordinary_json(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts
) -> None:
    fake.will(fakes.answer({"error": {"message": "Slow down", "code": 429}}, 429, {"Retry-After": "3"}))
    answer = web.post(PATH, json={**body, "stream": True}, headers=rich.headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    assert answer.json["error"]["message"] == "Slow down"
    assert facts.call().credits == 0


def test_a_stream_has_heartbeats(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.gateway.stream.HEARTBEAT_SECONDS", 0.05)
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks(), gate, 2))
    answer = web.post(PATH, json={**body, "stream": True}, headers=rich.headers, buffered=False)
    seen = b""
    for block in answer.response:
        seen += block
        if seen.count(b"\n: heartbeat 20") == 3:
            gate.set()
    assert gate.is_set()
    assert b"[DONE]" in seen


# -- A.5, 2.14 -----------------------------------------------------------------------------------------------


def test_token_count(web: FlaskClient, alice: Person) -> None:
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello world"}]}],
        "system": "Be brief",
    }
    answer = web.post("/api/v1/token-count", json=body, headers={"x-codebuff-api-key": alice.token})
    own = answer.json["inputTokens"]
    assert 5 < own < 30
    other = web.post("/api/v1/token-count", json={**body, "model": "anthropic/x"}, headers=alice.headers)
    assert other.json["inputTokens"] == own + own * 3 // 10


def test_token_count_refusals(web: FlaskClient) -> None:
    assert web.post("/api/v1/token-count", data="{").status_code == 400
    for body, details in (
        ({}, {"messages": {"_errors": ["Invalid input: expected array, received undefined"]}}),
        ({"messages": 1}, {"messages": {"_errors": ["Invalid input: expected array, received number"]}}),
        (
            {"messages": [1]},
            {
                "messages": {
                    "_errors": [],
                    "0": {"_errors": ["Invalid input: expected object, received number"]},
                }
            },
        ),
        (
            {"messages": [], "model": 5},
            {"model": {"_errors": ["Invalid input: expected string, received number"]}},
        ),
    ):
        refused = web.post("/api/v1/token-count", json=body)
        assert (refused.status_code, refused.json) == (
            400,
            {"error": "Invalid request body", "details": {"_errors": [], **details}},
        )
    assert web.post("/api/v1/token-count", json={"messages": []}).status_code == 401
    wrong = web.post("/api/v1/token-count", json={"messages": []}, headers={"authorization": "Bearer x"})
    assert (wrong.status_code, wrong.json) == (401, {"message": "Invalid Codebuff API key"})


def test_healthz(client: FlaskClient) -> None:
    answer = client.get("/api/healthz")
    assert answer.status_code == 200
    assert answer.json["status"] == "ok"
