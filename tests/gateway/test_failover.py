"""Failover: a call the first provider did not accept goes to the next one, and is billed once."""

import socket
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.core.settings import Settings
from models.gateway.pricing import PriceTable, flat
from models.gateway.providers.provider import Endpoint
from models.gateway.relay import Gateway
from models.gateway.routing import Router
from models.runs import AgentRun
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, completion, hang_up, silent, stream, usage
from tests.gateway.conftest import MESSAGES, Facts, events

MODEL = "anthropic/claude-sonnet-4.5"
ORDINARY = Settings(
    _env_file=None,
    openrouter_api_key="sk-or",
    openai_api_key="sk-openai",
    anthropic_api_key="sk-ant",
    gemini_api_key="sk-google",
)
RETRYABLE = [408, 429, 500, 502, 503, 529]
OVERLOADED = {"error": {"type": "overloaded_error", "message": "Overloaded, come back."}}


@pytest.fixture
def gateway(gateway_app: Flask) -> Gateway:
    return gateway_app.extensions["gateway"]


@pytest.fixture(autouse=True)
def vendors(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the fakes as Anthropic's and Google's own endpoints."""
    for name in ("anthropic", "gemini"):
        monkeypatch.setattr(gateway.routes.providers[name], "first_party", True)


@pytest.fixture
def post(web: FlaskClient, rich: Person) -> Callable[..., Any]:
    def call(model: str = MODEL, headers: dict[str, str] | None = None, **more: Any) -> Any:
        body = {"model": model, "messages": MESSAGES, "max_tokens": 1000, **more}
        return web.post("/v1/chat/completions", json=body, headers={**rich.headers, **(headers or {})})

    return call


def called(fake: FakeUpstream) -> list[str]:
    """The providers that were called, in order."""
    return [each.path.split("/")[1] for each in fake.requests]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", RETRYABLE)
def test_failover_from_a_busy_provider(
    post: Callable[..., Any], fake: FakeUpstream, facts: Facts, status: int, streamed: bool
) -> None:
    fake.will(answer(OVERLOADED, status=status), stream() if streamed else answer())
    response = post(stream=streamed)
    assert response.status_code == 200
    assert b"Hello" in response.data
    assert called(fake) == ["anthropic", "openrouter"]
    assert [each.body["model"] for each in fake.requests] == ["claude-sonnet-4-5", MODEL]
    call = facts.call()
    assert (call.provider, call.state, call.requested_model) == ("openrouter", "settled", MODEL)
    # at the price of the provider that answered: OpenRouter's reported cost
    assert (call.cost, call.credits) == (Decimal("0.0123"), 1)
    assert len(facts.messages()) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_failover_from_an_unreachable_provider(
    post: Callable[..., Any],
    fake: FakeUpstream,
    facts: Facts,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    streamed: bool,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(gateway.routes.providers["anthropic"], "endpoint", Endpoint(nobody, "sk"))
        assert post(stream=streamed).status_code == 200
    assert called(fake) == ["openrouter"]
    assert facts.call().provider == "openrouter"


def test_keys_that_only_the_first_refuses_reach_the_second(
    post: Callable[..., Any], fake: FakeUpstream
) -> None:
    fake.will(answer(OVERLOADED, status=529), answer())
    response = post(min_p=0.1)
    assert [each.body.get("min_p") for each in fake.requests] == [None, 0.1]
    assert "X-Stoa-Dropped" not in response.headers


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_a_request_that_was_refused_is_not_made_twice(
    post: Callable[..., Any], fake: FakeUpstream, facts: Facts, status: int
) -> None:
    fake.will(answer({"error": {"message": "No."}}, status=status))
    assert post().status_code == (502 if status in (401, 402, 403) else status)
    assert called(fake) == ["anthropic"]
    assert facts.call().provider == "anthropic"


@pytest.mark.parametrize("behaviour", [hang_up, silent(2), stream(cut_after=2), answer(b"")])
@pytest.mark.usefixtures("short_timeouts")
def test_no_failover_after_the_provider_accepted_the_call(
    post: Callable[..., Any], fake: FakeUpstream, facts: Facts, behaviour: Any
) -> None:
    fake.will(behaviour)
    assert b"error" in post(stream=True).data
    assert set(called(fake)) == {"anthropic"}
    assert facts.call().provider == "anthropic"


def test_of_two_errors_the_first_is_returned(
    post: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    limited = answer({"error": {"message": "Slow down."}}, status=429, headers={"Retry-After": "7"})
    fake.will(limited, answer({"error": {"message": "No such model."}}, status=404))
    response = post(min_p=0.1)
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    assert response.json["error"]["message"] == "Slow down."
    assert response.headers["X-Stoa-Dropped"] == "min_p"
    call = facts.call()
    assert (call.provider, call.state, call.http_status, call.credits) == ("anthropic", "failed", 429, 0)
    assert called(fake) == ["anthropic", "openrouter"]


def test_an_error_inside_the_second_answer_is_billed_to_nobody(
    post: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(answer(OVERLOADED, status=503), hang_up)
    assert post().status_code == 503
    assert (facts.call().state, facts.messages()) == ("failed", [])


def test_the_callers_own_key_goes_nowhere_else(
    post: Callable[..., Any], fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(answer(OVERLOADED, status=503))
    assert post(headers={"x-openrouter-api-key": "sk-or-mine"}).status_code == 503
    assert called(fake) == ["openrouter"]


def test_an_operator_can_turn_it_off(
    post: Callable[..., Any], fake: FakeUpstream, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "failover", False)
    fake.will(answer(OVERLOADED, status=503))
    assert post().status_code == 503
    assert called(fake) == ["anthropic"]


def test_the_setting_is_on_unless_it_is_turned_off() -> None:
    assert ORDINARY.stoa_failover
    assert not Settings(_env_file=None, stoa_failover="false").stoa_failover


@pytest.mark.parametrize(
    "model",
    [
        "anthropic/claude-nobody-lists",
        "openrouter/anthropic/claude-sonnet-4.5",
        "stoa/demo",
    ],
)
def test_models_without_a_second_provider(gateway: Gateway, model: str) -> None:
    route = gateway.routes.find("anthropic/claude-sonnet-4.5" if "nobody" in model else model)
    assert list(gateway.routes.fallbacks(replace(route, requested=model))) == []


def test_a_provider_that_the_operator_named_is_the_only_one(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(f'["{MODEL}"]\nprovider = "anthropic"\ninput = 3\noutput = 15\n')
    routes = Router(ORDINARY, PriceTable.load(file))
    assert list(routes.fallbacks(routes.find(MODEL))) == []


@pytest.mark.parametrize(
    ("model", "at_openrouter"),
    [
        ("gpt-5-mini", "openai/gpt-5-mini"),
        ("claude-sonnet-4-5", "anthropic/claude-sonnet-4.5"),
        ("google/gemini-2.5-flash", "google/gemini-2.5-flash"),
    ],
)
def test_the_vendors_models_have_a_second_provider(model: str, at_openrouter: str) -> None:
    routes = Router(ORDINARY, PriceTable.load(None))
    (other,) = routes.fallbacks(routes.find(model))
    assert (other.provider.name, other.model) == ("openrouter", at_openrouter)


@pytest.mark.parametrize(
    ("vendor", "model"),
    [("openai", "gpt-5-mini"), ("anthropic", MODEL), ("gemini", "google/gemini-2.5-flash")],
)
def test_a_server_that_only_speaks_as_a_vendor_has_no_second_one(vendor: str, model: str) -> None:
    elsewhere = ORDINARY.model_copy(update={f"{vendor}_base_url": "https://llm.example.org/v1"})
    routes = Router(elsewhere, PriceTable.load(None))
    assert list(routes.fallbacks(routes.find(model))) == []


def test_no_failover_to_a_provider_with_fewer_choices(post: Callable[..., Any], fake: FakeUpstream) -> None:
    fake.will(answer(OVERLOADED, status=503))
    assert post("google/gemini-2.5-flash", n=2).status_code == 503
    assert called(fake) == ["gemini"]
    assert post("google/gemini-2.5-flash").status_code == 503
    assert called(fake)[1:] == ["gemini", "openrouter"]


# -- what is held --------------------------------------------------------------------------------------------


def set_output_price(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, output: int) -> None:
    """Set OpenRouter's price in dollars per million output tokens."""
    fallbacks = gateway.routes.fallbacks
    monkeypatch.setattr(
        gateway.routes,
        "fallbacks",
        lambda route: (replace(other, price=flat(3, output)) for other in fallbacks(route)),
    )


def test_the_hold_grows_for_a_more_expensive_provider(
    post: Callable[..., Any],
    fake: FakeUpstream,
    facts: Facts,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_output_price(gateway, monkeypatch, 6000)  # up to 633 of alice's 1000 credits
    held: list[int] = []

    def note(exchange: Any) -> None:
        held.append(
            facts.fresh().connection().exec_driver_sql("SELECT sum(amount) FROM credit_hold").scalar()
        )
        answer(completion(use=usage(cost=3.0)))(exchange)

    fake.will(answer(OVERLOADED, status=503), note)
    assert post().status_code == 200
    assert held[0] > 600
    assert facts.call().credits == 317  # three dollars and the margin


def test_no_failover_to_a_provider_that_exceeds_the_balance(
    post: Callable[..., Any],
    fake: FakeUpstream,
    facts: Facts,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_output_price(gateway, monkeypatch, 60_000)
    fake.will(answer(OVERLOADED, status=503))
    assert post().status_code == 503
    assert called(fake) == ["anthropic"]
    assert facts.call().state == "failed"


def test_a_free_call_fails_over_only_to_a_free_model(
    post: Callable[..., Any],
    fake: FakeUpstream,
    facts: Facts,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = gateway.routes.find
    monkeypatch.setattr(
        gateway.routes, "find", lambda *names, **keys: replace(found(*names, **keys), price=flat(0, 0))
    )
    fake.will(answer(OVERLOADED, status=503))
    assert post().status_code == 503
    assert called(fake) == ["anthropic"]
    assert facts.call().credits == 0


# -- the SDK's API -------------------------------------------------------------------------------------------


def test_several_answers_fail_over_together(
    web: FlaskClient, rich: Person, run: AgentRun, fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(*[answer(OVERLOADED, status=503)] * 3, answer())
    metadata = {"run_id": run.id, "n": 3}
    response = web.post(
        "/api/v1/chat/completions",
        json={"model": MODEL, "messages": MESSAGES, "max_tokens": 1000, "codebuff_metadata": metadata},
        headers=rich.headers,
    )
    assert (
        response.json["choices"][0]["message"]["content"] == '["Hello there.","Hello there.","Hello there."]'
    )
    assert called(fake) == ["anthropic"] * 3 + ["openrouter"] * 3
    assert facts.call().cost == Decimal("0.0369")


def test_a_stream_fails_over_before_its_first_byte(
    web: FlaskClient, rich: Person, body: dict[str, Any], fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(answer(OVERLOADED, status=529), stream())
    response = web.post(
        "/api/v1/chat/completions", json={**body, "model": MODEL, "stream": True}, headers=rich.headers
    )
    assert response.data.startswith(b": connected ")
    assert events(response.data)[-1]["usage"]["cost"] == 0.0123
    assert facts.call().provider == "openrouter"
