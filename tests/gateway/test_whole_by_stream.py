"""A whole answer that the gateway reads as a stream: the client gets what it would have got without."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.gateway import GatewayCall
from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES, Facts, wait
from tests.gateway.test_whole_and_streamed import MESSAGES_OF

OPENAI = "/v1/chat/completions"
CODEBUFF = "/api/v1/chat/completions"
MODEL = "openai/house-model"
USE = fakes.usage(
    100, 20, prompt_tokens_details={"cached_tokens": 40}, completion_tokens_details={"reasoning_tokens": 3}
)


def whole_of(message: dict[str, Any], choice: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    whole = fakes.completion("", USE)
    whole["choices"][0] |= {"message": {"role": "assistant", "content": None, **message}, **(choice or {})}
    return {**whole, **top}


TEXT = {"content": "Hello there, \U0001f600 friend."}
SIGNED = [
    {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'},
     "extra_content": {"google": {"thought_signature": "c2lnbmF0dXJl"}}},
    {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    {"id": "c", "type": "custom", "custom": {"name": "h", "input": "free text"}},
]  # fmt: skip
DETAILS = [
    {"type": "reasoning.summary", "summary": "Well, well.", "format": "openai-responses-v1", "index": 0},
    {
        "type": "reasoning.encrypted",
        "data": "c2VjcmV0",
        "id": "rs_1",
        "format": "openai-responses-v1",
        "index": 0,
    },
    {"type": "reasoning.text", "text": "So.", "signature": "s", "index": 1},
]
LOGPROBS = {
    "content": [
        {
            "token": word,
            "logprob": -0.5,
            "bytes": [1, 2],
            "top_logprobs": [{"token": word, "logprob": -0.5, "bytes": None}],
        }
        for word in ("Hel", "lo")
    ],
    "refusal": None,
}
FILTER = {
    "hate": {"filtered": False, "severity": "safe"},
    "custom_blocklists": [{"id": "x", "filtered": False}],
}
SHAPES: dict[str, dict[str, Any]] = {
    **{name: whole_of(whole["choices"][0]["message"]) for name, whole in MESSAGES_OF.items()},
    "finish reasons": whole_of(TEXT, {"finish_reason": "length", "native_finish_reason": "max_tokens"}),
    "fields of the answer": whole_of(
        TEXT, provider="Azure", system_fingerprint="fp_1", service_tier="default", citations=["https://x"], x_unknown={"a": 1}
    ),
    "null fields": whole_of({**TEXT, "refusal": None}, {"logprobs": None}, system_fingerprint=None),
    "log probabilities": whole_of(TEXT, {"logprobs": LOGPROBS}),
    "content filters": whole_of(TEXT, {"content_filter_results": FILTER, "stop_reason": "</s>"}),
    "signed tool calls": whole_of({"tool_calls": SIGNED}, {"finish_reason": "tool_calls"}),
    "kinds of reasoning": whole_of({**TEXT, "reasoning": "Well, well.So.", "reasoning_details": DETAILS}),
    "two images": whole_of({"images": [{"type": "image_url", "image_url": {"url": f"data:{x}"}, "index": 0} for x in "ab"]}),
    "parts": whole_of(
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm, hm."}]}, {"type": "text", "text": "Hello."}]}
    ),
    "unknown fields": whole_of({**TEXT, "x_note": "a note", "x_flags": {"deep": {"text": "abc"}, "n": 3}, "x_on": True}),
    "length without text": whole_of({"content": ""}, {"finish_reason": "length"}),
}  # fmt: skip


def pieces(text: str) -> list[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)] or [""]


def grown(key: str, value: Any) -> Iterator[dict[str, Any]]:
    """The deltas in which providers send a field of a message."""
    if key == "role":
        return
    if key == "tool_calls":
        for index, call in enumerate(value):
            kind = call["type"]
            long = "arguments" if kind == "function" else "input"
            first = {**call, "index": index, kind: {**call[kind], long: ""}}
            yield {"tool_calls": [first]}
            for piece in pieces(call[kind][long]):
                yield {"tool_calls": [{"index": index, kind: {long: piece}}]}
    elif key == "reasoning_details":
        for item in value:
            long = next(name for name in ("text", "summary", "data") if name in item)
            for piece in pieces(item[long]) if long != "data" else [item[long]]:
                yield {
                    key: [
                        {**item, long: piece}
                        if "signature" not in item
                        else {**item, long: piece, "signature": ""}
                    ]
                }
            if "signature" in item:
                yield {key: [{"type": item["type"], "index": item["index"], "signature": item["signature"]}]}
    elif key == "content" and isinstance(value, list):
        for piece in pieces(value[0]["thinking"][0]["text"]):
            yield {key: [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]}
        for piece in pieces(value[1]["text"]):
            yield {key: piece}
    elif isinstance(value, list):
        for item in value:
            yield {key: [item]}
    elif key in ("function_call", "audio"):
        long = "arguments" if key == "function_call" else "data"
        yield {key: {**value, long: ""}}
        for piece in pieces(value[long]):
            yield {key: {long: piece}}
    elif isinstance(value, str):
        for piece in pieces(value):
            yield {key: piece}
    else:
        yield {key: value}


def chunks_of(whole: dict[str, Any]) -> list[Any]:
    """The answer as its provider streams it."""
    (choice,) = whole["choices"]
    head = {key: value for key, value in whole.items() if key not in ("choices", "usage")} | {
        "object": "chat.completion.chunk",
        "obfuscation": "xyz",
    }
    beside = {key: value for key, value in choice.items() if key not in ("index", "message", "finish_reason")}
    logprobs = beside.pop("logprobs", None)
    repeated = {key: value for key, value in beside.items() if key != "native_finish_reason"}

    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
        return {
            **head,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason, **repeated, **more}],
        }

    deltas = [{"role": "assistant"}, *(each for item in choice["message"].items() for each in grown(*item))]
    parts = [{"logprobs": None}] if "logprobs" in choice and logprobs is None else []
    parts += [{"logprobs": {**logprobs, "content": [each]}} for each in (logprobs or {}).get("content", ())]
    script = [chunk(delta, **(parts.pop(0) if parts else {})) for delta in deltas]
    return [b": comment\n\n", *script, chunk({}, choice["finish_reason"], **beside), {**head, "choices": [], "usage": USE}, "[DONE]"]  # fmt: skip


@pytest.mark.parametrize("path", [OPENAI, CODEBUFF])
@pytest.mark.parametrize("whole", SHAPES.values(), ids=SHAPES.keys())
def test_the_client_gets_the_same_answer_and_the_same_bill(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, whole: dict[str, Any], path: str
) -> None:
    assert rich.user is not None
    body = {
        "model": MODEL,
        "messages": MESSAGES,
        "codebuff_metadata": {"run_id": factories.run(rich.user).id},
    }
    fake.will(fakes.answer(whole), fakes.stream(chunks_of(whole)))
    answers = [
        web.post(path, json={**body, **keys}, headers=rich.headers) for keys in ({"max_tokens": 500}, {})
    ]
    assert [request.body["stream"] for request in fake.requests] == [False, True]
    assert [(each.status_code, each.mimetype) for each in answers] == [(200, "application/json")] * 2
    assert answers[1].json == answers[0].json
    assert answers[1].json["choices"] == whole["choices"]

    def bill(call: GatewayCall) -> Any:
        return (
            call.state,
            call.stream,
            call.micro_credits,
            call.usage_source,
            call.raw_usage,
            call.model,
            call.error,
        )

    first, second = facts.calls()
    assert bill(second) == bill(first)
    stored = [message.response for message in facts.messages()]
    assert stored[0] == stored[1]


@pytest.mark.parametrize(
    ("keys", "headers"),
    [
        ({"n": 2}, {}),
        ({"max_tokens": 8_192}, {}),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, {}),
        ({"model": "openrouter/openai/gpt-4o-mini", "plugins": [{"id": "response-healing"}]}, {}),
        ({"model": "openai/free-model"}, {}),
        ({}, {"x-openrouter-api-key": "sk-or-own"}),
    ],
)
def test_what_a_stream_cannot_carry_is_sent_as_it_is(
    web: FlaskClient, fake: FakeUpstream, rich: Person, keys: dict[str, Any], headers: dict[str, str]
) -> None:
    body = {"model": MODEL, "messages": MESSAGES, **keys}
    assert web.post(OPENAI, json=body, headers={**rich.headers, **headers}).status_code == 200
    sent = fake.requests[0].body
    assert not sent["stream"]
    assert "stream_options" not in sent


@pytest.mark.parametrize("affords", [True, False])
def test_a_provider_that_refuses_to_stream_is_asked_for_the_whole_answer(
    web: FlaskClient, session: OrmSession, fake: FakeUpstream, alice: Person, facts: Facts, affords: bool
) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 1000 if affords else 100)
    words = {"message": "Your organization must be verified to stream this model.", "param": "stream"}
    fake.will(fakes.answer({"error": words}, 400), fakes.answer())
    body = {
        "model": MODEL,
        "messages": MESSAGES,
        "max_tokens": 100_000,
        "stream_options": {"include_usage": True},
    }
    answer = web.post(OPENAI, json=body, headers=alice.headers)
    if not affords:
        assert (answer.status_code, answer.json["error"]["code"]) == (429, "credits_held")
        assert (facts.call().state, facts.call().error) == ("failed", "credits_held")
    else:
        assert answer.json["choices"][0]["message"]["content"] == "Hello there."
    assert answer.headers.get("X-Stoa-Dropped", "stream_options") == "stream_options"
    # remembered: with no other call in flight the balance suffices
    assert web.post(OPENAI, json=body, headers=alice.headers).status_code == 200
    streamed = [request.body["stream"] for request in fake.requests]
    assert streamed == ([True, False, False] if affords else [True, False])
    wait(lambda: facts.holds() == 0)


def test_an_error_after_some_output_is_an_error_and_costs_nothing(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts
) -> None:
    error = {"error": {"message": "overloaded", "code": 503}}
    fake.will(fakes.stream([fakes.chunk({"content": "one"}), error, "[DONE]"]))
    answer = web.post(OPENAI, json={"model": MODEL, "messages": MESSAGES}, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["message"]) == (503, "overloaded")
    assert (facts.call().state, facts.call().credits) == ("failed", 0)
