"""Parsing of chat requests, usage and errors, and token counting."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.gateway import tokens
from models.gateway.chat_format import BadCall, ChatMeter, Usage, find_failure, read_usage
from models.gateway.chat_format.chat_parsing import parse, size_of

MESSAGES = [{"role": "user", "content": "x" * 3000}]


def test_input_is_estimated_from_the_size_of_its_text() -> None:
    body = {"model": "m", "messages": MESSAGES}
    call = parse(body, len(orjson.dumps(body)))
    assert 1000 <= call.input_tokens <= 1050
    assert call.input_tokens >= tokens.count_messages(MESSAGES)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (b"abc", 3),
        (b"\\u4e2d\\u6587", 6),
        (b"\\ud83d\\ude00", 6),
        # an escaped backslash before a letter
        (b"\\\\u" * 10, 30),
        (b"\\\\u\\u4e2d", 6),
        (b'\\n\\"', 4),
        (b"x" * 5000 + b"\\u4e2d", 5003),
    ],
)
def test_escaped_characters_count_as_unescaped(text: bytes, size: int) -> None:
    assert size_of(text) == size


def test_the_size_of_a_body_is_never_below_its_text() -> None:
    texts = ["\\u", "\\\\u" * 9, "\u4e2d\\u", "\x00\\", '"\\u4e2d', "\U0001f600\\\\"]
    for text in texts:
        for raw in (json.dumps(text).encode(), json.dumps(text, ensure_ascii=False).encode()):
            assert size_of(raw) >= len(text.encode())


def test_a_picture_is_not_counted_by_its_base64() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [picture, {"type": "text", "text": "hi"}]}],
    }
    call = parse(body, len(orjson.dumps(body)))
    assert 1000 < call.input_tokens < 10_000


def test_the_larger_output_limit_counts() -> None:
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 5.0, "max_completion_tokens": 9}
    assert parse(body, 10).max_output == 9


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9", 1e300, [], 1 << 40])
def test_invalid_output_limits(value: Any) -> None:
    with pytest.raises(BadCall, match="max_tokens"):
        parse({"model": "m", "messages": MESSAGES, "max_tokens": value}, 10)


def test_buckets_are_disjoint() -> None:
    use = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }
    assert read_usage(use) == Usage(50, 20, 30, 50, 40)


patient = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "prompt_tokens",
                    "completion_tokens",
                    "cached_tokens",
                    "cost",
                    "prompt_tokens_details",
                    "error",
                    "message",
                    "choices",
                    "delta",
                    "content",
                    "usage",
                    "index",
                    "finish_reason",
                    "tool_calls",
                    "function",
                    "id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@patient
@given(
    st.dictionaries(
        st.sampled_from(["prompt_tokens", "completion_tokens", "prompt_tokens_details", "cost"]), json_values
    )
)
def test_any_usage_is_parsed_or_rejected(use: dict[str, Any]) -> None:
    read = read_usage(use)
    if read is not None:
        assert min(read.uncached_input, read.cache_write, read.cache_read, read.output, read.reasoning) >= 0
        assert read.reasoning <= read.output
        assert all(count > 0 for count in read.buckets().values())
        assert sum(read.buckets().values()) == read.tokens


@patient
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["choices", "usage", "error", "id", "model", "created"]), json_values)
    )
)
def test_the_meter_survives_any_events(stream: list[dict[str, Any]]) -> None:
    meter = ChatMeter()
    for event in stream:
        meter.event(event)
        meter.body(event)
    meter.usage()
    assert isinstance(meter.output.all_text, str)
    assert meter.finished in (True, False)


@patient
@given(json_values)
def test_any_body_is_a_call_or_rejected(body: Any) -> None:
    try:
        parse(body, 10)
    except BadCall as error:
        message = error.message
    else:
        return
    assert message


def test_failures() -> None:
    assert find_failure({"error": None}) is None
    failure = find_failure({"error": {"message": "m", "code": 429}})
    assert failure is not None
    assert (failure.message, failure.status) == ("m", 429)
    odd = find_failure({"error": {"code": "x"}})
    assert odd is not None
    assert odd.message


def test_stored_output_is_bounded() -> None:
    meter = ChatMeter()
    for _ in range(3):
        meter.event({"choices": [{"delta": {"content": "x" * (1 << 19)}}]})
    assert len(meter.text) == 1 << 20


def test_tool_calls_count_as_delivered() -> None:
    meter = ChatMeter()
    call = {"index": 0, "function": {"name": "read", "arguments": '{"a":1}'}}
    meter.event({"choices": [{"delta": {"reasoning": "hm", "tool_calls": [call]}}]})
    assert meter.started
    assert meter.output.all_text == 'hmread{"a":1}'


def test_tool_calls_are_kept_whole() -> None:
    meter = ChatMeter()
    for delta in (
        {"content": "Let me see."},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "read", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "stop", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    ):
        meter.event({"choices": [{"index": 0, "delta": delta}]})
    calls = [("a", "read", '{"a":1}'), ("b", "stop", "{}")]
    assert meter.answer == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls
        ],
    }


def test_counting() -> None:
    assert tokens.count("") == 0
    assert tokens.count("hello world") == 2
    assert tokens.count("<|endoftext|>") > 1
    assert tokens.count("a b " * 1_000_000) == pytest.approx(2_000_000, rel=0.01)
    assert tokens.has_vocabulary("openai/gpt-5")
    assert tokens.has_vocabulary("gpt-4o")
    assert not tokens.has_vocabulary("anthropic/claude-sonnet-4.5")
    picture = [
        {"role": "user", "content": [{"image_url": {"url": "data:image/png;base64," + "A" * 9_000_000}}]}
    ]
    assert tokens.count_messages(picture) < 3000


@pytest.mark.parametrize("start", ["x" * 600, "data:image/png;base64,"])
def test_text_that_only_starts_like_a_picture_is_counted(start: str) -> None:
    text = start + " and a column of marble" * 2000
    assert tokens.count_messages([{"role": "user", "content": text}]) > 9000
