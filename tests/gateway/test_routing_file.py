"""Aliases, fallbacks, retries, circuit breakers and sticky sessions of STOA_PROVIDERS_FILE."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.core.settings import SettingsError
from models.gateway import circuit_breaker, failover
from models.gateway.aliases import Alias, RetryPolicy
from models.gateway.call_session import CallSession, affinity
from models.gateway.circuit_breaker import CircuitBreaker
from models.gateway.failover import retry_seconds
from models.gateway.providers_file import load_providers
from models.gateway.relay import Gateway
from models.gateway.upstream import HttpUpstream, UpstreamTimeouts
from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunks, completion, hang_up, silent, stream, usage
from tests.gateway.conftest import MESSAGES, Facts

BUSY = {"error": {"message": "Busy."}}
PLAIN = answer(completion(use=usage()))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "BACK_OFF_SECONDS", 0.001)


@pytest.fixture
def gateway(routed_app: Flask) -> Gateway:
    return routed_app.extensions["gateway"]


def post(web: FlaskClient, person: Person, model: str, headers: Any = None, **more: Any) -> Any:
    body = {"model": model, "messages": MESSAGES, "max_tokens": 50, **more}
    return web.post("/v1/chat/completions", json=body, headers={**person.headers, **(headers or {})})


def called(fake: FakeUpstream) -> list[str]:
    return [each.path.split("/")[1] for each in fake.requests]


def served(response: Any) -> dict[str, str]:
    """The header X-Stoa-Served."""
    parts = (part.partition("=") for part in response.headers["X-Stoa-Served"].split(", "))
    return {key: value.strip('"') for key, _, value in parts}


# -- aliases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["fast", "FAST"])
def test_an_alias_is_answered_by_its_model_at_its_price(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, facts: Facts, name: str, streamed: bool
) -> None:
    fake.will(stream(chunks(use=usage())) if streamed else PLAIN)
    response = post(routed, rich, name, stream=streamed)
    assert (response.status_code, bool(response.data)) == (200, True)
    assert served(response) == {"asked": name, "provider": "azure", "model": "our-mini", "why": "alias"}
    call = facts.call()
    assert (call.requested_model, call.provider, call.cost) == (name, "azure", Decimal("0.00036"))


def test_aliases_are_listed_and_checked(routed: FlaskClient, routed_app: Flask, rich: Person) -> None:
    listed = {each["id"]: each for each in routed.get("/v1/models", headers=rich.headers).json["data"]}
    assert (listed["fast"]["owned_by"], listed["pair"]["owned_by"]) == ("azure", "azure")
    assert "unserved" not in listed
    assert routed.get("/v1/models/fast", headers=rich.headers).json["id"] == "fast"
    output = routed_app.test_cli_runner().invoke(args=["gateway", "models"]).output
    assert "alias of azure/mini (weight 1), claude-like/opus (weight 3), then local/last" in output
    assert "An alias of azure/mini (weight 1), claude-like/opus (weight 3)" in routed.get("/models/pair").text
    assert "azure, alias" in routed.get("/models?search=pair").text
    doctor = routed_app.test_cli_runner().invoke(args=["doctor"]).output
    assert "alias unserved: The model 'keyless/any' is not served here" in doctor
    assert post(routed, rich, "unserved").status_code in (404, 502)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(["nobody/*", "local/*"], ["local"]), (["chain"], ["azure"]), (["nobody/any"], []), (None, ["azure"])],
)
def test_fallbacks_are_models_that_the_key_allows(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, allowed: list[str] | None, expected: list[str]
) -> None:
    assert rich.user
    headers = {"authorization": f"Bearer {factories.api_key(rich.user, allowed_models=allowed)}"}
    response = post(routed, rich, "chain", headers)
    assert (response.status_code == 200, called(fake)) == (bool(expected), expected)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        *((answer(BUSY, status=status), str(status)) for status in (408, 429, 500, 502, 503, 529)),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_fallbacks_follow_in_order(
    routed: FlaskClient,
    rich: Person,
    fake: FakeUpstream,
    facts: Facts,
    behaviour: Any,
    error: str,
    streamed: bool,
) -> None:
    fake.will(behaviour, answer())
    response = post(routed, rich, "chain", stream=streamed)
    assert (response.status_code, b"Hello" in response.data) == (200, True)
    # nobody listens at the first, the second has no key
    assert called(fake) == ["azure", "local"]
    assert served(response) == {
        "asked": "chain",
        "provider": "local",
        "model": "last",
        "why": "fallback",
        "after": f"nobody/any upstream_unreachable; azure/our-mini {error}",
    }
    call = facts.call()
    assert (call.provider, call.model, call.cost, call.requested_model) == (
        "local",
        "openai/gpt-5-mini",
        0,
        "chain",
    )
    assert call.routing == {
        "why": "alias",
        "after": [
            {"provider": "nobody", "model": "any", "error": "upstream_unreachable"},
            {"provider": "azure", "model": "our-mini", "error": error},
        ],
    }
    assert call.routing_text == f"Alias, after nobody any (upstream_unreachable), azure our-mini ({error})"
    shown = routed.get(f"/api/v1/calls/{call.request_id}", headers=rich.headers).json
    assert shown["routing"] == call.routing


@pytest.mark.parametrize(
    "behaviour", [answer(BUSY, status=400), answer(BUSY, status=401), hang_up, stream(cut_after=2)]
)
def test_what_may_be_charged_or_is_refused_ends_the_call(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, facts: Facts, behaviour: Any
) -> None:
    fake.will(behaviour)
    assert b"error" in post(routed, rich, "local/llama-3:8b", stream=True).data
    assert set(called(fake)) == {"local"}
    assert facts.call().provider == "local"


def test_a_request_goes_to_a_model_that_can_be_sent_it(
    routed: FlaskClient, rich: Person, fake: FakeUpstream
) -> None:
    # only OpenRouter has a price for it
    assert served(post(routed, rich, "mixed", service_tier="priority"))["provider"] == "openrouter"
    assert post(routed, rich, "azure/mini", service_tier="priority").status_code == 400
    assert called(fake) == ["openrouter"]


def test_aliases_stand_for_models_of_other_kinds_too(
    routed: FlaskClient, routed_app: Flask, rich: Person, fake: FakeUpstream, facts: Facts
) -> None:
    vector = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
    body = {
        "object": "list",
        "data": [vector],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    fake.will(answer(BUSY, status=503), answer(body))
    response = routed.post("/v1/embeddings", json={"model": "embed", "input": "Hi"}, headers=rich.headers)
    assert (response.status_code, response.json["data"]) == (200, [vector])
    assert [each.path for each in fake.requests] == ["/vectors/embeddings", "/local/v1/embeddings"]
    assert served(response)["after"] == "vectors/small 503"
    assert (facts.call().provider, facts.call().credits) == ("local", 0)
    assert post(routed, rich, "embed").json["error"]["code"] == "model_not_chat"
    output = routed_app.test_cli_runner().invoke(args=["doctor"]).output
    assert "alias embed" not in output


def test_a_model_may_fall_back_under_its_own_name(
    routed: FlaskClient, rich: Person, fake: FakeUpstream
) -> None:
    fake.will(answer(BUSY, status=503), PLAIN)
    assert served(post(routed, rich, "local/llama-3:8b"))["provider"] == "azure"
    assert called(fake) == ["local", "azure"]


def test_of_several_errors_the_first_is_returned(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, facts: Facts
) -> None:
    fake.will(answer(BUSY, status=429, headers={"Retry-After": "7"}), answer(BUSY, status=500))
    response = post(routed, rich, "local/llama-3:8b")
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    assert "X-Stoa-Served" not in response.headers
    call = facts.call()
    assert (call.provider, call.http_status) == ("local", 429)
    assert call.routing_text == "Alias, after local meta-llama/Llama-3-8B (429), azure our-mini (500)"


# -- retries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviours", "status", "tries"),
    [
        ([answer(BUSY, status=503), answer(BUSY, status=429), PLAIN], 200, 3),
        ([answer(BUSY, status=500)], 500, 3),
        ([answer(BUSY, status=429, headers={"Retry-After": "0.01"}), PLAIN], 200, 2),
        ([answer(BUSY, status=429, headers={"Retry-After": "60"}), PLAIN], 429, 1),
        ([answer(BUSY, status=400), PLAIN], 400, 1),
        ([silent(1), PLAIN], 200, 2),
    ],
    ids=["busy twice", "always", "after a moment", "too long", "refused", "timeout"],
)
def test_retries_by_class_of_error(
    routed: FlaskClient,
    rich: Person,
    fake: FakeUpstream,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    behaviours: list[Any],
    status: int,
    tries: int,
) -> None:
    upstream = gateway.routes.providers["azure"].upstream
    assert isinstance(upstream, HttpUpstream)
    monkeypatch.setattr(upstream, "timeouts", UpstreamTimeouts(5, 0.3, 5))
    fake.will(*behaviours)
    assert post(routed, rich, "patient").status_code == status
    assert called(fake) == ["azure"] * tries


def test_retries_of_plain_models_and_of_all_targets(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = RetryPolicy(attempts=1, seconds=5)
    monkeypatch.setattr(gateway.routes, "retry", once)
    fake.will(answer(BUSY, status=503), PLAIN)
    response = post(routed, rich, "azure/mini")
    assert (response.status_code, served(response)["after"]) == (200, "azure/our-mini 503")
    fake.requests.clear()
    own = "local/llama-3:8b"
    monkeypatch.setitem(gateway.routes.aliases, own, replace(gateway.routes.aliases[own], retry=once))
    monkeypatch.setattr(gateway.routes, "_minute", 0)
    # the second refuses what the first is too busy for
    fake.will(answer(BUSY, status=503), answer(BUSY, status=400), PLAIN)
    assert served(post(routed, rich, own))["provider"] == "local"
    assert called(fake) == ["local", "azure", "local"]
    monkeypatch.setattr(gateway.routes, "_minute", 0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("3", 3),
        ("0.5", 0.5),
        ("-3", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("1e999", 0),
    ],
)
def test_retry_after_may_be_anything(value: str | None, seconds: float) -> None:
    assert retry_seconds(value) == seconds


# -- circuit breakers --------------------------------------------------------------------------------------------


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1_000.0
        monkeypatch.setattr(circuit_breaker.time, "monotonic", lambda: self.seconds)


def outcome(breaker: CircuitBreaker, text: str) -> None:
    """Calls that were answered (+) or failed (-)."""
    for each in text:
        assert breaker.admits()
        breaker.succeeded() if each == "+" else breaker.failed("500")


@pytest.mark.parametrize(
    ("calls", "opens"),
    [
        ("-" * 9, False),
        ("-" * 10, True),
        ("+" * 10 + "-" * 9, False),
        ("+" * 10 + "-" * 10, True),
        ("+-" * 4, False),
    ],
)
def test_a_breaker_opens_for_a_share_of_failures(calls: str, opens: bool) -> None:
    breaker = CircuitBreaker("p", "m")
    outcome(breaker, calls)
    assert breaker.is_open == opens


@pytest.mark.parametrize(
    ("answered", "broken", "opens"),
    [(0, 9, False), (0, 10, True), (1, 9, True), (10, 9, False), (10, 10, True), (11, 10, False)],
)
def test_an_answer_that_breaks_off_counts_once_as_failed(answered: int, broken: int, opens: bool) -> None:
    breaker = CircuitBreaker("p", "m")
    outcome(breaker, "+" * answered)
    for _ in range(broken):
        breaker.succeeded()  # its first byte came
        breaker.broke_off("upstream_cut")
    assert breaker.is_open == opens


def test_an_old_answer_that_breaks_off_is_no_probe() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        breaker = CircuitBreaker("p", "m")
        outcome(breaker, "-" * 10)
        clock.seconds += 10
        assert breaker.admits()  # the probe
        breaker.broke_off("upstream_cut")
        assert breaker.is_open
        breaker.succeeded()
        assert not breaker.is_open


def test_a_breaker_forgets_probes_and_closes() -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        breaker = CircuitBreaker("p", "m")
        outcome(breaker, "-" * 9)
        clock.seconds += 31  # the window has passed
        outcome(breaker, "-" * 9)
        assert not breaker.is_open
        outcome(breaker, "-")
        assert not breaker.admits()
        assert breaker.seconds_left == 10
        clock.seconds += 10
        assert breaker.admits()  # the probe
        assert not breaker.admits()
        breaker.ended()  # which said nothing
        outcome(breaker, "-")
        assert breaker.seconds_left == 20
        clock.seconds += 20
        outcome(breaker, "+")
        assert not breaker.is_open
        outcome(breaker, "-" * 9)
        assert not breaker.is_open


def test_an_open_upstream_is_left_alone(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, facts: Facts, gateway: Gateway
) -> None:
    breaker = gateway.routes.breakers.of("azure", "our-mini")
    for _ in range(10):
        breaker.failed("500")
    response = post(routed, rich, "fast")
    assert (response.status_code, response.json["error"]["code"]) == (503, "upstream_unavailable")
    assert "in the last minute (500)" in response.json["error"]["message"]
    assert 1 <= int(response.headers["Retry-After"]) <= 10
    assert called(fake) == []
    assert (facts.call().state, facts.call().http_status) == ("failed", 503)
    assert 'stoa_upstream_open{model="our-mini",provider="azure"} 1.0' in routed.get("/metrics").text
    # where another can serve, it does at once
    for _ in range(4):
        assert served(post(routed, rich, "pair"))["provider"] == "claude-like"
    breaker._open_until = 0.0
    fake.will(PLAIN)
    assert post(routed, rich, "fast").status_code == 200
    assert not breaker.is_open


def test_calls_open_and_skip_a_failing_upstream(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, gateway: Gateway
) -> None:
    fake.will(answer(BUSY, status=500))
    for _ in range(10):
        assert post(routed, rich, "azure/mini").status_code == 500
    fake.will(PLAIN)
    fake.requests.clear()
    response = post(routed, rich, "chain")
    assert called(fake) == ["local"]
    assert served(response)["provider"] == "local"


def test_streams_that_break_off_open_an_upstream(
    routed: FlaskClient,
    rich: Person,
    fake: FakeUpstream,
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # however long the ten calls take
    monkeypatch.setattr("models.gateway.circuit_breaker.SLOT_SECONDS", 600.0)
    fake.will(stream(cut_after=3))
    for _ in range(10):
        assert b"upstream_cut" in post(routed, rich, "azure/mini", stream=True).data
    assert [(provider, model) for provider, model, _ in gateway.routes.breakers.open()] == [
        ("azure", "our-mini")
    ]


@pytest.mark.parametrize("status", [400, 404, 429])
def test_requests_that_are_refused_open_nothing(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, gateway: Gateway, status: int
) -> None:
    fake.will(answer(BUSY, status=status))
    for _ in range(11):
        assert post(routed, rich, "azure/mini").status_code == status
    assert not [*gateway.routes.breakers.open()]


def test_an_upstream_that_asks_for_rest_comes_last(
    routed: FlaskClient, rich: Person, fake: FakeUpstream
) -> None:
    fake.will(answer(BUSY, status=429, headers={"Retry-After": "60"}), PLAIN)
    sessions = {"x-session-id": "one"}
    first = called_of(post(routed, rich, "pair", sessions), fake)
    assert len(first) == 2
    assert called_of(post(routed, rich, "pair", sessions), fake)[0] != first[0]


def called_of(response: Any, fake: FakeUpstream) -> list[str]:
    assert response.status_code == 200
    found = called(fake)
    fake.requests.clear()
    return found


# -- sessions ----------------------------------------------------------------------------------------------------


PAIR = Alias("pair", (("a", 1.0), ("b", 3.0)), ("c",))


@pytest.mark.parametrize("sessions", [True, False])
def test_targets_share_calls_by_weight(sessions: bool) -> None:
    first = Counter(PAIR.order(f"session-{each}" if sessions else None)[0] for each in range(4000))
    assert first["b"] / 4000 == pytest.approx(0.75, abs=0.04)
    assert PAIR.order("x")[-1] == "c"
    assert len({PAIR.order("x") for _ in range(20)}) == 1


def test_a_new_target_takes_only_its_share_of_the_sessions() -> None:
    more = Alias("pair", (*PAIR.targets, ("d", 4.0)))
    for each in range(500):
        before, after = PAIR.order(str(each))[0], more.order(str(each))[0]
        assert after in (before, "d")


def test_calls_of_a_session_go_to_one_target(routed: FlaskClient, rich: Person, fake: FakeUpstream) -> None:
    fake.will(PLAIN)
    for session in range(4):
        found = [served(post(routed, rich, "pair", {"X-Session-Id": str(session)})) for _ in range(2)]
        assert found[0] == found[1]
        assert found[0]["why"] == "sticky"
    assert served(post(routed, rich, "pair"))["why"] == "weight"


@pytest.mark.parametrize(
    ("session", "run", "body", "found"),
    [
        (None, None, {}, None),
        (CallSession("client", "a"), None, {"user": "b"}, "a"),
        (None, "a", {"prompt_cache_key": "b"}, "a"),
        (None, None, {"prompt_cache_key": "a", "user": "b"}, "a"),
        (None, None, {"safety_identifier": "a", "user": "b"}, "a"),
        (None, None, {"user": "a", "metadata": {"user_id": "b"}}, "a"),
        (None, None, {"metadata": {"user_id": "a"}}, "a"),
        (None, None, {"metadata": {"user_id": 5}, "prompt_cache_key": [], "user": {}}, None),
        (None, None, {"metadata": [], "user": ""}, None),
        (None, None, {"user": "x" * 900}, "x" * 500),
    ],
)
def test_signals_of_a_conversation_by_priority(session: Any, run: Any, body: Any, found: str | None) -> None:
    assert affinity(session, run, body) == found


# -- the header --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("door", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 50}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1beta/models/fast:", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
    ],
)
def test_each_door_says_who_served(
    routed: FlaskClient, rich: Person, fake: FakeUpstream, door: str, body: dict[str, Any], streamed: bool
) -> None:
    if door.endswith(":"):
        door += "streamGenerateContent?alt=sse" if streamed else "generateContent"
    else:
        body = {**body, "model": "fast", "stream": streamed}
    response = routed.post(door, json=body, headers=rich.headers)
    assert (response.status_code, bool(response.data)) == (200, True), response.data
    assert served(response) == {"asked": "fast", "provider": "azure", "model": "our-mini", "why": "alias"}


def test_a_plain_model_and_odd_names(routed: FlaskClient, rich: Person, fake: FakeUpstream) -> None:
    assert served(post(routed, rich, "azure/mini"))["why"] == "model"
    odd = post(routed, rich, 'local/ü"\\')
    assert odd.headers["X-Stoa-Served"].startswith('asked="local/%C3%BC%22%5C", provider="local"')


# -- the file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[aliases]\nx = 3", "aliases.x: "),
        ("[aliases]\nx = []", "aliases.x: "),
        ("[aliases.x]\ntargets = []", "aliases.x.targets: "),
        ('[aliases.x]\ntargets = ["a", "A"]', "a target of the alias 'x' is there twice"),
        ('[aliases.x]\ntargets = [{model = "a", weight = 0}]', "aliases.x.targets.0.weight: "),
        ('[aliases]\nx = "y"\ny = "z"', "'y', a target of 'x', is an alias itself"),
        ('[aliases]\nx = "y"\nX = "z"', "'X' cannot be an alias, or is one twice"),
        ('[aliases]\n"stoa/demo" = "y"', "'stoa/demo' cannot be an alias"),
        ("[retries]\nattempts = 11", "retries.attempts: "),
        ('[retries]\non = ["rain"]', "retries.on.0: "),
    ],
)
def test_invalid_aliases_say_what_to_mend(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as error:
        load_providers(file, UpstreamTimeouts())
    assert says in str(error.value)


def test_retries_of_all_calls(tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(
        '[retries]\nattempts = 2\n[aliases]\nx = "y"\n[aliases.z]\ntargets = "y"\nretries = {seconds = 3}\n'
    )
    found = load_providers(file, UpstreamTimeouts())
    assert (found.retry.attempts, found.aliases["x"].retry.attempts) == (2, 2)
    assert (found.aliases["z"].retry.attempts, found.aliases["z"].retry.seconds) == (0, 3)
