"""`stoa/demo` with hostile requests: a few kilobytes must not take much CPU time."""

import time
from typing import Any

import orjson
import pytest

from models.gateway.demo_model import DemoModel
from models.gateway.demo_turns import MAX_BYTES, MAX_PROMPT, next_turn
from models.gateway.upstream import ProviderRequest
from tests.gateway.test_demo import whole

MAX_SECONDS = 0.3
"""CPU time limit, several times the worst case on a slow machine."""


def nested(levels: int, inner: Any, items: int = 20) -> Any:
    for _ in range(levels):
        inner = {"type": "array", "minItems": items, "items": inner}
    return inner


def expanding(width: int, levels: int) -> Any:
    """Definitions with exponentially many references."""
    schemas: dict[str, Any] = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        fields = {f"p{number}": {"$ref": f"#/$defs/d{level + 1}"} for number in range(width)}
        schemas[f"d{level}"] = {"type": "object", "properties": fields}
    return {"$defs": schemas, "$ref": "#/$defs/d0"}


LONG = "x" * 100_000
SCHEMAS = {
    "arrays in arrays": nested(7, {"type": "string"}),
    "arrays of huge items": nested(6, {"type": "string"}, 10**9),
    "constants": nested(5, {"const": LONG}),
    "defaults": nested(5, {"default": [LONG] * 10}),
    "enums": nested(3, {"enum": [f"{number}{LONG[:300]}" for number in range(3_000)]}),
    "long enums": nested(6, {"enum": [LONG] * 10}),
    "enum of many": nested(6, {"enum": ["b" * 150] * 10_000}),
    "options": nested(6, {"anyOf": [{"type": "null"}] * 100_000}),
    "types": nested(6, {"type": ["null"] * 100_000}),
    "required": nested(5, {"type": "object", "properties": {"a": {}}, "required": ["b"] * 100_000}),
    "many properties": {
        "type": "object",
        "properties": {f"p{number}": {"type": "string"} for number in range(60_000)},
        "required": [f"p{number}" for number in range(60_000)],
    },
    "long names": {"type": "object", "properties": {f"{number}{LONG}": {} for number in range(20)}},
    "references that multiply": expanding(50, 5),
    "a reference to itself": {"$ref": "#"},
    "a list of itself": {"type": "array", "items": {"$ref": "#"}, "minItems": 20},
    "an object of itself": {"type": "object", "properties": {f"p{n}": {"$ref": "#"} for n in range(50)}},
    "a long reference": nested(5, {"$ref": "#" + "/a" * 100_000}),
    "lengths": nested(6, {"type": "string", "minLength": 10**9, "maxLength": 10**9}),
    "numbers": nested(6, {"type": "integer", "minimum": 1e300, "maximum": -1e300}),
    "patterns": nested(6, {"type": "string", "pattern": "^(a+)+$"}),
    "deep": nested(90, {"type": "string"}, 1),
    "no schema": nested(6, True),
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("target", ["answer", "tool"])
def test_values_of_a_schema_are_bounded(name: str, target: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": f"call it for {LONG[:MAX_PROMPT]}"}]}
    if target == "answer":
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": SCHEMAS[name]}}
    else:
        parameters = {
            "type": "object",
            "properties": {"a": SCHEMAS[name]},
            "$defs": SCHEMAS[name].get("$defs"),
        }
        body["tools"] = [{"type": "function", "function": {"name": "it", "parameters": parameters}}]
    turn = timed(lambda: next_turn(body))
    output = turn.text or turn.arguments
    orjson.loads(output)
    assert len(output) < 2 * MAX_BYTES


def test_small_schemas_are_filled_as_they_ask() -> None:
    schema = {"type": "object", "properties": {"grid": nested(2, {"type": "integer"})}, "required": ["grid"]}
    body = {"messages": [], "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    assert orjson.loads(next_turn(body).text) == {"grid": [[1] * 20] * 20}


N = 20_000
PROMPTS = {
    "dots": "." * N,
    "dashes": "-" * N,
    "dashes and letters": "-a" * N,
    "dots and letters": ".a" * N,
    "digits": "1" * N + "a",
    "digits and dots": "1." * N + "x",
    "numbers": "1 " * N,
    "slashes": "a/" * N,
    "only slashes": "/" * N,
    "quotes": '"' * N,
    "opening quotes": "“" * N,
    "quotes and letters": '"a' * N,
    "opening quotes and letters": '"' + "“a" * N,
    "say": 'say "' * N,
    "say without end": "say “" * N,
    "say and spaces": "say" + " " * N,
    "spaces": " " * N,
    "lines": "\n" * N,
    "addresses": "http://" * N,
    "capitals": "in " + "A" * N,
    "capitals and spaces": "in " + "Aa " * N + "!",
    "in": "in " * N,
    "in and spaces": "in" + " " * N,
    "agents": "agent " * N,
    "agents and dots": "agent a" + "." * N,
    "agents named": "agent named `" * N,
    "words": "a " * N,
    "a page": "a x " * N,
    "names": "it" * N,
    "name and spaces": "it is " + " " * N,
    "marks": "<user_message>" * N,
    "marks that end": "<user_message></user_message>" * N,
    "dotless": "İ" * N,
    "list": "- a" * N,
    "list of agents": "- a\n" * N,
    "list without end": "- " + "a/" * N,
    "named": "- it: x\n" * N,
    "escapes": '"text": "' + "\\" * N,
    "texts": '"text": "a"' * N,
    "text and spaces": '"text":' + " " * N,
    "types": '"agent_type": "' * N,
    "types and slashes": '"agent_type": "' + "a/" * N,
}

STRINGS = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(90)}}


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("tool", ["it", "spawn_agents", ".", "a" * 150, "- a", " "])
def test_a_prompt_costs_what_its_length_is_worth(name: str, tool: str) -> None:
    text = PROMPTS[name]
    tools = [{"type": "function", "function": {"name": tool, "description": text, "parameters": STRINGS}}]
    for body in (
        {"messages": [{"role": "user", "content": f"{tool} {text}"}], "tools": tools},
        {"messages": [{"role": "user", "content": text}], "tools": tools, "tool_choice": "required"},
        {"messages": [{"role": "user", "content": text}, *called(text)], "tools": tools},
    ):
        assert timed(lambda body=body: next_turn(body)) is not None


def called(text: str) -> list[Any]:
    call = {"id": "1", "type": "function", "function": {"name": "x", "arguments": text}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": text},
    ]


BODIES: dict[str, dict[str, Any]] = {
    "tools": {
        "tools": [
            {"type": "function", "function": {"name": f"tool{number}", "parameters": {}}}
            for number in range(40_000)
        ]
    },
    "tools of long names": {
        "tools": [{"type": "function", "function": {"name": "a" * 2_000 + str(n)}} for n in range(1_000)]
    },
    "stops": {"stop": [f"stop {number}" for number in range(100_000)]},
    "answers": {"n": 128},
    "messages": {"messages": [{"role": "user", "content": "a"}] * 60_000},
    "calls": {"messages": [{"role": "user", "content": "tool1"}, *called('"agent_type": "a"') * 20_000]},
    "long messages": {"messages": [{"role": "user", "content": "a " * 2_000_000}]},
    "a long result": {"messages": [{"role": "user", "content": "a"}, *called("a " * 2_000_000)]},
}


@pytest.mark.parametrize("name", BODIES)
def test_a_request_of_many_parts(name: str) -> None:
    body = {"messages": [{"role": "user", "content": "Use tool1 " + "tool" * 4_000}], **BODIES[name]}
    assert timed(lambda: next_turn(body)) is not None


def test_an_integer_is_one_that_json_can_write() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1e300}}}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    answer = whole({"messages": [{"role": "user", "content": "x"}], "response_format": form})
    assert orjson.loads(answer["choices"][0]["message"]["content"]) == {"a": 1e300}


def test_a_stream_without_pause_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    body = {"messages": [{"role": "user", "content": "Write 4000 words."}], "stream": True, "n": 3}
    blocks = list(DemoModel(0).send(ProviderRequest("", {}, orjson.dumps(body))).blocks())
    assert len(blocks) > 12_000
    assert len(pauses) > len(blocks) // 40


def timed(work: Any) -> Any:
    began = time.thread_time()
    output = work()
    assert time.thread_time() - began < MAX_SECONDS
    return output
