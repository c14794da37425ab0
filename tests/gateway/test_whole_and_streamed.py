"""A whole answer to a streamed request, and the reverse: the client gets what it requested, and is billed."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Behaviour, Exchange, FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts

pytestmark = pytest.mark.usefixtures("kind")

PATH = "/v1/chat/completions"
CODEBUFF = "/api/v1/chat/completions"
BODY: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES}
STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
USE = fakes.usage(100, 20)


def sent(body: bytes, kind: str | None, size: int = 1 << 20) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.head(200, {"Transfer-Encoding": "chunked", **({"Content-Type": kind} if kind else {})})
        for start in range(0, len(body), size):
            exchange.chunk(body[start : start + size])
        exchange.send(b"0\r\n\r\n")

    return behave


def chunks_of(answer: bytes) -> list[ChatCompletionChunk]:
    """The chunks as OpenAI's client reads them."""
    events = list(SSEDecoder().iter_bytes(iter([answer])))
    assert [event.data for event in events].count("[DONE]") == 1
    assert events[-1].data == "[DONE]"
    return [ChatCompletionChunk.construct(**event.json()) for event in events[:-1]]


def message(**message: Any) -> dict[str, Any]:
    whole = fakes.completion("", USE)
    whole["choices"][0]["message"] = {"role": "assistant", "content": None, **message}
    return whole


CALLS = [
    {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
    {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]
MESSAGES_OF = {
    "text": message(content="Hello there."),
    "tool calls": message(tool_calls=CALLS),
    "text and tool calls": message(content="Hello.", tool_calls=CALLS),
    "reasoning": message(content="Hello.", reasoning_content="Well, well."),
    "reasoning details": message(
        content="Hello.",
        reasoning="Well.",
        reasoning_details=[{"type": "reasoning.text", "text": "Well.", "index": 0, "signature": "s"}],
    ),
    "refusal": message(refusal="No."),
    "function call": message(function_call={"name": "f", "arguments": "{}"}),
    "picture": message(content="", images=[{"type": "image_url", "image_url": {"url": "data:x"}, "index": 0}]),
    "sound": message(audio={"id": "x", "data": "AAAA", "transcript": "Hello.", "expires_at": 1}),
    "annotations": message(content="Hello.", annotations=[{"type": "url_citation", "url_citation": {"url": "u"}}]),
}  # fmt: skip

FRAMES: dict[str, tuple[Callable[[Any], bytes], str | None]] = {
    "json": (lambda body: json.dumps(body).encode(), "application/json"),
    "json, charset": (lambda body: json.dumps(body).encode(), "application/json; charset=utf-8"),
    "pretty json": (lambda body: json.dumps(body, indent=2).encode(), "application/json"),
    "json after white space": (lambda body: b"\n\n   \n" + json.dumps(body).encode(), "application/json"),
    "json with a mark": (lambda body: b"\xef\xbb\xbf" + json.dumps(body).encode(), "application/json"),
    "json called a stream": (lambda body: json.dumps(body).encode(), "text/event-stream"),
    "json called a stream, pretty": (lambda body: json.dumps(body, indent=2).encode(), "text/event-stream"),
    "json called a stream, after white space": (
        lambda body: b"\n \n" + json.dumps(body, indent=1).encode() + b"\n",
        "text/event-stream",
    ),
    "json called text": (lambda body: json.dumps(body).encode(), "text/plain"),
    "json called nothing": (lambda body: json.dumps(body, indent=4).encode(), None),
    "a list of one": (lambda body: json.dumps([body]).encode(), "application/json"),
    "a line": (lambda body: json.dumps(body).encode() + b"\n", "application/x-ndjson"),
    "an event": (lambda body: b"data: " + json.dumps(body).encode() + b"\n\n", "text/event-stream"),
    "an event, and the end": (
        lambda body: b"data: " + json.dumps(body).encode() + b"\n\ndata: [DONE]\n\n",
        "text/event-stream",
    ),
    "an event called json": (
        lambda body: b"data: " + json.dumps(body).encode() + b"\n\n",
        "application/json",
    ),
}


@pytest.mark.parametrize("size", [1 << 20, 11])
@pytest.mark.parametrize("framed", FRAMES.values(), ids=FRAMES.keys())
@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_whole_answer_to_a_stream_becomes_one(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    framed: Any,
    size: int,
    wants_usage: bool,
) -> None:
    frame, kind = framed
    fake.will(sent(frame(fakes.completion("Hello there.", USE)), kind, size))
    answer = web.post(PATH, json=STREAM if wants_usage else {**BODY, "stream": True}, headers=rich.headers)
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    chunks = chunks_of(answer.data)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == "Hello there."
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    reported = [chunk.usage for chunk in chunks if chunk.usage]
    assert [use.completion_tokens for use in reported] == ([20] if wants_usage else [])
    call = facts.call()
    assert (call.state, call.usage_source, call.error) == ("settled", "provider", None)
    assert (call.uncached_input_tokens, call.output_tokens) == (100, 20)
    assert facts.messages()[0].response == "Hello there."


@pytest.mark.parametrize("whole", MESSAGES_OF.values(), ids=MESSAGES_OF.keys())
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_every_field_of_a_message_reaches_the_stream(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, whole: dict[str, Any], kind: str
) -> None:
    fake.will(sent(json.dumps(whole).encode(), kind))
    chunks = chunks_of(web.post(PATH, json=STREAM, headers=rich.headers).data)
    (delta,) = [choice.delta for chunk in chunks for choice in chunk.choices]
    found = delta.to_dict()
    calls = found.get("tool_calls") or []
    assert [call.pop("index") for call in calls] == list(range(len(calls)))
    assert found == whole["choices"][0]["message"]
    assert facts.call().output_tokens == 20


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_the_cost_of_a_whole_answer_is_in_the_stream(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts, kind: str
) -> None:
    fake.will(sent(json.dumps(fakes.completion(use=fakes.usage(cost=0.5))).encode(), kind))
    answer = web.post(CODEBUFF, json={**body, "stream": True}, headers=rich.headers)
    (use,) = [chunk.usage for chunk in chunks_of(answer.data) if chunk.usage]
    assert use.to_dict()["cost"] == 0.5
    assert (facts.call().cost, facts.call().credits) == (Decimal("0.5"), 53)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_whole_answer_without_usage_is_counted(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, kind: str
) -> None:
    fake.will(sent(json.dumps(fakes.completion("word " * 50, None)).encode(), kind))
    chunks = chunks_of(web.post(PATH, json=STREAM, headers=rich.headers).data)
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 51
    assert (facts.call().usage_source, facts.call().output_tokens) == ("counted", 51)


def test_a_long_whole_answer_is_not_cut(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    words = "word " * 60_000
    fake.will(sent(json.dumps(fakes.completion(words, USE), indent=1).encode(), "text/event-stream", 9_000))
    chunks = chunks_of(web.post(PATH, json=STREAM, headers=rich.headers).data)
    assert chunks[0].choices[0].delta.content == words


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_every_choice_of_a_whole_answer_is_streamed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, kind: str
) -> None:
    whole = fakes.completion("one", USE)
    whole["choices"].append(
        {**whole["choices"][0], "index": 1, "message": {"role": "assistant", "content": "two"}}
    )
    fake.will(sent(json.dumps(whole).encode(), kind))
    chunks = chunks_of(web.post(PATH, json={**STREAM, "n": 2}, headers=rich.headers).data)
    found = [(choice.index, choice.delta.content) for chunk in chunks for choice in chunk.choices]
    assert found == [(0, "one"), (1, "two")]
    assert facts.call().output_tokens == 20


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "slow down", "code": 429}}, 429),
        ([{"error": {"message": "slow down", "code": 429}}], 429),
        ({"detail": "slow down"}, 502),
        ({"choices": []}, 502),
        ({"object": "list", "data": []}, 502),
        ([], 502),
        (3, 502),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_body_that_is_no_answer_is_no_stream(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    body: Any,
    status: int,
    indent: int | None,
) -> None:
    raw = json.dumps(body, indent=indent).encode()
    fake.will(sent(raw, "application/json"), sent(raw, "text/event-stream"))
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    assert answer.status_code == status
    answer = web.post(PATH, json=STREAM, headers=rich.headers)
    assert answer.status_code == 200
    assert b'"error"' in answer.data
    assert [(call.state, call.credits) for call in facts.calls()] == [("failed", 0)] * 2


def test_a_message_that_repeats_the_deltas_is_removed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    script = fakes.chunks("one two three", use=USE)
    for event in script[1:4]:
        event["choices"][0]["message"] = {"role": "assistant", "content": "one two three"}
    script[4]["choices"][0].pop("delta")
    script[4]["choices"][0]["message"] = {"role": "assistant", "content": "one two three"}
    fake.will(fakes.stream(script))
    chunks = chunks_of(web.post(PATH, json=STREAM, headers=rich.headers).data)
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "one two three"
    assert facts.messages()[0].response == "one two three"


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"start": 1}}]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "message": None}]},
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "id": "", "created": 0, "model": ""},
        {"choices": None},
        {"id": "x", "type": "conversation.id"},
        {"citations": ["https://x"], "object": "chat.completion.chunk"},
        {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": ""}]},
        {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "null"}]},
    ],
)
@pytest.mark.parametrize("place", [0, 2, 5])
def test_chunks_without_a_delta_get_one(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, odd: dict[str, Any], place: int
) -> None:
    script = fakes.chunks("one two three", use=USE)
    script.insert(place, odd)
    fake.will(fakes.stream(script))
    chunks = chunks_of(web.post(PATH, json=STREAM, headers=rich.headers).data)
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "one two three"
    call = facts.call()
    assert (call.state, call.usage_source, call.output_tokens, call.error) == (
        "settled",
        "provider",
        20,
        None,
    )


@pytest.mark.parametrize(
    "kind", ["application/x-ndjson", "application/jsonl", "text/event-stream", "text/plain"]
)
def test_chunks_on_lines_are_a_stream(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, kind: str
) -> None:
    lines = b"".join(json.dumps(event).encode() + b"\n" for event in fakes.chunks("one two", use=USE)[:-1])
    fake.will(sent(lines, kind, 50))
    chunks = chunks_of(web.post(PATH, json=STREAM, headers=rich.headers).data)
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "one two"
    assert facts.call().output_tokens == 20


def test_a_legacy_completion_is_streamed_as_chat(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    words = [
        {"id": "c", "choices": [{"index": 0, "text": word, "finish_reason": None}]}
        for word in ("one", " two")
    ]
    end = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": USE}
    fake.will(fakes.stream([*words, end, "[DONE]"]))
    chunks = chunks_of(web.post(PATH, json=STREAM, headers=rich.headers).data)
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == "one two"
    assert facts.messages()[0].response == "one two"


# -- the reverse ---------------------------------------------------------------------------------------------

EVENTS = fakes.chunks("Hello there my friend.", use=USE)
ENDS: dict[str, tuple[list[Any], str | None]] = {
    "a stream": (EVENTS, "text/event-stream"),
    "without done": (EVENTS[:-1], "text/event-stream"),
    "without usage after it": ([*EVENTS[:-3], {**EVENTS[-3], "usage": USE}], "text/event-stream"),
    "called json": (EVENTS, "application/json"),
    "called nothing": (EVENTS, None),
    "comments": ([b": hello\n\n", *EVENTS], "text/event-stream"),
    "growing usage": ([{**event, "usage": fakes.usage(100, at)} for at, event in enumerate(EVENTS[:-2])] + EVENTS[-2:],
                      "text/event-stream"),
    "on lines": ([json.dumps(event).encode() + b"\n" for event in EVENTS[:-1]], "application/x-ndjson"),
    "in a list": ([json.dumps(EVENTS[:-1]).encode()], "application/json"),
    "a chunk called whole": ([json.dumps({"id": "chatcmpl-1", "model": "m", "created": 1, "usage": USE, "choices": [
        {"index": 0, "delta": {"content": "Hello there my friend."}, "finish_reason": "stop"}]}).encode()],
        "application/json"),
    "legacy": ([json.dumps({"id": "chatcmpl-1", "object": "text_completion", "created": 1, "model": "m", "usage": USE,
                            "choices": [{"index": 0, "text": "Hello there my friend.", "finish_reason": "stop"}]}).encode()],
               "application/json"),
}  # fmt: skip


@pytest.mark.parametrize("size", [1 << 20, 11])
@pytest.mark.parametrize("script", ENDS.values(), ids=ENDS.keys())
def test_a_stream_for_a_whole_answer_is_assembled(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, script: Any, size: int
) -> None:
    events, kind = script
    fake.will(sent(b"".join(fakes.sse(event) for event in events), kind, size))
    answer = web.post(PATH, json=BODY, headers=rich.headers)
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    whole = ChatCompletion.model_validate({"object": "chat.completion", **answer.json})
    assert whole.id == "chatcmpl-1"
    assert whole.choices[0].message.content == "Hello there my friend."
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage
    assert whole.usage.completion_tokens == 20
    call = facts.call()
    assert (call.state, call.usage_source, call.output_tokens) == ("settled", "provider", 20)
    assert facts.messages()[0].response == "Hello there my friend."


def test_every_field_of_the_chunks_is_assembled(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    def call(index: int, **function: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "type": "function", "function": function}]}

    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "reasoning_content": "We"},
        {"role": "assistant", "reasoning_content": "ll.", "content": None},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "We"}]},
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "ll.", "signature": "s"}]},
        {"content": "a \ud83d"},
        {"content": "\ude00"},
        {
            "tool_calls": [
                {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        },
        call(0, arguments='{"x"'),
        call(0, arguments=":1}"),
        {"tool_calls": [{"id": "b", "index": 1, "function": {"name": "g", "arguments": {"y": 2}}}]},
        {"images": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
        {"annotations": [{"type": "url_citation"}], "audio": {"id": "s", "data": "AA"}},
        {"audio": {"data": "BB", "transcript": "hm"}},
    ]
    other = {"choices": [{"index": 1, "delta": {"content": "second"}, "finish_reason": "length"}]}
    script = [*(fakes.chunk(delta) for delta in deltas), other, fakes.chunk({}, "tool_calls"), "[DONE]"]
    fake.will(fakes.stream(script))
    answer = web.post(PATH, json={**BODY, "n": 2}, headers=rich.headers)
    first, second = answer.json["choices"]
    assert first["message"] == {
        "role": "assistant",
        "content": "a \U0001f600",
        "reasoning_content": "Well.",
        "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "Well.", "signature": "s"}],
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": '{"y":2}'}},
        ],
        "images": [{"type": "image_url", "image_url": {"url": "data:x"}}],
        "annotations": [{"type": "url_citation"}],
        "audio": {"id": "s", "data": "AABB", "transcript": "hm"},
    }
    assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "length")
    assert second["message"] == {"role": "assistant", "content": "second"}
    assert answer.json["usage"]["completion_tokens"] == facts.call().output_tokens > 0


@pytest.mark.parametrize("count", [1, 3])
def test_answers_that_come_as_streams_are_merged(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts, count: int
) -> None:
    fake.will(fakes.stream(fakes.chunks("one", use=fakes.usage(100, 20, cost=0.1))))
    metadata = {**body["codebuff_metadata"], "n": count}
    answer = web.post(CODEBUFF, json={**body, "codebuff_metadata": metadata}, headers=rich.headers)
    content = answer.json["choices"][0]["message"]["content"]
    assert content == "one" if count == 1 else json.loads(content) == ["one"] * 3
    assert (facts.call().cost, facts.call().output_tokens) == (Decimal("0.1") * count, 20 * count)
    assert answer.json["usage"]["cost"] == pytest.approx(0.1 * count)


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ([{"error": {"message": "m", "code": 429}}], 429, 429),
        ([b'event: error\ndata: {"message": "m"}\n\n'], 502, None),
        (
            [fakes.chunk({"role": "assistant", "content": ""}), {"error": {"message": "m"}}, "[DONE]"],
            502,
            None,
        ),
        ([fakes.chunk({"content": "one"})], 502, "upstream_cut"),
        (["[DONE]"], 502, "upstream_cut"),
        ([b": nothing\n\n"], 502, "upstream_cut"),
        ([fakes.chunk({"role": "assistant"}), "[DONE]"], 502, "upstream_empty"),
        ([fakes.chunk(None), "[DONE]"], 502, "upstream_empty"),
    ],
)
def test_a_stream_that_is_no_answer(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    script: list[Any],
    status: int,
    code: Any,
) -> None:
    fake.will(fakes.stream(script))
    answer = web.post(PATH, json=BODY, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code)
    assert (facts.call().state, facts.call().credits) == ("failed", 0)


# -- fewer choices than requested ----------------------------------------------------------------------------


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("where", ["with the finish", "after it", "nowhere"])
@pytest.mark.parametrize("n", [2, 5])
def test_fewer_choices_than_requested(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, done: bool, where: str, n: int
) -> None:
    script = fakes.chunks("one two three", use=USE if where == "after it" else None)
    if where == "with the finish":
        script[-2]["usage"] = USE
    fake.will(fakes.stream(script if done else script[:-1]))
    chunks = chunks_of(web.post(PATH, json={**STREAM, "n": n}, headers=rich.headers).data)
    assert chunks[-1].usage
    call = facts.call()
    assert (call.state, call.error) == ("settled", None)
    assert (call.usage_source, call.output_tokens) == (
        ("counted", 3) if where == "nowhere" else ("provider", 20)
    )


@pytest.mark.parametrize("came", [0, 1, 2])
def test_merged_answers_of_a_provider_that_sends_fewer(
    web: FlaskClient, fake: FakeUpstream, rich: Person, body: dict[str, Any], facts: Facts, came: int
) -> None:
    whole = fakes.completion("one", USE)
    whole["choices"] *= came
    fake.will(fakes.answer(whole))
    payload = {
        **body,
        "model": "openai/gpt-4o-mini",
        "codebuff_metadata": {**body["codebuff_metadata"], "n": 3},
    }
    answer = web.post(CODEBUFF, json=payload, headers=rich.headers)
    assert json.loads(answer.json["choices"][0]["message"]["content"]) == ["one"] * came
    assert facts.call().output_tokens == 20
