"""Every client's format with every vendor's behind it: a turn with reasoning and a tool, whole and streamed, its bill, and the next turn."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway.conversation import AnswerBuilder, ReasoningPart, TextPart, ToolCallPart
from models.gateway.formats.answer_memory import MEMORY
from models.gateway.formats.wire_formats import WIRE_FORMATS
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunk, stream
from tests.gateway.conftest import Facts

TOOL = {"type": "object", "properties": {"path": {"type": "string"}}}
ARGUMENTS = '{"path":"."}'


def named(*events: dict[str, Any]) -> list[bytes]:
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events]


# -- what each vendor sends ----------------------------------------------------------------------------------

MESSAGE_HEAD = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
MESSAGE_USE = {"input_tokens": 1000, "cache_read_input_tokens": 0, "output_tokens": 40}
MESSAGES_STREAM = named(
    {"type": "message_start", "message": {**MESSAGE_HEAD, "content": [], "stop_reason": None, "usage": {**MESSAGE_USE, "output_tokens": 1}}},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "H"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "I "}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "look."}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "call_a", "name": "ls", "input": {}}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"path"'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ':"."}'}},
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": MESSAGE_USE},
    {"type": "message_stop"},
)  # fmt: skip
MESSAGES_WHOLE = {
    **MESSAGE_HEAD,
    "content": [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_a", "name": "ls", "input": {"path": "."}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": MESSAGE_USE,
}
ITEMS: list[dict[str, Any]] = [
    {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": "c2ln"},
    {"id": "m_1", "type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
    {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_a", "name": "ls", "arguments": ARGUMENTS},
]  # fmt: skip
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_750_000_000,
    "model": "gpt-5-mini",
    "status": "completed",
    "output": ITEMS,
    "usage": {"input_tokens": 1000, "output_tokens": 40, "total_tokens": 1040},
}
RESPONSES_STREAM = named(
    {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None}},
    {"type": "response.output_item.added", "output_index": 0, "item": {"id": "rs_1", "type": "reasoning", "summary": []}},
    {"type": "response.reasoning_summary_text.delta", "item_id": "rs_1", "output_index": 0, "summary_index": 0, "delta": "Hm"},
    {"type": "response.output_item.done", "output_index": 0, "item": ITEMS[0]},
    {"type": "response.output_item.added", "output_index": 1, "item": {**ITEMS[1], "content": []}},
    {"type": "response.output_text.delta", "item_id": "m_1", "output_index": 1, "content_index": 0, "delta": "I look."},
    {"type": "response.output_item.done", "output_index": 1, "item": ITEMS[1]},
    {"type": "response.output_item.added", "output_index": 2, "item": {**ITEMS[2], "arguments": ""}},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 2, "delta": ARGUMENTS},
    {"type": "response.output_item.done", "output_index": 2, "item": ITEMS[2]},
    {"type": "response.completed", "response": RESPONSE},
)  # fmt: skip
GEMINI_USE = {
    "promptTokenCount": 1000,
    "candidatesTokenCount": 30,
    "thoughtsTokenCount": 10,
    "totalTokenCount": 1040,
}
GEMINI_PARTS: list[dict[str, Any]] = [
    {"text": "Hm", "thought": True},
    {"text": "I look."},
    {"functionCall": {"id": "call_a", "name": "ls", "args": {"path": "."}}, "thoughtSignature": "c2ln"},
]


def gemini(*parts: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [*parts], "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {
        "candidates": [candidate],
        "usageMetadata": GEMINI_USE,
        "modelVersion": "gemini-3-pro",
        "responseId": "r",
    }


def call_delta(function: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **more, "function": function}]}


PROOF = {
    "type": "reasoning.text",
    "text": "Hm",
    "signature": "c2ln",
    "format": "anthropic-claude-v1",
    "index": 0,
}
CHAT_USE = {"prompt_tokens": 1000, "completion_tokens": 40, "total_tokens": 1040, "cost": 0.01}
CHAT_STREAM = [
    chunk({"role": "assistant", "reasoning_details": [PROOF]}),
    chunk({"content": "I look."}),
    chunk(call_delta({"name": "ls", "arguments": ""}, id="call_a", type="function")),
    chunk(call_delta({"arguments": ARGUMENTS})),
    chunk({}, "tool_calls"),
    chunk(None, usage=CHAT_USE),
    "[DONE]",
]
CHAT_MESSAGE = {
    "role": "assistant",
    "content": "I look.",
    "reasoning_details": [PROOF],
    "tool_calls": [
        {"id": "call_a", "type": "function", "function": {"name": "ls", "arguments": ARGUMENTS}},
    ],
}
CHAT_WHOLE = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": CHAT_MESSAGE, "finish_reason": "tool_calls"}],
    "usage": CHAT_USE,
}
VENDORS: dict[str, tuple[str, Any, Any]] = {
    "messages": ("claude-sonnet-4.5", MESSAGES_STREAM, MESSAGES_WHOLE),
    "responses": ("gpt-5-mini", RESPONSES_STREAM, RESPONSE),
    "gemini": (
        "gemini-3-pro-preview",
        [gemini(GEMINI_PARTS[0]), gemini(GEMINI_PARTS[1]), gemini(GEMINI_PARTS[2], reason="STOP")],
        gemini(*GEMINI_PARTS, reason="STOP"),
    ),
    "chat": ("meta-llama/llama-3", CHAT_STREAM, CHAT_WHOLE),
}
"""A model of a vendor with each format, its stream and its whole answer."""


# -- what each client sends ----------------------------------------------------------------------------------


def chat_request(model: str, history: list[Any]) -> tuple[str, dict[str, Any]]:
    tools = [{"type": "function", "function": {"name": "ls", "parameters": TOOL}}]
    messages = [{"role": "user", "content": "What is here?"}, *history]
    return "/v1/chat/completions", {"model": model, "messages": messages, "tools": tools}


def chat_next(body: dict[str, Any]) -> list[Any]:
    message = body["choices"][0]["message"]
    # as most clients do
    kept = {key: message[key] for key in ("role", "content", "tool_calls")}
    for call in kept["tool_calls"]:
        call.pop("extra_content", None)
    return [kept, {"role": "tool", "tool_call_id": kept["tool_calls"][0]["id"], "content": "a.py"}]


def messages_request(model: str, history: list[Any]) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": "What is here?"}, *history]
    tools = [{"name": "ls", "input_schema": TOOL}]
    return "/v1/messages", {"model": model, "max_tokens": 1000, "messages": messages, "tools": tools}


def messages_next(body: dict[str, Any]) -> list[Any]:
    (use,) = [block for block in body["content"] if block["type"] == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "a.py"}
    return [{"role": "assistant", "content": body["content"]}, {"role": "user", "content": [result]}]


def responses_request(model: str, history: list[Any]) -> tuple[str, dict[str, Any]]:
    tools = [{"type": "function", "name": "ls", "parameters": TOOL}]
    return "/v1/responses", {
        "model": model,
        "input": [{"role": "user", "content": "What is here?"}, *history],
        "tools": tools,
        "store": False,
    }


def responses_next(body: dict[str, Any]) -> list[Any]:
    (call,) = [item for item in body["output"] if item["type"] == "function_call"]
    return [*body["output"], {"type": "function_call_output", "call_id": call["call_id"], "output": "a.py"}]


def gemini_request(model: str, history: list[Any]) -> tuple[str, dict[str, Any]]:
    tools = [{"functionDeclarations": [{"name": "ls", "parameters": TOOL}]}]
    contents = [{"role": "user", "parts": [{"text": "What is here?"}]}, *history]
    return f"/v1beta/models/{model.replace('/', '%2F')}:generateContent", {
        "contents": contents,
        "tools": tools,
    }


def gemini_next(body: dict[str, Any]) -> list[Any]:
    content = body["candidates"][0]["content"]
    (call,) = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
    result = {"functionResponse": {"id": call["id"], "name": "ls", "response": {"output": "a.py"}}}
    return [content, {"role": "user", "parts": [result]}]


Request = Callable[[str, list[Any]], tuple[str, dict[str, Any]]]
CLIENTS: dict[str, tuple[Request, Callable[[dict[str, Any]], list[Any]]]] = {
    "chat": (chat_request, chat_next),
    "messages": (messages_request, messages_next),
    "responses": (responses_request, responses_next),
    "gemini": (gemini_request, gemini_next),
}
PAIRS = [
    (client, vendor)
    for client in CLIENTS
    for vendor in VENDORS
    # OpenAI takes chat completions as they are
    if (client, vendor) != ("chat", "responses")
]


@pytest.fixture(autouse=True)
def vendors(web: FlaskClient, fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI is OpenAI itself, and Gemini has Google's own API."""
    providers = web.application.extensions["gateway"].routes.providers
    monkeypatch.setattr(providers["openai"], "first_party", True)
    endpoint = type(providers["gemini"].endpoint)(f"{fake.url}/v1beta/openai", "sk-operator-gemini")
    monkeypatch.setattr(providers["gemini"], "endpoint", endpoint)
    MEMORY.clear()


def vendor_format(request: Any) -> str:
    """The format in which the vendor was asked."""
    path = request.path.partition("?")[0]
    if "enerateContent" in path:
        return "gemini"
    return {"messages": "messages", "responses": "responses", "completions": "chat"}[path.rpartition("/")[2]]


def events_of(data: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in data.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def said(client: str, found: Any) -> tuple[str, str, tuple[str, str, dict[str, Any]], str]:
    """Reasoning, text, call and reason of the end in the client's format, of a whole answer or of events."""
    reader, builder = WIRE_FORMATS[client].reader(), AnswerBuilder()
    for event in (
        reader.read_whole(found)
        if isinstance(found, dict)
        else [each for value in found for each in reader.read(value)]
    ):
        builder.add(event)
    whole = builder.answer()
    assert whole.stop is not None
    (call,) = [part for part in whole.parts if isinstance(part, ToolCallPart)]
    return (
        "".join(part.text for part in whole.parts if isinstance(part, ReasoningPart)),
        "".join(part.text for part in whole.parts if isinstance(part, TextPart)),
        (call.id, call.name, json.loads(call.arguments)),
        whole.stop.reason,
    )


EXPECTED = ("Hm", "I look.", ("call_a", "ls", {"path": "."}), "tool_calls")


@pytest.mark.parametrize(("client", "vendor"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
def test_a_turn_streamed(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, client: str, vendor: str
) -> None:
    model, script, _ = VENDORS[vendor]
    fake.will(stream(script))
    path, body = CLIENTS[client][0](model, [])
    if client == "gemini":
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
    else:
        body["stream"] = True
    got = web.post(path, json=body, headers=rich.headers)
    assert got.status_code == 200, got.text
    assert said(client, events_of(got.data)) == EXPECTED
    assert vendor_format(fake.requests[0]) == vendor
    _is_billed(facts)


@pytest.mark.parametrize(("client", "vendor"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
def test_a_whole_turn_and_the_next(
    web: FlaskClient, fake: FakeUpstream, rich: Person, facts: Facts, client: str, vendor: str
) -> None:
    model, script, whole = VENDORS[vendor]
    request, following = CLIENTS[client]
    path, body = request(model, [])
    # read as a stream, or whole where the limit is low
    fake.will(lambda exchange: (stream(script) if _streams(exchange.request) else answer(whole))(exchange))
    first = web.post(path, json=body, headers=rich.headers)
    assert first.status_code == 200, first.text
    assert said(client, first.json) == EXPECTED
    _is_billed(facts)
    path, body = request(model, following(first.json))
    second = web.post(path, json=body, headers=rich.headers)
    assert second.status_code == 200, second.text
    sent = fake.requests[-1]
    history = json.dumps(sent.body)
    assert "a.py" in history
    assert "call_a" in history
    if (client, vendor) != ("chat", "chat"):
        # what proves the reasoning came back to its vendor, also from clients that do not return it
        assert "c2ln" in history
        assert "stoa1." not in history


def _streams(request: Any) -> bool:
    return request.body.get("stream") is True or "streamGenerateContent" in request.path


def _is_billed(facts: Facts) -> None:
    (call,) = facts.calls()
    assert (call.state, call.usage_source, call.uncached_input_tokens, call.output_tokens) == (
        "settled",
        "provider",
        1000,
        40,
    )
