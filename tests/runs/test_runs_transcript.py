"""What was said in a call, whatever JSON was kept of it."""

import json
from typing import Any

import pytest

from models.runs.transcript import MAX_CHARS, ConversationTurn, MessagePart, Transcript, transcript


def said(
    request: Any = None, response: Any = None, reasoning: str | None = None, total: int | None = None
) -> Transcript:
    total = len(request) if total is None and isinstance(request, list) else total or 0
    return transcript(request, total, response, reasoning)


def parts(turn: ConversationTurn) -> list[tuple[str, str, str]]:
    return [(part.kind, part.title, part.text) for part in turn.parts]


def test_roles_texts_parts_and_tools() -> None:
    found = said(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "t1", "function": {"name": "read", "arguments": '{"a":1}'}}]},
            {"role": "tool", "tool_call_id": "t1", "content": "42"},
            {"role": "assistant", "content": [{"type": "thinking", "text": "Hm."}, "So."], "reasoning": "First."},
        ]
    )  # fmt: skip
    assert found.asked is not None
    system, user, assistant, tool, last = found.asked
    assert [turn.role for turn in found.asked] == ["system", "user", "assistant", "tool", "assistant"]
    assert parts(system) == [("text", "", "Be brief.")]
    assert [part.kind for part in user.parts] == ["text", "media"]
    assert user.parts[1].title == "image url"
    assert parts(assistant) == [("call", "read", '{\n  "a": 1\n}')]
    assert assistant.opening == 'read { "a": 1 }'
    assert (tool.title, tool.opening) == ("t1", "42")
    assert parts(last) == [("reasoning", "", "First."), ("reasoning", "", "Hm."), ("text", "", "So.")]


def test_an_answer_with_its_reasoning_and_several_answers() -> None:
    one = said(response="Hello", reasoning="Think.").answers
    assert one is not None
    assert parts(one[0]) == [("reasoning", "", "Think."), ("text", "", "Hello")]
    several = said(response=json.dumps(["a", "b"])).answers
    assert several is not None
    assert [parts(turn)[0][2] for turn in several] == ["a", "b"]
    assert [turn.role for turn in several] == ["assistant", "assistant"]
    quoted = said(response='["not json').answers
    assert quoted is not None
    assert quoted[0].opening == '["not json'
    whole = said(response={"choices": [{"message": {"role": "assistant", "content": "x"}}]}).answers
    assert whole is not None
    assert whole[0].opening == "x"


def test_what_was_not_kept_is_told_from_what_is_empty() -> None:
    nothing = said()
    assert (nothing.asked, nothing.answers) == (None, None)
    empty = said(request=[], response="")
    assert empty.asked == []
    assert empty.answers == [ConversationTurn("assistant", [])]
    only = said(reasoning="because").answers
    assert only is not None
    assert parts(only[0]) == [("reasoning", "", "because")]


def test_long_texts_are_cut_and_say_how_long_they_were() -> None:
    found = said([{"role": "user", "content": "é" * 100_000}]).asked
    assert found is not None
    [part] = found[0].parts
    assert (len(part.text), part.length, part.cut) == (MAX_CHARS, 100_000, True)
    assert len(found[0].opening) == 120
    assert not MessagePart("text", "abc", 3).cut


def test_messages_left_out_are_counted() -> None:
    assert said([{"role": "user", "content": "last"}], total=61).earlier == 60


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
    for found in (said(request=junk), said(response=junk)):
        for turn in [*(found.asked or ()), *(found.answers or ())]:
            assert isinstance(turn.role, str)
            assert isinstance(turn.opening, str)
            assert turn.length >= 0
