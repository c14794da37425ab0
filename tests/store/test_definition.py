"""The format of definitions, field by field (contract 3.12), and `POST /api/agents/validate`."""

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session as OrmSession

from models.core.strict_models import InvalidBody, parse
from models.store.publishing.definition import MAX_BYTES, Definition, too_large
from models.store.publishing.definition_schema import json_schema
from tests import factories
from tests.factories import Person

PATH = "/api/agents/validate"
PLAIN = {"id": "reviewer", "displayName": "Reviewer", "model": "stoa/demo"}
RESULT = {"type": "object", "properties": {"ok": {"type": "boolean", "default": None}}}


def issues(**fields: Any) -> list[tuple[str, str]]:
    try:
        parse(Definition, PLAIN | fields)
    except InvalidBody as error:
        return [(".".join(map(str, each["path"])), each["message"]) for each in error.issues]
    return []


def validate(client: FlaskClient, *definitions: Any, **more: Any) -> Any:
    answer = client.post(PATH, json={"agentDefinitions": definitions, **more})
    assert answer.status_code == 200
    return answer.get_json()


# -- fields --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "a"},
        {"id": "-0-"},
        {"version": "anything", "publisher": "Any", "spawnerPrompt": ""},
        {"toolNames": ["read_files", "no_such_tool"]},
        {"mcpServers": {"a": {"url": "https://x"}, "b": {"type": "sse", "url": "", "params": {"a": "b"}}}},
        {"mcpServers": {"c": {"type": "stdio", "command": "x", "args": ["-y"], "env": {"A": "B"}}}},
        {"inputSchema": {}},
        {"inputSchema": {"prompt": {"type": "string", "description": "d"}, "params": RESULT, "more": 1}},
        {"outputMode": "all_messages"},
        {"outputMode": "structured_output"},
        {"outputMode": "structured_output", "outputSchema": RESULT},
        {"outputMode": "structured_output", "toolNames": ["set_output"]},
        {"toolNames": ["set_output"]},
        {"reasoningOptions": {"max_tokens": 1.5}},
        {"reasoningOptions": {"effort": "minimal", "enabled": True, "exclude": False}},
        {"providerOptions": {}},
        {
            "providerOptions": {
                "order": ["a"],
                "allow_fallbacks": True,
                "require_parameters": False,
                "data_collection": "deny",
                "only": [],
                "ignore": ["b"],
                "quantizations": ["int4", "unknown"],
                "sort": "latency",
                "max_price": {"prompt": 1, "completion": 0.5, "image": "2"},
            }
        },
        {"handleSteps": "  function* ({ prompt }) { yield 'STEP' }"},
        {"name": "Näme 👩‍👩‍👧", "description": "Two\nlines", "tags": ["a", "b c"]},
    ],
)
def test_valid_fields(client: FlaskClient, fields: dict[str, Any]) -> None:
    assert issues(**fields) == []
    assert validate(client, PLAIN | fields) == {
        "success": True,
        "configs": [fields.get("id", "reviewer")],
        "validationErrors": [],
        "errorCount": 0,
    }
    jsonschema_rs.validator_for(json_schema()).validate(PLAIN | fields)


ID = "Agent ID must contain only lowercase letters, numbers, and hyphens"


@pytest.mark.parametrize(
    ("fields", "place", "message"),
    [
        ({"id": "Reviewer"}, "id", ID),
        ({"id": ""}, "id", ID),
        ({"id": "rеviewer"}, "id", ID),  # a Cyrillic letter
        ({"id": "reviewer\n"}, "id", ID),
        ({"id": "١"}, "id", ID),
        ({"id": "../x"}, "id", ID),
        ({"id": "x" * 201}, "id", "Too big: expected string to have <=200 characters"),
        ({"id": 5}, "id", "Invalid input: expected string, received number"),
        ({"displayName": None}, "displayName", "Invalid input: expected string, received null"),
        ({"displayName": "a\u202eb"}, "displayName", "Must be one line without control characters"),
        ({"displayName": "a\x07"}, "displayName", "Must be one line without control characters"),
        ({"model": ["m"]}, "model", "Invalid input: expected string, received array"),
        ({"description": "\x1b[31m"}, "description", "Must not contain control characters"),
        ({"tags": ["a", 1]}, "tags.1", "Invalid input: expected string, received number"),
        (
            {"systemPrompt": {"path": "x.md"}},
            "systemPrompt",
            "Invalid input: expected string, received object",
        ),
        ({"stepPrompt": {"path": "x.md"}}, "stepPrompt", "Invalid input: expected string, received object"),
        ({"instructionsPrompt": 1}, "instructionsPrompt", "Invalid input: expected string, received number"),
        ({"toolNames": "read"}, "toolNames", "Invalid input: expected array, received string"),
        ({"spawnableAgents": [1]}, "spawnableAgents.0", "Invalid input: expected string, received number"),
        ({"mcpServers": []}, "mcpServers", "Invalid input: expected object, received array"),
        ({"mcpServers": {"a": {"url": "u", "x": 1}}}, "mcpServers.a", 'Unrecognized key: "x"'),
        (
            {"mcpServers": {"a": {"type": "stdio", "url": "u", "command": "c"}}},
            "mcpServers.a",
            'Unrecognized key: "url"',
        ),
        ({"mcpServers": {"a": {}}}, "mcpServers.a.url", "Invalid input: expected string, received undefined"),
        ({"inputSchema": {"prompt": {}}}, "inputSchema.prompt.type", 'Invalid input: expected "string"'),
        (
            {"inputSchema": {"prompt": 5}},
            "inputSchema.prompt",
            "Invalid input: expected object, received number",
        ),
        ({"inputSchema": 5}, "inputSchema", "Invalid input: expected object, received number"),
        (
            {"inputSchema": {"params": {"type": "array"}}},
            "inputSchema.params.type",
            'Invalid input: expected "object"',
        ),
        (
            {"outputMode": "loud"},
            "outputMode",
            'Invalid option: expected one of "last_message"|"all_messages"|"structured_output"',
        ),
        ({"outputSchema": {"type": "string"}}, "outputSchema.type", 'Invalid input: expected "object"'),
        (
            {"includeMessageHistory": 1},
            "includeMessageHistory",
            "Invalid input: expected boolean, received number",
        ),
        (
            {"reasoningOptions": {"enabled": True}},
            "reasoningOptions",
            "Invalid input: give max_tokens or effort",
        ),
        (
            {"reasoningOptions": {"effort": "huge"}},
            "reasoningOptions.effort",
            'Invalid option: expected one of "high"|"medium"|"low"|"minimal"|"none"',
        ),
        (
            {"reasoningOptions": {"max_tokens": True}},
            "reasoningOptions.max_tokens",
            "Invalid input: expected number, received boolean",
        ),
        (
            {"providerOptions": {"data_collection": "sell"}},
            "providerOptions.data_collection",
            'Invalid option: expected one of "allow"|"deny"',
        ),
        ({"handleSteps": 5}, "handleSteps", "Invalid input: expected string, received number"),
    ],
)
def test_invalid_fields(fields: dict[str, Any], place: str, message: str) -> None:
    assert issues(**fields) == [(place, message)]


def test_defaults_are_kept_with_the_rest_and_nothing_else() -> None:
    sent = PLAIN | {
        "outputMode": "structured_output",
        "outputSchema": RESULT,
        "mcpServers": {"a": {"url": "u"}},
        "reasoningOptions": {"max_tokens": 100, "effort": "low", "junk": 1},
        "inputSchema": {"more": None},
        "junk": {},
    }
    stored = parse(Definition, sent).stored()
    assert stored == PLAIN | {
        "systemPrompt": "",
        "instructionsPrompt": "",
        "stepPrompt": "",
        "toolNames": [],
        "spawnableAgents": [],
        "mcpServers": {"a": {"type": "http", "url": "u", "params": {}, "headers": {}}},
        "inputSchema": {"more": None},
        "outputMode": "structured_output",
        "outputSchema": RESULT,
        "includeMessageHistory": False,
        "inheritParentSystemPrompt": False,
        "reasoningOptions": {"max_tokens": 100, "effort": "low"},
    }
    assert parse(Definition, stored).stored() == stored


# -- rules between fields, and their messages ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"outputSchema": RESULT},
            "outputSchema requires outputMode to be explicitly set to 'structured_output'.",
        ),
        (
            {"outputSchema": RESULT, "outputMode": "all_messages"},
            "outputSchema requires outputMode to be explicitly set to 'structured_output'.",
        ),
        (
            {"spawnableAgents": ["planner"]},
            "Non-empty spawnableAgents array requires the 'spawn_agents' tool."
            " Add 'spawn_agents' to toolNames or remove spawnableAgents.",
        ),
        (
            {"systemPrompt": "x", "inheritParentSystemPrompt": True},
            "Cannot specify both systemPrompt and inheritParentSystemPrompt."
            " When inheritParentSystemPrompt is true, systemPrompt must be empty.",
        ),
    ],
)
def test_rules_between_fields(client: FlaskClient, fields: dict[str, Any], message: str) -> None:
    body = validate(client, PLAIN | fields)
    assert (body["success"], body["configs"], body["errorCount"]) == (True, [], 1)
    [problem] = body["validationErrors"]
    assert problem["filePath"] == "reviewer"
    head, _, tail = problem["message"].partition("Schema validation failed: ")
    assert head == 'Agent "reviewer" (Reviewer): '
    assert [each["message"] for each in json.loads(tail)] == [message]
    assert tail == json.dumps(json.loads(tail), indent=2)


def test_every_violation_is_reported(client: FlaskClient) -> None:
    body = validate(
        client,
        PLAIN
        | {
            "outputSchema": RESULT,
            "spawnableAgents": ["planner"],
            "systemPrompt": "x",
            "inheritParentSystemPrompt": True,
        },
    )
    assert body["validationErrors"][0]["message"].count('"code": "custom"') == 3


def test_steps_must_be_a_generator(client: FlaskClient) -> None:
    source = "(params) => { " + "x" * 100
    body = validate(client, PLAIN | {"handleSteps": source})
    assert body["validationErrors"] == [
        {
            "filePath": "reviewer",
            "message": 'Agent "reviewer" (Reviewer): handleSteps must be a generator function:'
            f' "function* (params) {{ ... }}". Found: {source[:50]}...',
        }
    ]


def test_errors_name_the_agent_if_possible(client: FlaskClient) -> None:
    body = validate(client, {"id": "x"}, {"displayName": "X"}, 5)
    places = [each["filePath"] for each in body["validationErrors"]]
    assert places == ["x", "agentDefinitions[1]", "agentDefinitions[2]"]
    heads = [each["message"].partition(":")[0] for each in body["validationErrors"]]
    assert heads == ['Agent "x"', "Agent in agentDefinitions[1]", "Agent in agentDefinitions[2]"]


def test_the_last_of_the_same_id_counts(client: FlaskClient) -> None:
    assert validate(client, {"id": "reviewer"}, PLAIN)["configs"] == ["reviewer"]
    assert validate(client, PLAIN, {"id": "reviewer"})["errorCount"] == 1


@pytest.mark.parametrize(
    "body", [{}, [], 5, {"agentDefinitions": {}}, {"agentDefinitions": None, "agentConfigs": "x"}]
)
def test_there_must_be_a_list(client: FlaskClient, body: Any) -> None:
    answer = client.post(PATH, json=body)
    assert (answer.status_code, answer.get_json()) == (
        400,
        {"error": "Invalid request: agentDefinitions must be an array of AgentDefinition objects"},
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"NaN", b"\xff"])
def test_invalid_json_answers_as_in_the_contract(client: FlaskClient, raw: bytes) -> None:
    answer = client.post(PATH, data=raw)
    assert (answer.status_code, answer.get_json()) == (500, {"error": "Internal server error"})


@pytest.mark.parametrize("levels", [250, 5000])
def test_too_deep_json_is_a_client_error(client: FlaskClient, levels: int) -> None:
    answer = client.post(PATH, data=b'{"agentDefinitions":' + b"[" * levels + b"]" * levels + b"}")
    assert (answer.status_code, answer.get_json()) == (400, {"error": "Invalid JSON in request body"})


@pytest.mark.parametrize("local", [None, 5, "my-own", {"my-own": 1}, [5, None, ["my-own"]]])
def test_a_list_of_local_agents_that_is_none_names_none(client: FlaskClient, local: Any) -> None:
    assert validate(client, PLAIN, allLocalAgentIds=local)["configs"] == ["reviewer"]
    calling = PLAIN | {"toolNames": ["spawn_agents"], "spawnableAgents": ["my-own"]}
    assert validate(client, calling, allLocalAgentIds=local)["errorCount"] == 1
    assert validate(client, calling, allLocalAgentIds=[5, "my-own"])["errorCount"] == 0


def test_a_nul_is_a_problem_of_its_definition(client: FlaskClient) -> None:
    body = validate(client, PLAIN | {"systemPrompt": "\0"}, PLAIN | {"id": "other"})
    assert [each["filePath"] for each in body["validationErrors"]] == ["reviewer"]


def test_the_old_name_of_the_list_works(client: FlaskClient) -> None:
    answer = client.post(PATH, data=json.dumps({"agentConfigs": [PLAIN]}), content_type="text/plain")
    assert answer.get_json()["configs"] == ["reviewer"]


# -- references ----------------------------------------------------------------------------------------------


def test_agents_that_are_named_must_exist(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    assert alice.user
    acme = factories.publisher(alice.user)
    factories.agent_version(acme, "thinker", "1.0.0")
    factories.agent_version(acme, "old", "1.0.0", yanked_reason="broken")
    good = ["base", "other", "mine", "acme/thinker@1.0.0", "acme/old@1.0.0", "acme/fresh@2.0.0"]
    calling = PLAIN | {"toolNames": ["spawn_agents"], "spawnableAgents": good}
    others = [
        PLAIN | {"id": "other"},
        PLAIN | {"id": "fresh", "publisher": "acme", "version": "2.0.0"},
        {"id": "broken"},
    ]
    body = validate(client, calling, *others, allLocalAgentIds=["mine"])
    assert body["configs"] == ["reviewer", "other", "fresh"]
    assert body["errorCount"] == 1

    bad = ["nobody", "acme/thinker", "thinker@1.0.0", "acme/thinker@2.0.0", "x/y@z", "a/b/c@1.0.0"]
    body = validate(client, calling | {"spawnableAgents": [*good, *bad]}, *others, allLocalAgentIds=["mine"])
    output = {each["filePath"]: each["message"] for each in body["validationErrors"]}
    unfit = (
        "Invalid agent ID: {}. Not found. You must include the publisher, agent id, and version"
        " if the agent is not defined locally."
    )
    assert output == {
        "nobody": unfit.format("nobody"),
        "acme/thinker": unfit.format("acme/thinker"),
        "thinker@1.0.0": unfit.format("thinker@1.0.0"),
        "acme/thinker@2.0.0": "Invalid agent ID: acme/thinker@2.0.0. Agent not found in database.",
        "x/y@z": "Invalid agent ID: x/y@z. Agent not found in database.",
        "a/b/c@1.0.0": unfit.format("a/b/c@1.0.0"),
    }
    assert body["configs"] == []


# -- limits --------------------------------------------------------------------------------------------------


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"properties": value}
    return value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"systemPrompt": "x" * 5_000_000}, "The definition has 5000"),
        (
            {"spawnableAgents": ["base"] * 10_000},
            "spawnableAgents names 10000 agents; the limit is 500.",
        ),
        ({"subagents": ["base"] * 10_000}, "subagents names 10000 agents; the limit is 500."),
        ({"inputSchema": deep(100)}, "The definition is nested more than 64 levels deep."),
        ({"mcpServers": {str(n): 5 for n in range(5000)}}, "Schema validation failed"),
        ({"mcpServers": {"a": {str(n): 5 for n in range(50_000)}}}, "Schema validation failed"),
        ({"toolNames": [5] * 50_000}, "Schema validation failed"),
        (
            {"inputSchema": {"params": {"type": "object", "examples": [1] * 30_000}}},
            "The definition has 30016 values; the limit is 20000.",
        ),
    ],
)
def test_large_input_gets_a_short_error(
    client: FlaskClient, alice: Person, fields: dict[str, Any], message: str
) -> None:
    answer = client.post("/api/agents/publish", json={"data": [PLAIN | fields]}, headers=alice.headers)
    assert answer.status_code == 400
    output = answer.get_json()
    assert output["error"] == "Agent config validation failed"
    assert output["validationErrors"][0]["message"].startswith(f'Agent "reviewer" (Reviewer): {message}')
    assert len(answer.data) < 100_000


def test_errors_of_five_hundred_definitions_are_bounded(client: FlaskClient) -> None:
    wrong = [{"id": f"a{at}", "mcpServers": {str(n): 5 for n in range(100)}} for at in range(500)]
    answer = client.post("/api/agents/publish", json={"data": wrong})
    problems = answer.get_json()["validationErrors"]
    assert [each["filePath"] for each in problems] == [each["id"] for each in wrong]
    assert "expected object, received number" in problems[0]["message"]
    assert "Fix the definitions above first." in problems[-1]["message"]
    assert len(answer.data) < 2_000_000


def test_too_many_references_are_refused_together(client: FlaskClient, alice: Person) -> None:
    many = [
        PLAIN | {"id": f"a{at}", "spawnableAgents": [f"b{at}-{n}" for n in range(300)]} for at in range(70)
    ]
    answer = client.post(PATH, json={"agentDefinitions": many}, headers=alice.headers)
    [problem] = answer.get_json()["validationErrors"]
    assert problem["message"].startswith(
        "The definitions reference 21000 agents; the limit is 20000 per request."
    )


def test_too_many_agents_are_refused(client: FlaskClient) -> None:
    answer = client.post(PATH, json={"agentDefinitions": [PLAIN] * 501})
    assert answer.status_code == 400
    assert "expected array to have <=500 items" in answer.get_json()["error"]


def test_a_size_is_that_of_its_json() -> None:
    rest = len(json.dumps({**PLAIN, "systemPrompt": ""}, separators=(",", ":")))
    assert too_large({**PLAIN, "systemPrompt": "x" * (MAX_BYTES - rest)}) is None
    assert too_large({**PLAIN, "systemPrompt": "x" * (MAX_BYTES - rest + 1)})


def test_nul_differs_from_its_escape_sequence_as_text() -> None:
    assert too_large({"a": "\\u0000"}) is None
    assert too_large({"a": "\\\x00"}) == "The definition contains a NUL character. Remove it."


# -- properties ----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text("ab0\n\x07\u0430", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab0\n\x07\u0430", max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*Definition.model_fields, "junk"]), JSON))
def test_any_value_is_valid_or_has_an_error(fields: dict[str, Any]) -> None:
    found = issues(**fields)
    assert all(message for _, message in found)
    if not found:
        stored = parse(Definition, PLAIN | fields).stored()
        assert parse(Definition, stored).stored() == stored
        assert set(stored) <= set(Definition.model_fields)
        assert jsonschema_rs.validator_for(json_schema()).is_valid(PLAIN | fields)


# -- schema --------------------------------------------------------------------------------------------------


def test_the_type_file_describes_every_field(client: FlaskClient) -> None:
    answer = client.get("/api/docs/agent-definition")
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=300, stale-while-revalidate=60"
    body = answer.get_data(as_text=True).partition("export interface AgentDefinition {")[2]
    written = dict(re.findall(r"^  (\w+)(\??):", body, re.M))
    assert set(written) == set(Definition.model_fields)
    assert {name for name, mark in written.items() if not mark} == {"id", "displayName", "model"}


def test_the_schema_is_served(client: FlaskClient) -> None:
    answer = client.get("/api/docs/agent-definition.json")
    assert answer.get_json() == json_schema()
    assert answer.headers["Cache-Control"] == "public, max-age=300, stale-while-revalidate=60"
    jsonschema_rs.meta.validate(answer.get_json())
    document = client.get("/api/openapi.json").get_json()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
    assert "AgentDefinition" in names
