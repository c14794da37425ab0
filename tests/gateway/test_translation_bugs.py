"""The fifteen most frequent bugs of gateways that translate between formats, each with what is right here.

Numbers 12 (an unknown `previous_response_id`) and 13 (a refused WebSocket) are in `test_responses_door.py`.
"""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from models.gateway.conversation import (
    Answer,
    AnswerStop,
    ReasoningDelta,
    ReasoningPart,
    TextDelta,
    ToolCallDelta,
    ToolCallPart,
)
from models.gateway.formats.answer_memory import MAX_BYTES, MAX_ENTRY, AnswerMemory
from models.gateway.formats.chat_answer import ChatAnswerReader, chat_message
from models.gateway.formats.chat_request import read_chat, write_chat
from models.gateway.formats.foreign_reasoning import sign
from models.gateway.formats.gemini_request import read_gemini, write_gemini
from models.gateway.formats.messages_answer import message_body
from models.gateway.formats.messages_request import read_messages, write_messages
from models.gateway.formats.responses_answer import ResponseHead, ResponsesAnswerReader, ResponsesWriter
from models.gateway.formats.responses_request import read_responses, write_responses
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, chunk, stream

READERS = {"chat": read_chat, "messages": read_messages, "responses": read_responses, "gemini": read_gemini}
WRITERS = {
    "chat": write_chat,
    "messages": write_messages,
    "responses": write_responses,
    "gemini": write_gemini,
}
PNG = "iVBORw0KGgo="


def thinking(signature: str) -> dict[str, Any]:
    blocks = [
        {"type": "thinking", "thinking": "Secret", "signature": signature},
        {"type": "text", "text": "A"},
    ]
    return {"messages": [{"role": "assistant", "content": blocks}, {"role": "user", "content": "And?"}]}


def sent(body: dict[str, Any], source: str, target: str) -> dict[str, Any]:
    return WRITERS[target](READERS[source](body))


# 1 thinking in the history becomes visible text, or breaks the next vendor


@pytest.mark.parametrize("target", ["chat", "responses", "gemini"])
def test_1_foreign_thinking_is_never_text(target: str) -> None:
    body = sent(thinking("EqQBCg"), "messages", target)
    assert "Secret" not in json.dumps({key: body[key] for key in body if key != "reasoning"}) or (
        # OpenRouter returns it to Anthropic as what it is
        target == "chat" and "Secret" not in json.dumps([each.get("content") for each in body["messages"]])
    )


def test_1_our_own_signature_is_the_vendors_reasoning_again() -> None:
    part = ReasoningPart("Secret", encrypted="QUJD", origin="responses", id="rs_1")
    (item, *_) = sent(thinking(sign(part)), "messages", "responses")["input"]
    assert (item["type"], item["encrypted_content"]) == ("reasoning", "QUJD")


# 2 reasoning is lost between the turns of a tool, 7 Gemini's signature with it


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("messages", ReasoningPart("Hm", "c2ln", origin="messages")),
        ("responses", ReasoningPart("Hm", encrypted="c2ln", origin="responses", id="rs_1")),
        ("gemini", None),
    ],
)
def test_2_and_7_what_a_client_dropped_is_restored(target: str, part: ReasoningPart | None) -> None:
    memory = AnswerMemory()
    call = ToolCallPart("call_a", "ls", "{}", signature=None if part else "c2ln")
    memory.remember("key", Answer([part, call] if part else [call]))
    message = chat_message(Answer([call]))
    for each in message["tool_calls"]:
        each.pop("extra_content", None)
    body = {"messages": [message, {"role": "tool", "tool_call_id": "call_a", "content": "x"}]}
    for caller, known in (("key", True), ("another key", False)):
        conversation = read_chat(body)
        memory.restore(caller, conversation)
        assert ("c2ln" in json.dumps(WRITERS[target](conversation))) is known


def test_2_what_is_remembered_is_bounded() -> None:
    memory = AnswerMemory()
    memory.remember(
        "key",
        Answer([ReasoningPart("x" * MAX_ENTRY, "s", origin="messages"), ToolCallPart("large", "ls", "{}")]),
    )
    assert not memory._entries
    part = ReasoningPart("x" * (MAX_ENTRY - 10), "s", origin="messages")
    for number in range(MAX_BYTES // MAX_ENTRY + 20):
        memory.remember("key", Answer([part, ToolCallPart(f"call_{number}", "ls", "{}")]))
    assert memory._size <= MAX_BYTES
    assert ("key", "call_0") not in memory._entries
    assert len(memory._entries) <= MAX_BYTES // (MAX_ENTRY - 10)


# 3 reasoning before its item is opened, or a new id per delta; 4 a call that is never closed; 5 output in one place only


def written(*events: Any, fail: bool = False) -> list[dict[str, Any]]:
    writer = ResponsesWriter(ResponseHead("resp_1", "m", {}))
    out = writer.start("m") + b"".join(writer.write(each) for each in events)
    out += writer.fail("server_error", "Broken.") if fail else writer.finish(None)
    return [
        json.loads(line.removeprefix("data: "))
        for line in out.decode().splitlines()
        if line.startswith("data: ")
    ]


def test_3_reasoning_has_one_item_that_is_opened_first_and_closed_before_the_next() -> None:
    events = written(ReasoningDelta("H"), ReasoningDelta("m"), TextDelta("A"), AnswerStop("stop"))
    kinds = [event["type"].removeprefix("response.") for event in events]
    first = kinds.index("output_item.added")
    assert kinds[first : first + 7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert len({event["item_id"] for event in events if "reasoning" in event["type"]}) == 1
    assert [event["sequence_number"] for event in events] == [*range(len(events))]


@pytest.mark.parametrize("fail", [False, True])
def test_4_a_call_is_closed_at_the_end_and_when_the_answer_breaks_off(fail: bool) -> None:
    events = written(ToolCallDelta(0, "c1", "ls", '{"a"'), fail=fail)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[-3:-1] == ["function_call_arguments.done", "output_item.done"]
    assert kinds[-1] == ("failed" if fail else "completed")


def test_5_output_is_in_its_items_and_in_the_last_event() -> None:
    events = written(TextDelta("Hello"), AnswerStop("stop"))
    (item,) = events[-1]["response"]["output"]
    assert item["content"][0]["text"] == "Hello"
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == [item]
    # and as a reader: from a vendor that leaves it out of either
    for given in (
        [{"type": "response.output_item.done", "item": {**item, "id": "m"}}, {"type": "response.completed", "response": {"output": []}}],
        [{"type": "response.output_text.delta", "item_id": "m", "delta": "Hello"}],
    ):  # fmt: skip
        reader = ResponsesAnswerReader()
        found = [each for event in given for each in reader.read(event)]
        assert [each for each in found if isinstance(each, TextDelta)] == [TextDelta("Hello")]


# 6 parallel calls become several turns, and their results do not match

PARALLEL = [
    {"type": "function_call", "call_id": "a", "name": "ls", "arguments": "{}"},
    {"type": "function_call", "call_id": "b", "name": "ls", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "b", "output": "B"},
    {"type": "function_call_output", "call_id": "a", "output": "A"},
    {"role": "user", "content": "And?"},
]


def test_6_parallel_calls_are_one_turn_with_all_results_directly_after() -> None:
    body = {"input": [{"role": "user", "content": "Hi"}, *PARALLEL]}
    chat = sent(body, "responses", "chat")["messages"]
    assert [message["role"] for message in chat] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in chat[1]["tool_calls"]] == ["a", "b"]
    claude = sent(body, "responses", "messages")["messages"]
    assert [message["role"] for message in claude] == ["user", "assistant", "user"]
    assert [block["type"] for block in claude[2]["content"]] == ["tool_result", "tool_result", "text"]
    gemini = sent(body, "responses", "gemini")["contents"]
    assert [content["role"] for content in gemini] == ["user", "model", "user"]
    assert [part["functionResponse"]["name"] for part in gemini[2]["parts"][:2]] == ["ls", "ls"]


# 8 images are dropped

CLAUDE_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


@pytest.mark.parametrize("target", ["chat", "responses", "gemini"])
@pytest.mark.parametrize("where", ["of the user", "of a tool"])
def test_8_images_arrive(target: str, where: str) -> None:
    content: list[dict[str, Any]] = [{"type": "text", "text": "see"}, CLAUDE_IMAGE]
    if where == "of a tool":
        content = [{"type": "tool_result", "tool_use_id": "a", "content": content}]
    use = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "ls", "input": {}}]}
    body = sent({"messages": [use, {"role": "user", "content": content}]}, "messages", target)
    assert PNG in json.dumps(body)


# 9 results of tools as bare messages, tools without a type


def test_9_results_are_blocks_of_the_user_and_tools_need_no_type() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    body = {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "x"},
            {"role": "user", "content": "And?"},
        ]
    }
    claude = sent(body, "chat", "messages")["messages"]
    assert [block["type"] for block in claude[2]["content"]] == ["tool_result", "text"]
    tools = {"messages": claude, "tools": [{"name": "ls", "input_schema": {"type": "object"}}]}
    assert sent(tools, "messages", "chat")["tools"][0]["function"]["name"] == "ls"


# 10 cache marks and the usage of caches


def test_10_cache_marks_arrive_at_most_four() -> None:
    marked = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    body = {"messages": [{"role": "user", "content": [marked] * 6}]}
    (message,) = sent(body, "chat", "messages")["messages"]
    assert sum("cache_control" in block for block in message["content"]) == 4
    (back,) = sent({"messages": [message]}, "messages", "chat")["messages"]
    assert sum("cache_control" in part for part in back["content"]) == 4


def test_10_the_usage_of_caches_is_in_every_format(
    web: FlaskClient, fake: FakeUpstream, rich: Person
) -> None:
    use = {"prompt_tokens": 1000, "completion_tokens": 5, "total_tokens": 1005, "prompt_tokens_details": {"cached_tokens": 900}}  # fmt: skip
    fake.will(stream([chunk({"content": "Hi"}, "stop"), chunk(None, usage=use), "[DONE]"]))
    body = {"model": "meta-llama/llama-3", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "x"}]}  # fmt: skip
    answer = web.post("/v1/messages", json=body, headers=rich.headers).text
    assert '"cache_read_input_tokens":900' in answer
    assert '"input_tokens":100' in answer


# 11 a line that changes each time defeats the cache


@pytest.mark.parametrize("target", ["chat", "responses", "gemini"])
def test_11_the_volatile_line_reaches_only_anthropic(target: str) -> None:
    line = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=abc;"}
    body = {"system": [line, {"type": "text", "text": "Be kind."}], "messages": [{"role": "user", "content": "x"}]}  # fmt: skip
    written = json.dumps(sent(body, "messages", target))
    assert "cch=abc" not in written
    assert "Be kind." in written


# 14 reasoning that clients of Anthropic's format do not see, and vendors that want it back


def test_14_reasoning_is_a_block_with_our_signature_and_comes_back_as_it_was() -> None:
    reader = ChatAnswerReader()
    delta = {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm"}}]}
    assert reader.read(delta) == [ReasoningDelta("Hm")]
    block, *_ = message_body("m", "m", Answer([ReasoningPart("Hm")]), None)["content"]
    assert block["signature"].startswith("stoa1.")
    body = {"messages": [{"role": "assistant", "content": [block, {"type": "text", "text": "A"}]}]}
    (message,) = sent(body, "messages", "chat")["messages"]
    assert (message["reasoning_content"], message["content"]) == ("Hm", "A")


# 15 no terminal event, or fields dropped in silence


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/completions", '"code":"upstream_cut"'),
        ("/v1/messages", '"type":"error"'),
        ("/v1/responses", "response.failed"),
        ("/v1beta/models/claude-sonnet-4.5:streamGenerateContent?alt=sse", '"status":"INTERNAL"'),
    ],
)
def test_15_an_answer_that_breaks_off_ends_in_the_clients_format(
    web: FlaskClient, fake: FakeUpstream, rich: Person, path: str, last: str
) -> None:
    fake.will(
        stream(
            [
                b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","usage":{"input_tokens":1}}}\n\n',
                b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n',
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}\n\n',
            ]
        )
    )
    hello = {"role": "user", "content": "x"}
    body = {"model": "claude-sonnet-4.5", "stream": True, "max_tokens": 9, "messages": [hello]}
    if "responses" in path:
        body = {"model": "claude-sonnet-4.5", "stream": True, "input": [hello]}
    elif "v1beta" in path:
        body = {"contents": [{"parts": [{"text": "x"}]}]}
    answer = web.post(path, json=body, headers=rich.headers)
    blocks = [block for block in answer.text.split("\n\n") if block.strip() and block != "data: [DONE]"]
    assert last in blocks[-1]


def test_15_what_is_left_out_is_named(web: FlaskClient, fake: FakeUpstream, rich: Person) -> None:
    body = {"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": "x"}], "seed": 5, "a\n": 1, **{f"k{n}": n for n in range(200)}}  # fmt: skip
    answer = web.post("/v1/chat/completions", json=body, headers=rich.headers)
    assert answer.status_code == 200
    dropped = answer.headers["X-Stoa-Dropped"]
    assert {"seed", "a\\n", "k0"} <= set(dropped.split(", "))
    assert len(dropped) < 2_100
