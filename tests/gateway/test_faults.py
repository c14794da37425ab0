"""Provider faults: the status and message for the client, the charge, and a worker that keeps serving."""

import json
import socket
import threading
import time
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from models import ledger
from models.gateway import upstream as upstreams
from models.gateway.upstream import BrokenConnection, HttpUpstream, ProviderRequest, UpstreamTimeouts
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES}
STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}


def served_afterwards(web: FlaskClient, fake: FakeUpstream, person: Person) -> None:
    fake.will(fakes.answer())
    assert web.post(PATH, json=BODY, headers=person.headers).status_code == 200


def head(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


JSON_HEAD = head("HTTP/1.1 200 OK", "Content-Type: application/json", "Content-Length: 500")


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        (fakes.hang_up, 502, "upstream_cut"),
        (fakes.raw(b"\x00\x01 what is this\r\n\r\n"), 502, "upstream_cut"),
        (fakes.raw(head("HTTP/1.1 200 OK", f"X-Big: {'a' * 70_000}")), 502, "upstream_cut"),
        (fakes.raw(JSON_HEAD + b'{"choices": ['), 502, "upstream_cut"),
        (fakes.answer(b"not json"), 502, "upstream_cut"),
        (fakes.answer(b'{"choices": 3}'), 502, "upstream_cut"),
        (fakes.answer(b"[]"), 502, "upstream_cut"),
        (fakes.answer({}, 302, {"Location": "http://127.0.0.1:1/"}), 502, 502),
        (fakes.answer({"error": {"message": "inside", "code": 429}}), 429, 429),
        (fakes.answer({"error": {"message": "inside"}}), 502, None),
        (fakes.answer({"error": "words"}), 502, None),
        *[
            (fakes.answer({"error": {"message": "m"}}, status), status, None)
            for status in (400, 404, 429, 500, 503)
        ],
        (fakes.answer({"error": {"message": "m"}}, 401), 502, "upstream_account"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_whole_fault(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    behaviour: Any,
    status: int,
    code: Any,
    streaming: bool,
) -> None:
    fake.will(behaviour)
    answer = web.post(PATH, json=STREAM if streaming else BODY, headers=rich.headers)
    assert answer.status_code == status, answer.text
    error = answer.json["error"]
    assert error["message"]
    if not streaming:
        assert error["code"] == code
    call = facts.call()
    assert (call.state, call.credits, call.cost) == ("failed", 0, 0)
    assert facts.messages() == []
    served_afterwards(web, fake, rich)


@pytest.mark.parametrize("streaming", [False, True])
def test_silence(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, short_timeouts: None, streaming: bool
) -> None:
    test_whole_fault(web, fake, rich, facts, fakes.silent(3), 504, "upstream_timeout", streaming)


def test_refused_connection(
    web: FlaskClient, rich: Person, facts: Facts, gateway_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    provider = gateway_app.extensions["gateway"].routes.providers["openai"]
    monkeypatch.setattr(provider, "endpoint", type(provider.endpoint)(address, "k"))
    answer = web.post(PATH, json=BODY, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    assert facts.call().credits == 0


def test_hundred_megabytes(web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts) -> None:
    fake.will(fakes.huge(100))
    answer = web.post(PATH, json=BODY, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (502, "upstream_too_large")
    assert facts.call().credits == 0


def test_a_request_on_a_closed_idle_connection_is_retried(
    web: FlaskClient, fake: FakeUpstream, rich: Person
) -> None:
    fake.will(fakes.answer(), fakes.hang_up, fakes.answer())
    for _ in range(2):
        assert web.post(PATH, json=BODY, headers=rich.headers).status_code == 200
    assert len(fake.requests) == 3


def test_a_request_on_a_new_connection_is_not_retried(fake_server: FakeUpstream) -> None:
    fake_server.reset()
    fake_server.will(fakes.hang_up, fakes.answer())
    upstream = HttpUpstream("Provider", UpstreamTimeouts(5, 5, 5))
    with pytest.raises(BrokenConnection):
        upstream.send(ProviderRequest(f"{fake_server.url}/openai/chat/completions", {}, b"{}"))
    assert len(fake_server.requests) == 1


def test_connections_are_kept_alive(web: FlaskClient, fake: FakeUpstream, rich: Person) -> None:
    for body in (BODY, STREAM, BODY, STREAM):
        assert web.post(PATH, json=body, headers=rich.headers).data
        time.sleep(0.05)
    assert len(fake.requests) == 4
    assert fake.connections <= 1


def test_idle_connections_are_closed_after_a_burst(
    fake_server: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server.reset()
    fake_server.will(*[fakes.answer()] * 5)
    upstream = HttpUpstream("Provider", UpstreamTimeouts(5, 5, 5))
    request = ProviderRequest(f"{fake_server.url}/openai/chat/completions", {}, b"{}")

    def call(at_once: int) -> int:
        answers = [upstream.send(request) for _ in range(at_once)]
        for answer in answers:
            answer.read()
            answer.close()
        return sum(len(idle) for idle in upstream._idle.values())

    assert call(4) == 4
    monkeypatch.setattr(upstreams, "IDLE_SECONDS", 0.1)
    time.sleep(0.2)
    assert call(1) == 1


# -- streams -------------------------------------------------------------------------------------------------


def test_stream_cut_in_the_middle_is_counted_and_ends_in_an_error(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.stream(fakes.chunks("one two three four five"), cut_after=4))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    seen = events(answer.data)
    assert seen[-1]["error"]["code"] == "upstream_cut"
    assert b"[DONE]" not in answer.data
    call = facts.call()
    assert (call.state, call.usage_source, call.error) == ("settled", "counted", "upstream_cut")
    assert (call.output_tokens, call.cost > 0) == (3, True)
    assert facts.messages()[0].response == "one two three"


@pytest.mark.parametrize("kind", ["cut", "ended"])
def test_stream_that_breaks_before_any_text_costs_nothing(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, kind: str
) -> None:
    behaviours = {
        "cut": fakes.stream(cut_after=1),
        "ended": fakes.stream([]),
    }
    fake.will(behaviours[kind])
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    assert "error" in events(answer.data)[-1]
    call = facts.call()
    assert (call.state, call.credits) == ("failed", 0)


def test_stream_that_falls_silent_before_any_text_costs_nothing(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, short_timeouts: None
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks(), gate, 1))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    assert events(answer.data)[-1]["error"]["code"] == "upstream_timeout"
    gate.set()
    call = facts.call()
    assert (call.state, call.credits) == ("failed", 0)


def test_stream_that_falls_silent_is_counted(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, short_timeouts: None
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks("one two three"), gate, 3))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    assert events(answer.data)[-1]["error"]["code"] == "upstream_timeout"
    gate.set()
    call = facts.call()
    assert (call.usage_source, call.output_tokens) == ("counted", 2)


def test_stream_without_usage_is_counted_and_the_client_told(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.stream(fakes.chunks("one two three", use=None)))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    last = events(answer.data)[-1]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert answer.data.endswith(b"data: [DONE]\n\n")
    call = facts.call()
    assert (call.usage_source, call.output_tokens, call.error) == ("counted", 3, None)


def test_stream_cut_after_its_end_is_whole(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    script = fakes.chunks("one two three")
    fake.will(fakes.stream(script, cut_after=len(script) - 2))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    assert events(answer.data)[-1]["usage"]["completion_tokens"] == 3
    assert answer.data.endswith(b"data: [DONE]\n\n")
    assert facts.call().error is None


@pytest.mark.parametrize(
    ("bad", "output"),
    [
        (fakes.usage(-5, 10), 10),
        (fakes.usage(10, -5), 3),
        (fakes.usage(10**15, 10), 10),
        (fakes.usage("many", 10), 10),
        (fakes.usage(True, 10), 10),
        (fakes.usage(10, 2, prompt_tokens_details={"cached_tokens": 11}), 3),
        (fakes.usage(10, 10, prompt_tokens_details={"audio_tokens": -1}), 10),
        ({"prompt_tokens": 10}, 3),
        ({"total_tokens": 500}, 500),
        ({"prompt_tokens": None, "completion_tokens": 5000}, 5000),
        ({}, 3),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_impossible_usage_is_counted_instead(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, bad: Any, output: int, streaming: bool
) -> None:
    if streaming:
        fake.will(fakes.stream(fakes.chunks("one two three", use=bad)))
    else:
        fake.will(fakes.answer(fakes.completion("one two three", bad)))
    answer = web.post(PATH, json=STREAM if streaming else BODY, headers=rich.headers)
    usage = events(answer.data)[-1]["usage"] if streaming else answer.json["usage"]
    call = facts.call()
    # the larger of the counted and the reported usage
    assert (call.usage_source, call.output_tokens) == ("counted", output)
    assert (usage["completion_tokens"], usage["prompt_tokens"]) == (output, call.uncached_input_tokens)
    assert call.cost > 0
    assert call.flags == (["usage_unusable"] if bad else None)
    assert call.raw_usage == bad or not bad


@pytest.mark.parametrize(
    "detail",
    [
        {"completion_tokens_details": {"reasoning_tokens": -1}},
        {"prompt_tokens_details": {"cached_tokens": "some"}},
        {"prompt_cache_hit_tokens": -40},
        {"cache_read_input_tokens": 10**15},
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_an_impossible_discount_is_ignored_and_the_sums_stay(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, detail: Any, streaming: bool
) -> None:
    use = fakes.usage(100, 20, **detail)
    fake.will(fakes.stream(fakes.chunks(use=use)) if streaming else fakes.answer(fakes.completion(use=use)))
    web.post(PATH, json=STREAM if streaming else BODY, headers=rich.headers)
    call = facts.call()
    assert (call.usage_source, call.uncached_input_tokens, call.output_tokens) == ("provider", 100, 20)
    assert (call.cache_read_tokens, call.reasoning_tokens, call.flags) == (0, 0, ["usage_unusable"])


@pytest.mark.parametrize("streaming", [False, True])
def test_reported_cost_is_charged_despite_impossible_tokens(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, streaming: bool
) -> None:
    use = fakes.usage(10**15, 10, cost=0.5)
    whole = fakes.completion("one two three", use)
    fake.will(
        fakes.stream(fakes.chunks("one two three", use=use)) if streaming else fakes.answer(whole),
    )
    payload = {**(STREAM if streaming else BODY), "model": "openrouter/openai/gpt-4o-mini"}
    assert web.post(PATH, json=payload, headers=rich.headers).status_code == 200
    call = facts.call()
    assert (call.cost, call.credits, call.usage_source) == (Decimal("0.5"), 53, "counted")
    assert call.flags == ["usage_unusable"]


def test_absurd_tokens_are_charged_and_flagged(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.answer(fakes.completion(use=fakes.usage(60_000_000, 10), model="house-model")))
    assert (
        web.post(PATH, json={**BODY, "model": "openai/house-model"}, headers=rich.headers).status_code == 200
    )
    call = facts.call()
    assert (call.uncached_input_tokens, call.credits) == (60_000_000, 12_660)
    assert call.flags == ["tokens_absurd"]


def test_zero_usage_is_a_zero(web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts) -> None:
    fake.will(fakes.stream(fakes.chunks(use=fakes.usage(0, 0))))
    web.post(PATH, json=STREAM, headers=rich.headers)
    call = facts.call()
    assert (call.usage_source, call.output_tokens, call.credits) == ("provider", 0, 0)


@pytest.mark.parametrize("cost", [-1, 1e9, "NaN", "Infinity", True, []])
def test_impossible_cost_is_priced_instead(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, cost: Any
) -> None:
    fake.will(
        fakes.answer(fakes.completion(use=fakes.usage(1000, 100, cost=cost), model="openai/gpt-4o-mini"))
    )
    body = {**BODY, "model": "openrouter/openai/gpt-4o-mini"}
    assert web.post(PATH, json=body, headers=rich.headers).status_code == 200
    call = facts.call()
    assert call.provider == "openrouter"
    assert call.cost == Decimal("0.00021")
    assert call.flags == ["cost_unusable"]


@pytest.mark.parametrize(
    ("cost", "credits", "flagged"),
    [(1, 106, False), (1.01, 107, True), (9, 950, True), (500, 52_750, True), (20_000, 2_110_000, True)],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_reported_cost_is_charged_however_absurd(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    cost: float,
    credits: int,
    flagged: bool,
    streaming: bool,
) -> None:
    use = fakes.usage(1000, 100, cost=cost)
    fake.will(
        fakes.stream(fakes.chunks(use=use, model="openai/gpt-4o-mini"))
        if streaming
        else fakes.answer(fakes.completion(use=use, model="openai/gpt-4o-mini"))
    )
    payload = {**(STREAM if streaming else BODY), "model": "openrouter/openai/gpt-4o-mini"}
    assert web.post(PATH, json=payload, headers=rich.headers).status_code == 200
    call = facts.call()
    assert (call.cost, call.credits) == (Decimal(str(cost)), credits)
    assert call.flags == (["cost_far_above_list"] if flagged else None)
    assert call.price == {"source": "provider", "listed": "0.00021"}
    listed = web.application.test_cli_runner().invoke(args=["billing", "flagged"]).output
    assert (call.request_id in listed) is flagged
    # the ledger has it
    assert ledger.prove().clean


def test_growing_usage_on_every_chunk_is_billed_once_at_its_last(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    script: list[Any] = [
        fakes.chunk({"content": str(index)}, "stop" if index == 3 else None, usage=fakes.usage(50, index * 5))
        for index in range(1, 4)
    ]
    fake.will(fakes.stream([*script, "[DONE]"]))
    web.post(PATH, json=STREAM, headers=rich.headers)
    call = facts.call()
    assert (call.output_tokens, call.usage_source) == (15, "provider")
    assert len(facts.messages()) == 1


def test_invalid_lines_between_valid_ones_are_skipped(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    script = fakes.chunks("one two")
    half = b'data: {"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
    rubbish = {
        b"data: {not json}\n\n": b": {not json}\n\n",
        b"nonsense\n\n": b": nonsense\n\n",
        b"event: odd\nid: 7\nretry: 3\n\n": b"",
        half % b"\xe4\xb8": half % "\ufffd".encode(),
        b"data: [1,2]\n\ndata: null\n\n": b": [1,2]\n\n: null\n\n",
        b'data: {"choices":{"a":1},"usage":null}\r\n\r\n': b'data: {"choices":[],"usage":null,"object":"chat.completion.chunk"}\n\n',
    }
    fake.will(fakes.stream([script[0], *rubbish, *script[1:]]))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    good = [fakes.sse(event) for event in script]
    assert answer.data == b"".join([good[0], *rubbish.values(), *good[1:]])
    assert facts.call().usage_source == "provider"


def test_events_split_over_packets_are_whole(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    whole = b"".join(fakes.sse(event) for event in fakes.chunks("süß und schön"))
    fake.will(fakes.stream([whole[start : start + 7] for start in range(0, len(whole), 7)]))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    assert answer.data == whole
    assert facts.messages()[0].response == "süß und schön"


def test_nul_in_text_is_passed_on_and_stored_without_it(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.answer(fakes.completion("a\x00b")))
    body = {**BODY, "messages": [{"role": "user", "content": "x\x00y"}]}
    answer = web.post(PATH, json=body, headers=rich.headers)
    assert answer.json["choices"][0]["message"]["content"] == "a\x00b"
    assert fake.requests[0].body["messages"][0]["content"] == "x\x00y"
    (message,) = facts.messages()
    assert "\x00" not in json.dumps([message.response, message.request])


# -- clients that disconnect ---------------------------------------------------------------------------------


def test_disconnected_client_is_billed_once_for_the_whole_usage(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks("one two three"), gate, 3))
    answer = web.post(PATH, json=STREAM, headers=rich.headers, buffered=False)
    assert next(iter(answer.response))
    answer.close()
    gate.set()
    call = facts.call()
    assert (call.state, call.usage_source, call.client_gone) == ("settled", "provider", True)
    assert (call.uncached_input_tokens, call.output_tokens) == (100, 20)
    assert len(facts.messages()) == 1


def test_client_that_disconnects_before_reading_is_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.stream(fakes.chunks("word " * 2000)))
    answer = web.post(PATH, json=STREAM, headers=rich.headers, buffered=False)
    answer.close()
    assert facts.call().state == "settled"


def test_reading_on_for_a_disconnected_client_is_bounded(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.gateway.stream.DRAIN_SECONDS", 0.2)
    fake.will(fakes.stream(fakes.chunks("word " * 200), delay=0.05))  # ten seconds and more
    answer = web.post(PATH, json=STREAM, headers=rich.headers, buffered=False)
    assert next(iter(answer.response))
    answer.close()
    call = facts.call()
    assert (call.state, call.usage_source) == ("settled", "counted")
    assert 0 < call.output_tokens < 150


def test_long_streams_keep_their_hold(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.gateway.in_flight.RENEW_SECONDS", 0.1)
    gateway: Any = web.application.extensions["gateway"]
    monkeypatch.setattr(gateway, "hold_renewer", type(gateway.hold_renewer)(gateway.pool))
    gate = threading.Event()
    seen: list[Any] = []
    extend = __import__("models.ledger.holds", fromlist=["x"]).extend_holds

    def spy(pool: Any, ids: list[str], **kw: Any) -> int:
        seen.append(extend(pool, ids, **kw))
        gate.set()
        return int(seen[-1])

    monkeypatch.setattr("models.gateway.in_flight.holds.extend_holds", spy)
    fake.will(fakes.pausing(fakes.chunks(), gate, 3))
    assert web.post(PATH, json=STREAM, headers=rich.headers).data
    assert seen[0] == 1
    assert facts.call().state == "settled"


def test_streams_are_settled_when_the_server_ends(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks("one two three four"), gate, 4))
    answer = web.post(PATH, json=STREAM, headers=rich.headers, buffered=False)
    blocks = iter(answer.response)
    seen = b""
    while b"three" not in seen:
        seen += next(blocks)
    gateway: Any = web.application.extensions["gateway"]
    gateway.close()
    assert gateway.streams == set()
    assert events(b"".join(blocks))[-1]["error"]["code"] == "server_stopping"
    gate.set()
    call = facts.call()
    assert (call.state, call.error, call.output_tokens) == ("settled", "server_stopping", 3)
