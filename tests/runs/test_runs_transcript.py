"""Transcripts of calls from any stored JSON."""

import json
from typing import Any

import pytest

from models.runs.transcript import MAX_CHARS, ConversationTurn, MessagePart, Transcript, transcript


def parsed(
    request: Any = None, response: Any = None, reasoning: str | None = None, total: int | None = None
) -> Transcript:
    total = len(request) if total is None and isinstance(request, list) else total or 0
    return transcript(request, total, response, reasoning)


def parts(turn: ConversationTurn) -> list[tuple[str, str, str]]:
    return [(part.kind, part.title, part.text) for part in turn.parts]


def test_roles_texts_parts_and_tools() -> None:
    found = parsed(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "t1", "function": {"name": "read", "arguments": '{"a":1}'}}]},
            {"role": "tool", "tool_call_id": "t1", "content": "42"},
            {"role": "assistant", "content": [{"type": "thinking", "text": "Hm."}, "So."], "reasoning": "First."},
        ]
    )  # fmt: skip
    assert found.request is not None
    system, user, assistant, tool, last = found.request
    assert [turn.role for turn in found.request] == ["system", "user", "assistant", "tool", "assistant"]
    assert parts(system) == [("text", "", "Be brief.")]
    assert [part.kind for part in user.parts] == ["text", "media"]
    assert user.parts[1].title == "Image"
    assert parts(assistant) == [("call", "read", '{\n  "a": 1\n}')]
    assert assistant.preview == 'read { "a": 1 }'
    assert (tool.title, tool.preview) == ("read", "42")
    assert parts(last) == [("reasoning", "", "First."), ("reasoning", "", "Hm."), ("text", "", "So.")]


def test_an_answer_with_its_reasoning_and_several_answers() -> None:
    one = parsed(response="Hello", reasoning="Think.").response
    assert one is not None
    assert parts(one[0]) == [("reasoning", "", "Think."), ("text", "", "Hello")]
    several = parsed(response=json.dumps(["a", "b"])).response
    assert several is not None
    assert [parts(turn)[0][2] for turn in several] == ["a", "b"]
    assert [turn.role for turn in several] == ["assistant", "assistant"]
    quoted = parsed(response='["not json').response
    assert quoted is not None
    assert quoted[0].preview == '["not json'
    whole = parsed(response={"choices": [{"message": {"role": "assistant", "content": "x"}}]}).response
    assert whole is not None
    assert whole[0].preview == "x"


def test_what_was_not_kept_is_told_from_what_is_empty() -> None:
    nothing = parsed()
    assert (nothing.request, nothing.response) == (None, None)
    empty = parsed(request=[], response="")
    assert empty.request == []
    assert empty.response == [ConversationTurn("assistant", [])]
    only = parsed(reasoning="because").response
    assert only is not None
    assert parts(only[0]) == [("reasoning", "", "because")]


def test_long_texts_are_cut_and_say_how_long_they_were() -> None:
    found = parsed([{"role": "user", "content": "é" * 100_000}]).request
    assert found is not None
    [part] = found[0].parts
    assert (len(part.text), part.length, part.truncated) == (MAX_CHARS, 100_000, True)
    assert len(found[0].preview) == 120
    assert not MessagePart("text", "abc", 3).truncated


def test_messages_left_out_are_counted() -> None:
    assert parsed([{"role": "user", "content": "last"}], total=61).omitted == 60


@pytest.mark.parametrize(
    "junk",
    [
        1, True, "text", [], [[]], [None], {}, {"messages": [{"role": 1, "content": {"x": 1}}]}, [{"messages": "x"}],
        [{"role": ["x"], "content": [1, None, {"type": 3}, ["deep", ["er"]]], "tool_calls": [1, {}, {"function": {}}]}],
        [{"role": "assistant", "tool_calls": "x", "function_call": {"name": None, "arguments": "{"}}],
        [{"content": [{"type": "file", "file": {"data": "x" * 1000}}], "name": {"a": 1}}], [[{"role": "user"}]],
        [{"role": "assistant", "tool_calls": [{"function": {"name": "x", "arguments": "[" * 100_000}}]}],
    ],
)  # fmt: skip
def test_any_json_makes_a_transcript(junk: Any) -> None:
    for found in (parsed(request=junk), parsed(response=junk)):
        for turn in [*(found.request or ()), *(found.response or ())]:
            assert isinstance(turn.role, str)
            assert isinstance(turn.preview, str)
            assert turn.length >= 0
