"""All generated output is counted if the provider reports no usage."""

from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway import tokens
from models.gateway.chat_format import ChatMeter
from models.gateway.chat_format.output import (
    AUDIO_TOKENS_PER_SECOND,
    MAX_STORED_TEXT,
    MAX_TOOL_CALLS,
    MEDIA_TOKENS,
)
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts

STREAM: dict[str, Any] = {"model": "openai/gpt-4o-mini", "messages": MESSAGES, "stream": True}
WORDS = "some words that count " * 10
COUNT = tokens.count(WORDS)
PCM_SECOND = "A" * 64_000
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100}}


def metered(*deltas: Any, whole: bool = False) -> ChatMeter:
    meter = ChatMeter()
    for delta in deltas:
        if whole:
            meter.body({"choices": [{"index": 0, "message": delta}]})
        else:
            meter.event({"choices": [{"index": 0, "delta": delta}]})
    return meter


TEXT = {
    "content": {"content": WORDS},
    "text parts": {"content": [{"type": "text", "text": WORDS}]},
    "output_text parts": {"content": [{"type": "output_text", "text": WORDS, "annotations": []}]},
    "one part": {"content": {"type": "text", "text": WORDS}},
    "strings": {"content": [WORDS]},
    "text objects": {"content": [{"type": "text", "text": {"value": WORDS, "annotations": []}}]},
    "refusal": {"refusal": WORDS},
    "refusal part": {"content": [{"type": "refusal", "refusal": WORDS}]},
    "an unknown part": {"content": [{"type": "poem", "verses": WORDS}]},
    "transcript": {"audio": {"id": "a", "transcript": WORDS}},
    "function_call": {"function_call": {"name": "f", "arguments": WORDS}},
    "tool call": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": WORDS}}]},
    "tool call without index": {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": WORDS}}]},
    "tool call by itself": {"tool_calls": {"id": "a", "function": {"name": "f", "arguments": WORDS}}},
    "tool call, flat": {"tool_calls": [{"id": "a", "name": "f", "arguments": WORDS}]},
    "arguments as object": {"tool_calls": [{"function": {"name": "f", "arguments": {"a": WORDS}}}]},
    "custom tool": {"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": WORDS}}]},
    "function_call as text": {"function_call": WORDS},
    "tool call with parameters": {"tool_calls": [{"function": {"name": "f", "parameters": {"a": WORDS}}}]},
    "one tool call": {"tool_call": {"id": "a", "function": {"name": "f", "arguments": WORDS}}},
    "tool_use part": {"content": [{"type": "tool_use", "id": "a", "name": "f", "input": {"a": WORDS}}]},
    "message part": {"content": [{"type": "message", "content": [{"type": "output_text", "text": WORDS}]}]},
    "code part": {"content": [{"type": "code", "code": WORDS}]},
    "json part": {"content": [{"type": "json", "json": {"a": WORDS}}]},
    "text elsewhere": {"output_text": WORDS},
    "an answer elsewhere": {"answer": WORDS, "content": ""},
    "twice": {"content": WORDS, "parsed": {"a": WORDS}},
    "hosted tool": {"tool_calls": [{"type": "code_interpreter", "code_interpreter": {"input": WORDS}}]},
}
REASONING = {
    "reasoning": {"reasoning": WORDS},
    "reasoning_content": {"reasoning_content": WORDS},
    "both": {"reasoning": WORDS, "reasoning_content": WORDS},
    "thinking": {"thinking": WORDS},
    "object": {"reasoning": {"content": WORDS}},
    "details, text": {"reasoning_details": [{"type": "reasoning.text", "text": WORDS, "signature": "s"}]},
    "details, summary": {"reasoning_details": [{"type": "reasoning.summary", "summary": WORDS}]},
    "a summary": {"reasoning_summary": WORDS},
    "thinking_content": {"thinking_content": WORDS},
    "a thought": {"thought": {"text": WORDS}},
    "reasoning parts": {"reasoning_content": [{"type": "text", "text": WORDS}]},
    "details, one object": {"reasoning_details": {"text": WORDS}},
    "thinking with a signature": {"thinking": {"content": WORDS, "signature": "s" * 400}},
    "details twice": {
        "reasoning": WORDS,
        "reasoning_details": [{"type": "reasoning.text", "text": WORDS, "index": 0}],
    },
    "thinking blocks": {"thinking_blocks": [{"type": "thinking", "thinking": WORDS, "signature": "s"}]},
    "thinking parts": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": WORDS}]}]},
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("delta", [*TEXT.values(), *REASONING.values()], ids=[*TEXT, *REASONING])
def test_text_in_every_form_counts_once(delta: Any, whole: bool) -> None:
    meter = metered(delta, whole=whole)
    output, reasoning = tokens.count_output(meter.output)
    assert COUNT <= output <= COUNT + 12
    assert meter.started
    assert meter.output.size >= len(WORDS)
    if delta in REASONING.values():
        assert COUNT <= reasoning <= COUNT + 1
        assert meter.reasoning == WORDS
    else:
        assert reasoning == 0


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("delta", "minimum"),
    [
        ({"content": [PICTURE]}, MEDIA_TOKENS),
        ({"content": [PICTURE, {"type": "text", "text": "x"}, PICTURE]}, 2 * MEDIA_TOKENS),
        ({"images": [{**PICTURE, "index": 0}]}, MEDIA_TOKENS),
        ({"images": [PICTURE, PICTURE]}, 2 * MEDIA_TOKENS),
        ({"content": [{"type": "image", "source": {"type": "base64", "data": "AAAA"}}]}, MEDIA_TOKENS),
        ({"content": [{"type": "image", "data": "AAAA"}]}, MEDIA_TOKENS),
        ({"content": [{"inline_data": {"mime_type": "image/png", "data": "AAAA"}}]}, MEDIA_TOKENS),
        ({"content": [{"type": "video_url", "video_url": {"url": "https://x"}}]}, MEDIA_TOKENS),
        ({"content": [{"type": "file", "file": {"file_data": "AAAA"}}]}, MEDIA_TOKENS),
        ({"audio": {"id": "a", "data": PCM_SECOND * 3}}, 3 * AUDIO_TOKENS_PER_SECOND),
        ({"audio": {"data": "SUQz" + "A" * 53_330}}, 10 * AUDIO_TOKENS_PER_SECOND),
        ({"content": [{"type": "audio", "data": PCM_SECOND}]}, AUDIO_TOKENS_PER_SECOND),
        (
            {"content": [{"type": "output_audio", "output_audio": {"data": PCM_SECOND}}]},
            AUDIO_TOKENS_PER_SECOND,
        ),
        (
            {"content": [{"inlineData": {"mimeType": "audio/L16", "data": PCM_SECOND}}]},
            AUDIO_TOKENS_PER_SECOND,
        ),
        ({"audio": [{"data": PCM_SECOND}]}, AUDIO_TOKENS_PER_SECOND),
        ({"audio_content": PCM_SECOND}, AUDIO_TOKENS_PER_SECOND),
        ({"image": "data:image/png;base64,AAAA"}, MEDIA_TOKENS),
        ({"video": {"url": "https://x"}}, MEDIA_TOKENS),
        ({"content": [{"type": "image", "image": "iVBOR"}]}, MEDIA_TOKENS),
        ({"reasoning": {"encrypted_content": "A" * 400}}, 100),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "A" * 400}]}, 100),
        ({"reasoning": "x", "reasoning_details": [{"type": "reasoning.encrypted", "data": "A" * 400}]}, 100),
        ({"thinking_blocks": [{"type": "redacted_thinking", "data": "A" * 400}]}, 100),
    ],
)
def test_media_count_by_a_conservative_estimate(delta: Any, minimum: int, whole: bool) -> None:
    meter = metered(delta, whole=whole)
    output, _ = tokens.count_output(meter.output)
    assert minimum <= output <= minimum + 3
    assert meter.started
    assert meter.output.size >= output


@pytest.mark.parametrize(
    "delta",
    [
        {},
        {"role": "assistant"},
        {"role": "assistant", "content": "", "refusal": None, "tool_calls": None, "reasoning": ""},
        {"content": [], "tool_calls": [], "reasoning_details": [], "images": []},
        {"content": [{"type": "text", "text": ""}]},
        {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://x"}}]},
        {"content": 0, "tool_calls": "x", "function_call": []},
        {"reasoning_details": [{"type": "reasoning.text", "text": "", "signature": "s" * 500}]},
        {"thought_signature": "s" * 500, "extra_content": {"google": {"thought_signature": "s" * 500}}},
        {"content_filter_results": {"hate": {"severity": "safe"}}, "tool_call_id": "call_1", "token_id": 5},
        {
            "search_results": [{"text": "x"}],
            "citations": ["https://x"],
            "provider_specific_fields": {"a": "b"},
        },
    ],
)
def test_metadata_counts_nothing(delta: Any) -> None:
    meter = metered(delta)
    assert not meter.started
    assert tokens.count_output(meter.output) == (0, 0)


def test_text_of_a_legacy_completion_counts() -> None:
    for choice in ({"index": 0, "text": WORDS}, {"index": 0, "text": WORDS, "delta": {}}):
        meter = ChatMeter()
        meter.event({"choices": [choice]})
        assert tokens.count_output(meter.output) == (COUNT, 0)


def test_halves_of_a_character_are_joined_and_count() -> None:
    meter = metered({"content": "a \ud83d"}, {"content": "\ude00 b \ud83d c"})
    assert meter.text == "a \U0001f600 b \ufffd c"
    assert tokens.count_output(meter.output)[0] == tokens.count("a \U0001f600 b \ufffd c")
    call = {"index": 0, "function": {"name": "f", "arguments": '{"a":"\ud83d'}}
    rest = {"index": 0, "function": {"arguments": '\ude00"}'}}
    meter = metered({"tool_calls": [call]}, {"tool_calls": [rest]})
    assert meter.answer["tool_calls"][0]["function"]["arguments"] == '{"a":"\U0001f600"}'


def test_text_beyond_what_is_kept_counts_too() -> None:
    meter = metered(*[{"content": "word " * (MAX_STORED_TEXT // 5)}] * 3)
    assert len(meter.text) == MAX_STORED_TEXT
    kept = tokens.count(meter.text)
    assert tokens.count_output(meter.output)[0] == pytest.approx(3 * kept, rel=0.001)


# -- tool calls ----------------------------------------------------------------------------------------------


def call_delta(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in function.items() if value is not None}}


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ([[call_delta("f", "{}", id="a"), call_delta("g", "{}", id="b")]], [("a", "f", "{}"), ("b", "g", "{}")]),
        ([[call_delta("f", "{}", id="a")], [call_delta("g", "{}", id="b")]], [("a", "f", "{}"), ("b", "g", "{}")]),
        ([[call_delta("f", "{}")], [call_delta("g", "{}")]], [(None, "f", "{}"), (None, "g", "{}")]),
        ([[call_delta("f", "{}")], [call_delta("f", "{}")]], [(None, "f", "{}"), (None, "f", "{}")]),
        (
            [[call_delta("f", "", id="a")], [call_delta(None, '{"a":')], [call_delta(None, "1}")], [call_delta("g", "{}", id="b")]],
            [("a", "f", '{"a":1}'), ("b", "g", "{}")],
        ),
        (
            [[call_delta("f", '{"a":', id="a")], [call_delta(None, "1}", id="a")], [call_delta("f", "{}", id="b")]],
            [("a", "f", '{"a":1}'), ("b", "f", "{}")],
        ),
        (
            [[call_delta("f", "", id="a", index=0)], [call_delta("g", "", id="b", index=1)],
             [call_delta(None, "{}", index=0), call_delta(None, "[]", index=1)]],
            [("a", "f", "{}"), ("b", "g", "[]")],
        ),
        (
            [[call_delta("f", "{}", id="a", index=0)], [call_delta("g", "{}", id="b", index=0)]],
            [("a", "f", "{}"), ("b", "g", "{}")],
        ),
        (
            [[call_delta("get_", "", id="a", index=0)], [call_delta("weather", "{}", index=0)]],
            [("a", "get_weather", "{}")],
        ),
        ([[call_delta("f", {"a": 1}, id="a")]], [("a", "f", '{"a":1}')]),
        ([[call_delta("f", "{}", id="", index=0)], [call_delta(None, "", id="", index=0)]], [(None, "f", "{}")]),
        ([[call_delta("f", '{"a"', id="a", index=None)], [call_delta(None, ":1}", id=None, index=None)]], [("a", "f", '{"a":1}')]),
    ],
)  # fmt: skip
def test_tool_calls_stay_separate(deltas: list[Any], expected: list[Any]) -> None:
    meter = metered(*({"tool_calls": calls} for calls in deltas))
    found = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in meter.answer["tool_calls"]
    ]
    assert found == expected


def test_calls_of_a_whole_answer_are_each_their_own() -> None:
    calls = [call_delta("f", "{}", index=0), call_delta("f", "{}", index=0), call_delta("f", {"a": 1})]
    assert len(metered({"tool_calls": calls}, whole=True).answer["tool_calls"]) == 3


def test_stored_tool_calls_are_bounded() -> None:
    meter = metered(*({"tool_calls": [call_delta("f", "{}", id=str(number))]} for number in range(3000)))
    assert len(meter.answer["tool_calls"]) == MAX_TOOL_CALLS
    assert meter.output.calls.bytes == 3000 * 3


def test_function_and_custom_calls_are_kept() -> None:
    meter = metered(
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"a":1}'}},
        {"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "g", "input": "x"}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "yz"}}]},
    )
    assert meter.answer["tool_calls"] == [
        {"id": None, "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c", "type": "custom", "custom": {"name": "g", "input": "xyz"}},
    ]


# -- through the gateway -------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("delta", [TEXT["function_call"], TEXT["text parts"], {"images": [PICTURE]}])
def test_output_is_billed_when_the_provider_reports_nothing(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, delta: Any, streaming: bool
) -> None:
    whole = fakes.completion("", None)
    whole["choices"][0]["message"] = {"role": "assistant", **delta}
    fake.will(
        fakes.stream([fakes.chunk(delta), fakes.chunk({}, "stop"), "[DONE]"])
        if streaming
        else fakes.answer(whole)
    )
    answer = web.post("/v1/chat/completions", json={**STREAM, "stream": streaming}, headers=rich.headers)
    assert answer.status_code == 200
    assert answer.data
    call = facts.call()
    assert (call.state, call.usage_source) == ("settled", "counted")
    assert call.output_tokens >= COUNT
    assert call.cost > 0


def test_pictures_of_a_stream_that_breaks_are_billed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    fake.will(fakes.stream([fakes.chunk({"images": [PICTURE]}), "never sent"], cut_after=1, delay=0.02))
    assert b"upstream_cut" in web.post("/v1/chat/completions", json=STREAM, headers=rich.headers).data
    assert facts.call().output_tokens == MEDIA_TOKENS


AUDIO_OUTPUT = {"audio": {"id": "a", "data": PCM_SECOND * 10}}
AUDIO_INPUT = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "input_audio", "input_audio": {"data": PCM_SECOND * 20, "format": "wav"}},
        ],
    }
]
IMAGE_INPUT = [{"role": "user", "content": [
    {"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]  # fmt: skip


@pytest.mark.parametrize("ending", ["whole", "streamed", "cut", "reported before", "reported in part"])
@pytest.mark.parametrize(
    ("model", "messages", "delta", "parts", "dollars"),
    [
        # rates per million tokens: text 2.5 and 10, audio 32 and 64, images no own rate
        ("openai/gpt-audio", MESSAGES, AUDIO_OUTPUT, {"audio_output": 321}, 321 * 64),
        ("openai/gpt-audio", AUDIO_INPUT, AUDIO_OUTPUT, {"audio_input": 641, "audio_output": 321}, 641 * 32 + 321 * 64),
        ("openai/gpt-audio", AUDIO_INPUT, {"content": "x"}, {"audio_input": 641}, 641 * 32),
        # images 30
        ("google/gemini-2.5-flash-image", MESSAGES, {"images": [PICTURE]}, {"image_output": MEDIA_TOKENS},
         MEDIA_TOKENS * 30),
        ("openai/gpt-4o-mini", IMAGE_INPUT, {"content": "x"}, {"image_input": 1600}, 1600 * Decimal("0.15")),
    ],
)  # fmt: skip
def test_counted_media_have_the_price_of_media(
    web: FlaskClient,
    fake: FakeUpstream,
    rich: Person,
    facts: Facts,
    model: str,
    messages: Any,
    delta: Any,
    parts: dict[str, int],
    dollars: Decimal,
    ending: str,
) -> None:
    model_of = {"model": model.partition("/")[2]}
    first, last = fakes.chunk(delta, **model_of), fakes.chunk({}, "stop", **model_of)
    whole = fakes.completion("", None, **model_of)
    whole["choices"][0]["message"] = {"role": "assistant", **delta}
    few = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    behaviours = {
        "whole": fakes.answer(whole),
        "streamed": fakes.stream([first, last, "[DONE]"]),
        "cut": fakes.stream([first, "never sent"], cut_after=1, delay=0.02),
        "reported before": fakes.stream([fakes.chunk({}, usage=few, **model_of), first, last, "[DONE]"]),
        "reported in part": fakes.stream([first, last, {**fakes.chunk(None, **model_of), "usage": {"completion_tokens": 3}}]),
    }  # fmt: skip
    fake.will(behaviours[ending])
    body = {"model": model, "messages": messages, "stream": ending != "whole", "max_tokens": 10}
    assert web.post("/v1/chat/completions", json=body, headers=rich.headers).status_code == 200
    call = facts.call()
    assert {name: count for name, count in call.parts.items() if count} == parts
    assert call.cost >= Decimal(dollars) / 1_000_000
    assert call.cost <= Decimal(dollars) / 1_000_000 + Decimal("0.01")


def test_media_of_a_request_are_told_apart_from_its_text() -> None:
    text, nothing = tokens.count_input(MESSAGES)
    assert (text, nothing) == (tokens.count_messages(MESSAGES), {})
    total, media = tokens.count_input([*AUDIO_INPUT, *IMAGE_INPUT, *MESSAGES])
    assert media == {"audio_input": 641, "image_input": 1600}
    assert total - 2241 < 40
    assert tokens.count_input([{"role": "user", "content": None}, {"role": "user"}])[1] == {}
