"""`stoa/demo`: deterministic, calls the named tools, respects limits."""

from typing import Any

import orjson
import pytest

from models.gateway.demo_model import DemoModel
from models.gateway.demo_turns import next_turn
from models.gateway.upstream import ProviderRequest

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "read_files",
            "parameters": {
                "type": "object",
                "properties": {
                    "paths": {"type": "array", "items": {"type": "string"}},
                    "limit": {"type": "integer"},
                },
                "required": ["paths"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"enum": ["celsius", "fahrenheit"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 10},
                    "where": {"$ref": "#/$defs/place"},
                },
                "$defs": {
                    "place": {
                        "type": "object",
                        "properties": {"deep": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}},
                    }
                },
            },
        },
    },
    {"type": "function", "function": {"name": "spawn_agents", "parameters": {"type": "object"}}},
]


def ask(prompt: str, **body: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "tools": TOOLS, **body}


def whole(body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(
        DemoModel(0).send(ProviderRequest("", {}, orjson.dumps(body))).read()
    )
    return answer


def streamed(body: dict[str, Any]) -> list[Any]:
    data = b"".join(
        DemoModel(0).send(ProviderRequest("", {}, orjson.dumps(body | {"stream": True}))).blocks()
    )
    assert data.endswith(b"data: [DONE]\n\n")
    return [orjson.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]


@pytest.mark.parametrize(
    ("prompt", "tool", "arguments"),
    [
        ("Please use read_files on src/app.py", "read_files", {"paths": ["src/app.py"]}),
        (
            "Call get_weather for Athens in fahrenheit, 3 days",
            "get_weather",
            {"city": "Athens", "unit": "fahrenheit", "days": 3, "where": {"deep": True}},
        ),
        (
            'Use spawn_agents: let the agent mason "cut a drum"',
            "spawn_agents",
            {"agents": [{"agent_type": "mason", "prompt": "cut a drum"}]},
        ),
    ],
)
def test_a_named_tool_is_called(prompt: str, tool: str, arguments: dict[str, Any]) -> None:
    turn = next_turn(ask(prompt))
    assert (turn.tool, orjson.loads(turn.arguments)) == (tool, arguments)
    assert next_turn(ask(prompt)) == turn


def test_only_whole_names_count() -> None:
    assert next_turn(ask("my_read_files and read_files_2")).tool is None


def test_several_tools_are_called_in_turn_and_then_it_answers() -> None:
    body = ask("First get_weather, then read_files a.txt.")
    seen = []
    while (turn := next_turn(body)).tool:
        seen.append(turn.tool)
        call = {"id": str(len(seen)), "type": "function", "function": {"name": turn.tool, "arguments": "{}"}}
        body["messages"] += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": f"result {len(seen)}"},
        ]
    assert seen == ["get_weather", "read_files"]
    assert "result 2" in turn.text


def test_an_agent_is_spawned_once_though_it_is_offered_as_a_tool_too() -> None:
    tools = [*TOOLS, {"type": "function", "function": {"name": "mason", "parameters": {"type": "object"}}}]
    body = {**ask("Use spawn_agents to have the agent mason cut stone."), "tools": tools}
    turn = next_turn(body)
    assert turn.tool == "spawn_agents"
    call = {"id": "1", "type": "function", "function": {"name": turn.tool, "arguments": turn.arguments}}
    body["messages"] += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "cut"},
    ]
    assert next_turn(body).tool is None


def test_a_new_prompt_is_a_new_turn() -> None:
    messages = [
        {"role": "user", "content": "read_files a.txt"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thanks, what is a stoa?"},
    ]
    assert next_turn({"messages": messages, "tools": TOOLS}).tool is None


def test_choice_of_tools_is_obeyed() -> None:
    assert next_turn(ask("get_weather", tool_choice="none")).tool is None
    assert next_turn(ask("hello", tool_choice="required")).tool == "read_files"
    forced = {"type": "function", "function": {"name": "get_weather"}}
    assert next_turn(ask("hello", tool_choice=forced)).tool == "get_weather"


def test_text_outside_the_user_message_is_ignored() -> None:
    text = "<user_message>What is a stoa?</user_message> You may use read_files and get_weather."
    assert next_turn(ask(text)).tool is None


def test_bounds() -> None:
    body = {"messages": [{"role": "user", "content": "Write 300 words."}]}
    short = whole({**body, "max_tokens": 5})
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 5)
    full = whole(body)
    assert full["choices"][0]["finish_reason"] == "stop"
    assert 290 < len(full["choices"][0]["message"]["content"].split()) < 330
    stopped = whole({**body, "stop": ["."]})
    assert "." not in stopped["choices"][0]["message"]["content"]


def test_stream_and_whole_say_the_same() -> None:
    for body in (ask("What is a column?"), ask("read_files a.txt"), ask("x", n=3)):
        answer, events = whole(body), streamed(body)
        assert events[-1]["usage"] == answer["usage"]
        for choice in answer["choices"]:
            deltas = [c["delta"] for e in events for c in e["choices"] if c["index"] == choice["index"]]
            calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
            if calls:
                arguments = "".join(call["function"]["arguments"] for call in calls)
                assert arguments == choice["message"]["tool_calls"][0]["function"]["arguments"]
            else:
                assert "".join(d.get("content", "") for d in deltas) == choice["message"]["content"]


def test_structured_answers() -> None:
    schema = {"type": "object", "properties": {"height": {"type": "number"}, "name": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = whole({"messages": [{"role": "user", "content": "Height 5.4"}], "response_format": form})
    assert orjson.loads(answer["choices"][0]["message"]["content"])["height"] == 5.4


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": None}]},
        {
            "messages": [{"role": "user", "content": [{"type": "image_url"}]}],
            "tools": [{}, {"function": {"name": 3}}],
        },
        ask("get_weather", response_format={"type": "json_schema"}, stop=[1, None, ""]),
        {
            "messages": [{"role": "user", "content": "f"}],
            "tools": [{"function": {"name": "f", "parameters": {"type": ["null"], "$ref": "#/a/b"}}}],
        },
        {
            "messages": [{"role": "user", "content": "f"}],
            "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"$ref": "#"}}}}}],
        },
    ],
)
def test_odd_bodies_are_answered(body: dict[str, Any]) -> None:
    assert whole(body)["choices"]
    assert streamed(body)


def test_documents_are_quoted_or_said_to_be_silent() -> None:
    id = f"file-{'0a' * 16}#3"
    system = f'Cite 【chunk id "words"】, such as 【file-0a1b#3 "x"】.\n【{id}】\nBoats leave at seven. The harbour closes at nine in winter.\n'

    def said(question: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        return next_turn({"messages": messages}).text

    sentence = "The harbour closes at nine in winter."
    assert said("When does the harbour close in winter?") == f'{sentence} 【{id} "{sentence}"】'
    assert said("Who paints portraits?") == "The documents say nothing about this."
