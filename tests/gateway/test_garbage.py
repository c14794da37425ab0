"""Malformed requests: a status below 500, and no charge for refused calls."""

import copy
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.runs import AgentRun
from tests.factories import Person
from tests.gateway.conftest import MESSAGES, Facts

DOORS = ("/v1/chat/completions", "/api/v1/chat/completions")
BASE: dict[str, Any] = {
    "model": "openai/gpt-4o-mini",
    "messages": [
        *MESSAGES,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {
            "role": "tool",
            "tool_call_id": "1",
            "content": [{"type": "text", "text": "x", "cache_control": {}}],
        },
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "max_tokens": 10,
    "n": 1,
    "stream": False,
    "stream_options": {"include_usage": True},
    "reasoning": {"effort": "low"},
    "usage": {"include": True},
    "tool_choice": "auto",
    "stop": ["."],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"schema": {"type": "object", "properties": {"a": {}}}},
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


DETAIL = {
    "type": "reasoning.text",
    "text": "So.",
    "format": "anthropic-claude-v1",
    "signature": "c2ln",
    "index": 0,
}
EVERYTHING: dict[str, Any] = {
    **BASE,
    "messages": [
        *BASE["messages"],
        {"role": "assistant", "content": "So.", "reasoning_details": [DETAIL]},
        {"role": "user", "name": "x", "content": [
            {"type": "text", "text": "x"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}},
            {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,aaaa"}},
        ]},
    ],
    "service_tier": "default",
    "verbosity": "low",
    "user": "x",
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "parallel_tool_calls": True,
    "seed": 1,
    "temperature": 0.5,
    "thinking": {"type": "enabled", "budget_tokens": 2_000},
    "google": {"thinking_config": {"thinking_level": "low", "thinking_budget": 5, "include_thoughts": True}},
}  # fmt: skip
"""Every part that is translated for another format."""
ODD: tuple[Any, ...] = ([None], {"a": [1]}, 5, True, None, "", "\u00e9")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["\x00", "stoa/demo", "openai/", "/", "x" * 300, "data:image/png;base64,"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*BASE, "role", "content"]), inner, max_size=3)
    ),
    max_leaves=6,
)


models = st.sampled_from(
    ["openai/gpt-4o-mini", "openai/gpt-5", "anthropic/claude-sonnet-4.5", "x/y", "stoa/demo"]
)


def changed(path: tuple[Any, ...], value: Any, run_id: str, model: str) -> Any:
    body = copy.deepcopy(BASE) | {"codebuff_metadata": {"run_id": run_id, "n": None}, "model": model}
    if not path:
        return value
    node: Any = body
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return body


@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-4.5", "google/gemini-2.5-pro"])
@pytest.mark.parametrize("path", places(EVERYTHING)[1:], ids=lambda path: "-".join(map(str, path)))
def test_a_wrong_type_in_any_place_is_translated_or_refused(
    web: FlaskClient, rich: Person, path: tuple[Any, ...], model: str
) -> None:
    for value in ODD:
        body = copy.deepcopy(EVERYTHING) | {"model": model}
        node: Any = body
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        answer = web.post(DOORS[0], json=body, headers=rich.headers)
        assert answer.status_code < 500, (path, value, answer.text)


@settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    path=st.sampled_from([*places(BASE), ("codebuff_metadata", "n"), ("codebuff_metadata",)]),
    value=values,
    model=models,
)
def test_changed_bodies(
    web: FlaskClient,
    rich: Person,
    run: AgentRun,
    facts: Facts,
    path: tuple[Any, ...],
    value: Any,
    model: str,
) -> None:
    data = orjson.dumps(changed(path, value, run.id, model))
    for door in DOORS:
        before = len(facts.messages())
        answer = web.post(door, data=data, headers=rich.headers)
        assert answer.status_code < 500, (door, data, answer.text)
        assert answer.data
        if answer.status_code != 200:
            assert answer.json
            assert len(facts.messages()) == before


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.binary(max_size=60) | st.text(max_size=30).map(lambda text: orjson.dumps(text)))
def test_any_bytes(web: FlaskClient, rich: Person, facts: Facts, data: bytes) -> None:
    for door in (*DOORS, "/api/v1/token-count"):
        answer = web.post(door, data=data, headers=rich.headers)
        assert 400 <= answer.status_code < 500
        assert answer.json
    assert facts.messages() == []


@pytest.mark.parametrize(
    "key", ["\x00", "é" * 50, "'; DROP TABLE session; --", "x" * 8_000, " ", "Bearer Bearer"]
)
def test_any_key(web: FlaskClient, key: str) -> None:
    for door in (*DOORS, "/v1/models", "/api/v1/token-count"):
        method = web.get if door.endswith("models") else web.post
        for name in ("Authorization", "x-codebuff-api-key"):
            value = f"Bearer {key}" if name == "Authorization" else key
            answer = method(door, data=b'{"messages": []}', headers={name: value})
            assert answer.status_code == 401


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": True}, "top_p"),
        ({"presence_penalty": []}, "presence_penalty"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x", 5]}, "stop"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0]"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(
    web: FlaskClient, rich: Person, facts: Facts, change: dict[str, Any], param: str
) -> None:
    body = copy.deepcopy(BASE) | {"model": "stoa/demo"} | change
    answer = web.post("/v1/chat/completions", json=body, headers=rich.headers)
    assert (answer.status_code, answer.json["error"]["param"]) == (400, param)
    assert f"'{param}" in answer.json["error"]["message"]
    assert facts.messages() == []
