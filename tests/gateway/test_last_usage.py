"""The last usage is billed: a stream is settled at its end, before its last chunk is sent."""

import threading
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.gateway.chat_format import ChatMeter
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, events

PATH = "/v1/chat/completions"
STREAM: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES, "stream": True}
WITH_USAGE = {**STREAM, "stream_options": {"include_usage": True}}

use = fakes.usage
ZERO = use(0, 0)


def role(usage: Any = None) -> Any:
    return with_usage(fakes.chunk({"role": "assistant", "content": ""}), usage)


def text(words: str = "one two three ", usage: Any = None) -> Any:
    return with_usage(fakes.chunk({"content": words}), usage)


def stop(usage: Any = None) -> Any:
    return with_usage(fakes.chunk({}, "stop"), usage)


def only(usage: Any) -> Any:
    return fakes.chunk(None, usage=usage)


def with_usage(chunk: Any, usage: Any) -> Any:
    return chunk if usage is None else {**chunk, "usage": usage}


def moonshot(usage: Any) -> Any:
    chunk = fakes.chunk({}, "stop")
    chunk["choices"][0]["usage"] = usage
    return chunk


def groq(usage: Any) -> Any:
    return fakes.chunk({}, "stop", x_groq={"id": "req_1", "usage": usage})


COMPLETE = {
    "growing from the first chunk on": ([role(use(1000, 0)), text("a", use(1000, 200)), stop(use(1000, 400))], (1000, 400)),
    "growing, and once more at the end": ([role(use(1000, 0)), text("a", use(1000, 1)), stop(use(1000, 2)), only(use(1000, 2))], (1000, 2)),
    "after the finish": ([role(), text(), stop(), only(use(100, 20))], (100, 20)),
    "with the finish": ([role(), text(), stop(use(100, 20))], (100, 20)),
    "with the last text": ([role(), text(usage=use(100, 20)), stop()], (100, 20)),
    "all in one chunk": ([with_usage(fakes.chunk({"content": "a"}, "stop"), use(100, 20))], (100, 20)),
    "before the finish": ([role(), text(), only(use(100, 20)), stop()], (100, 20)),
    "twice at the end": ([role(), text(), stop(), only(use(100, 20)), only(use(100, 30))], (100, 30)),
    "shrinking": ([role(), text("a", use(100, 50)), stop(use(100, 40))], (100, 40)),
    "in the middle, and again": ([text("a"), only(use(100, 5)), text("b"), stop(), only(use(100, 9))], (100, 9)),
    "zeros before": ([role(ZERO), text("a", ZERO), stop(), only(use(100, 20))], (100, 20)),
    "zeros after": ([role(), text(), stop(use(100, 20)), only(ZERO)], (100, 20)),
    "empty before": ([role({}), text("a", {}), stop({}), only(use(100, 20))], (100, 20)),
    "empty after": ([role(), text(), stop(use(100, 20)), only({})], (100, 20)),
    "nulls after": ([role(), text(), stop(use(100, 20)), only({"prompt_tokens": None, "completion_tokens": None})], (100, 20)),
    "zeros with details after": ([text(), stop(use(100, 20)), only(use(0, 0, prompt_tokens_details={"cached_tokens": 0}, cost=0, tier="x"))], (100, 20)),
    "only zeros": ([role(), text(), stop(), only(ZERO)], (0, 0)),
    "only zeros, with the finish": ([role(ZERO), text("a", ZERO), stop(ZERO)], (0, 0)),
    "in the choice": ([role(), text(), moonshot(use(100, 20))], (100, 20)),
    "in x_groq": ([role(), text(), groq(use(100, 20))], (100, 20)),
    "in x_groq beside zeros": ([role(), text(), {**groq(use(100, 20)), "usage": ZERO}], (100, 20)),
    "in parts": ([role({"prompt_tokens": 100, "completion_tokens": 0}), text(), stop({"completion_tokens": 20})], (100, 20)),
    "no text": ([role(), stop(use(100, 0))], (100, 0)),
    "nothing but usage": ([only(use(100, 0))], (100, 0)),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["done", "body"])
@pytest.mark.parametrize("include_usage", [True, False])
@pytest.mark.parametrize(("script", "billed"), COMPLETE.values(), ids=COMPLETE.keys())
def test_the_last_usage_is_billed_and_shown(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    script: list[Any],
    billed: tuple[int, int],
    include_usage: bool,
    ending: str,
) -> None:
    if ending == "body" and len(script) == 1 and not script[0]["choices"]:
        pytest.skip("without choices, the end of the body does not finish the answer")
    fake.will(fakes.stream([*script, "[DONE]"] if ending == "done" else script))
    answer = web.post(PATH, json=WITH_USAGE if include_usage else STREAM, headers=rich.headers)
    call = facts.call()
    assert (call.state, call.usage_source, call.error) == ("settled", "provider", None)
    assert (call.uncached_input_tokens, call.output_tokens) == billed
    assert len(facts.messages()) == 1
    assert answer.data.endswith(b"data: [DONE]\n\n")
    seen = events(answer.data)
    shown = [event["usage"] for event in seen if event.get("usage")]
    if include_usage:
        assert (shown[-1].get("prompt_tokens"), shown[-1]["completion_tokens"]) == billed
    else:
        assert shown == []
    sent = [fakes.sse(event) for event in script if "usage" not in event]
    assert all(line in answer.data for line in sent)
    said = "".join(c["delta"].get("content", "") for event in seen for c in event["choices"])
    assert said == "".join(c["delta"].get("content", "") for event in script for c in event["choices"])
    assert [c["finish_reason"] for event in seen for c in event["choices"]][-1:] == ["stop"] * bool(
        [event for event in script if event["choices"]]
    )


COUNTED = {
    "only in the first chunk": ([role(use(1000, 0)), text("word " * 50), stop()], "whole", (1000, 51)),
    "before the text": ([only(use(1000, 7)), text("word " * 50), stop()], "whole", (1000, 51)),
    "cut": ([role(use(1000, 0)), text("a", use(1000, 200)), text("b")], "cut", (1000, 200)),
    "cut after the figures": ([role(use(1000, 0)), text("a", use(1000, 200))], "cut", (1000, 200)),
    "cut after more than was reported": ([role(use(5, 1)), text("word " * 50)], "cut", (None, 51)),
    "cut before any text": ([role(use(1000, 0))], "cut", (1000, 0)),
    "ended too early": ([role(use(1000, 0)), text("a", use(1000, 200))], "body", (1000, 200)),
    "an error after it": ([text("a", use(1000, 200)), {"error": {"message": "m"}}], "done", (1000, 200)),
    "last one absurd": ([text("a", use(1000, 200)), stop(use(1000, -1))], "done", (1000, 200)),
}  # fmt: skip


@pytest.mark.parametrize(("script", "ending", "billed"), COUNTED.values(), ids=COUNTED.keys())
def test_an_interim_usage_is_a_lower_bound(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    script: list[Any],
    ending: str,
    billed: tuple[int | None, int],
) -> None:
    if ending == "cut":
        fake.will(fakes.stream([*script, "never sent"], cut_after=len(script), delay=0.02))
    else:
        fake.will(fakes.stream(script if ending == "body" else [*script, "[DONE]"]))
    answer = web.post(PATH, json=WITH_USAGE, headers=rich.headers)
    call = facts.call()
    assert call.state == "settled"
    assert call.output_tokens == billed[1]
    if billed[0] is None:
        assert call.uncached_input_tokens > 5
    else:
        assert call.uncached_input_tokens == billed[0]
    shown = [event["usage"] for event in events(answer.data) if event.get("usage")]
    if b'"error"' not in answer.data or ending == "cut":
        assert (shown[-1]["prompt_tokens"], shown[-1]["completion_tokens"]) == (
            call.uncached_input_tokens,
            call.output_tokens,
        )


def test_cached_input_of_a_broken_stream_stays_cached() -> None:
    meter = ChatMeter()
    usage = use(1000, 5, prompt_tokens_details={"cached_tokens": 900})
    for event in (role(usage), text("word " * 50)):
        meter.event(event)
    assert meter.usage() is None
    assert meter.reported is not None
    assert (meter.reported.cache_read, meter.reported.uncached_input) == (900, 100)
    assert meter.raw_usage is usage


def test_text_with_usage_does_not_wait(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    gate = threading.Event()
    script = [role(use(10, 0)), text("one", use(10, 1)), text(" two", use(10, 2)), stop(use(10, 3)), "[DONE]"]
    fake.will(fakes.pausing(script, gate, 3))
    answer = web.post(PATH, json=WITH_USAGE, headers=rich.headers, buffered=False)
    seen = b""
    for block in answer.response:
        seen += block
        if b" two" in seen:
            break
    assert facts.calls() == []
    gate.set()
    assert facts.call().output_tokens == 3


def test_the_hold_grows_with_the_usage_that_is_reported_on_the_way(
    web: FlaskClient, fake: FakeUpstream, alice: Person, session: OrmSession, facts: Facts
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 10)
    # 5 credits for reasoning tokens without text, and 53
    script = [
        text("a", use(100, 5_000)),
        text("b", use(100, 50_000)),
        text("c", use(100, 50_001)),
        stop(),
        "[DONE]",
    ]
    fake.will(fakes.stream(script, delay=0.02))
    request = {**STREAM, "model": "openai/house-model", "max_tokens": 100}
    answer = web.post(PATH, json=request, headers=alice.headers)
    assert events(answer.data)[-1]["error"]["code"] == "insufficient_credits"
    call = facts.call()
    assert (call.error, call.output_tokens) == ("insufficient_credits", 50_000)


@pytest.mark.parametrize("ending", ["done", "body"])
def test_the_terminal_chunk_waits_for_the_bill(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, ending: str
) -> None:
    script = [
        role(use(10, 0)),
        text("one", use(10, 1)),
        stop(use(10, 3)),
        *(["[DONE]"] if ending == "done" else []),
    ]
    fake.will(fakes.stream(script, delay=0.01))
    answer = web.post(PATH, json=WITH_USAGE, headers=rich.headers, buffered=False)
    for block in answer.response:
        if b'"stop"' in block or b"[DONE]" in block:
            assert len(facts.messages()) == 1
            assert facts.holds() == 0
            return
    pytest.fail("no end")


@pytest.mark.parametrize(
    "script",
    [
        [role(use(1000, 0)), text("a", use(1000, 200)), stop(use(1000, 400, cost=0.02))],
        [role(), text("a", use(1000, 400, cost=0.01)), stop(), only(use(1000, 400, cost=0.02))],
        [role(), text("a"), stop(), only(use(1000, 400, cost=0.02)), only(ZERO)],
        [role(), text("a", use(1000, 400, cost=0.02)), stop()],
    ],
)
def test_the_cost_shown_last_is_the_cost_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts, script: list[Any]
) -> None:
    fake.will(fakes.stream([*script, "[DONE]"]))
    answer = web.post("/api/v1/chat/completions", json={**body, "stream": True}, headers=rich.headers)
    shown = [event["usage"] for event in events(answer.data) if event.get("usage")]
    assert facts.call().cost == Decimal("0.02")
    assert (shown[-1]["cost"], shown[-1]["completion_tokens"]) == (0.02, 400)


@pytest.mark.parametrize("where", ["choice", "x_groq"])
def test_usage_elsewhere_in_a_whole_answer(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts, where: str
) -> None:
    whole = fakes.completion(use=None)
    if where == "choice":
        whole["choices"][0]["usage"] = use(100, 20)
    else:
        whole["x_groq"] = {"usage": use(100, 20)}
    fake.will(fakes.answer(whole))
    request = {**body, "model": "openai/gpt-4o-mini"}
    answer = web.post("/api/v1/chat/completions", json=request, headers=rich.headers)
    assert answer.json["usage"]["completion_tokens"] == 20
    assert answer.json["usage"]["cost"] > 0
    call = facts.call()
    assert (call.usage_source, call.uncached_input_tokens, call.output_tokens) == ("provider", 100, 20)


# -- empty answers -------------------------------------------------------------------------------------------

EMPTY_STREAMS = {
    "nothing": [],
    "done": ["[DONE]"],
    "role": [role(), "[DONE]"],
    "role and empty chunks": [role(), text(""), fakes.chunk(None), "[DONE]"],
    "role, no done": [role()],
    "zeros": [role(ZERO), only(ZERO), "[DONE]"],
    "comments": [b": a\n\n", b": b\n\n", "[DONE]"],
    "no choices": [{"id": "x", "choices": []}, "[DONE]"],
}


@pytest.mark.parametrize("script", EMPTY_STREAMS.values(), ids=EMPTY_STREAMS.keys())
@pytest.mark.parametrize("door", ["openai", "codebuff"])
def test_an_empty_stream_is_an_error_and_not_billed(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    script: list[Any],
    door: str,
) -> None:
    fake.will(fakes.stream(script))
    path, request = (
        (PATH, WITH_USAGE) if door == "openai" else ("/api/v1/chat/completions", {**body, "stream": True})
    )
    answer = web.post(path, json=request, headers=rich.headers)
    error = events(answer.data)[-1]["error"]
    assert error["code"] == "upstream_empty"
    assert "Nothing was charged" in error["message"]
    assert b"[DONE]" not in answer.data
    call = facts.call()
    assert (call.state, call.error, call.credits) == ("failed", "upstream_empty", 0)
    assert facts.messages() == []


@pytest.mark.parametrize(
    "whole",
    [b"", b"  \n", {}, {"choices": []}, {"choices": None}, {"id": "x", "choices": [], "usage": {}},
     {"choices": [], "usage": None}, {"choices": [], "usage": ZERO}],
)  # fmt: skip
@pytest.mark.parametrize("door", ["openai", "codebuff"])
def test_an_empty_answer_is_an_error_and_not_billed(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    body: dict[str, Any],
    facts: Facts,
    whole: Any,
    door: str,
) -> None:
    fake.will(fakes.answer(whole))
    path, request = (
        (PATH, {**STREAM, "stream": False}) if door == "openai" else ("/api/v1/chat/completions", body)
    )
    answer = web.post(path, json=request, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (502, "upstream_empty")
    assert "Nothing was charged" in answer.json["error"]["message"]
    call = facts.call()
    assert (call.state, call.error, call.credits) == ("failed", "upstream_empty", 0)
    assert facts.messages() == []


@pytest.mark.parametrize("streaming", [True, False])
def test_usage_without_an_answer_is_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, streaming: bool
) -> None:
    fake.will(
        fakes.stream([only(use(100, 0)), "[DONE]"])
        if streaming
        else fakes.answer({"id": "x", "choices": [], "usage": use(100, 0)})
    )
    answer = web.post(PATH, json={**WITH_USAGE, "stream": streaming}, headers=rich.headers)
    assert answer.status_code == 200
    call = facts.call()
    assert (call.state, call.usage_source, call.uncached_input_tokens) == ("settled", "provider", 100)


@pytest.mark.parametrize("reason", ["stop", "content_filter"])
@pytest.mark.parametrize("streaming", [True, False])
def test_a_finished_empty_choice_is_passed_on_and_not_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, streaming: bool, reason: str
) -> None:
    whole = fakes.completion("", None)
    whole["choices"][0]["finish_reason"] = reason
    fake.will(fakes.stream([role(), fakes.chunk({}, reason), "[DONE]"]) if streaming else fakes.answer(whole))
    answer = web.post(PATH, json={**WITH_USAGE, "stream": streaming}, headers=rich.headers)
    assert answer.status_code == 200
    assert reason in answer.text
    assert "error" not in answer.text
    call = facts.call()
    assert (call.state, call.credits, call.cost) == ("failed", 0, 0)
    assert facts.messages() == []
