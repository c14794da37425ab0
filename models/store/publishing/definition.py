"""The format of agent definitions (contract 3.12): fields, limits, rules between fields."""

import re
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from models.core.strict_models import BRANCH, AsSent, Body, Missing, issue
from models.store.publishing import licences

MAX_BYTES = 1_000_000
MAX_NESTING = 64
MAX_VALUES = 20_000
"""Keys and list items of one definition; pages, diffs and files write each on its own line."""
MAX_SPAWNABLE = 500
MAX_KEYS = 100
ID_CHARS = 200

STEPS_FORM = 'handleSteps must be a generator function: "function* (params) { ... }". Found: '

_ID = re.compile(r"[a-z0-9-]+")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Format characters, such as the joiners of emoji, are allowed.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def _agent_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise issue(
            "Agent ID must contain only lowercase letters, numbers, and hyphens",
            origin="string",
            code="invalid_format",
            format="regex",
            pattern="/^[a-z0-9-]+$/",
        )
    return value


def _printable(value: str) -> str:
    if _UNPRINTABLE.search(value):
        raise issue("Must be one line without control characters", code="custom")
    return value


def _prose(value: str) -> str:
    if _CONTROL.search(value):
        raise issue("Must not contain control characters", code="custom")
    return value


def _license(value: str) -> str:
    if not value.strip():
        raise issue("Must not be empty", code="custom")
    return licences.canonical(value)


def _limit_keys(value: Any) -> Any:
    # before the values are validated: there may be a hundred thousand, each with an error
    if isinstance(value, dict) and len(value) > MAX_KEYS:
        raise issue(f"Too big: expected object to have <={MAX_KEYS} keys", code="too_big", maximum=MAX_KEYS)
    return value


def _texts(value: dict[str, Any]) -> dict[str, Any]:
    for key, each in value.items():
        if not isinstance(each, str):
            raise issue(
                f'Invalid input: expected string at "{key[:50]}"', code="invalid_type", expected="string"
            )
    return value


AgentId = Annotated[
    str,
    Field(max_length=ID_CHARS, json_schema_extra={"pattern": "^[a-z0-9-]+$"}),
    AfterValidator(_agent_id),
]
Line = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Prose = Annotated[str, Field(max_length=10_000), AfterValidator(_prose)]
License = Annotated[
    str, Field(max_length=licences.MAX_CHARS), AfterValidator(_printable), AfterValidator(_license)
]
Text = str
"""Long text. NUL characters are rejected earlier, by `too_large`."""
Reference = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]
Lines = Annotated[list[Line], Field(max_length=1000, fail_fast=True)]
Texts = Annotated[
    dict[str, Any],
    BeforeValidator(_limit_keys),
    AfterValidator(_texts),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": MAX_KEYS}),
]


class DefinitionModel(Body):
    """A part of a definition, stored as sent, with the defaults of the contract."""


class ObjectSchema(DefinitionModel):
    """A JSON Schema of an object."""

    model_config = ConfigDict(extra="allow")

    type: Literal["object"]


class PromptSchema(DefinitionModel):
    """The JSON Schema of a prompt: a string."""

    model_config = ConfigDict(extra="allow")

    type: Literal["string"]
    description: Missing[Text] = None


class InputSchema(DefinitionModel):
    """The input of an agent."""

    model_config = ConfigDict(extra="allow")

    prompt: Missing[PromptSchema] = None
    params: Missing[ObjectSchema] = None


class McpServer(DefinitionModel):
    """An MCP server. Unknown keys are errors."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    @model_validator(mode="before")
    @classmethod
    def _no_other_keys(cls, value: Any) -> Any:
        # `extra="forbid"` would report every key, and there may be a hundred thousand
        others = [key for key in value if key not in cls.model_fields][:10] if isinstance(value, dict) else []
        if others:
            named = ", ".join(f'"{key[:50]}"' for key in others)
            message = f"Unrecognized key{'s' if len(others) > 1 else ''}: {named}"
            raise issue(message, code="unrecognized_keys", keys=others)
        return value


class RemoteMcpServer(McpServer):
    """An MCP server reached over HTTP."""

    type: Literal["http", "sse"] = "http"
    url: Text
    params: Texts = {}
    headers: Texts = {}


class LocalMcpServer(McpServer):
    """An MCP server that the client starts."""

    type: Literal["stdio"]
    command: Text
    args: Annotated[list[Text], Field(max_length=500, fail_fast=True)] = []
    env: Texts = {}


def _server_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return BRANCH + ("local" if kind == "stdio" else "remote")


AnyServer = Annotated[
    Annotated[RemoteMcpServer, Tag(BRANCH + "remote")] | Annotated[LocalMcpServer, Tag(BRANCH + "local")],
    Discriminator(_server_kind),
]


class ReasoningOptions(DefinitionModel):
    """The reasoning budget: tokens or effort."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["max_tokens"]}, {"required": ["effort"]}]}
    )

    enabled: Missing[bool] = None
    exclude: Missing[bool] = None
    max_tokens: Missing[AsSent] = None
    effort: Missing[Literal["high", "medium", "low", "minimal", "none"]] = None

    @model_validator(mode="after")
    def _one_measure(self) -> "ReasoningOptions":
        if self.max_tokens is None and self.effort is None:
            raise issue("Invalid input: give max_tokens or effort", code="invalid_union", errors=[])
        return self


def _price(value: Any) -> Any:
    if type(value) not in (int, float, str):
        raise issue("Invalid input: expected a number of dollars", code="invalid_union", errors=[])
    return value


Price = Annotated[Any, AfterValidator(_price), Field(json_schema_extra={"type": ["number", "string"]})]


class MaxPrice(DefinitionModel):
    """The maximum price of a provider, in dollars per million tokens, image or request."""

    prompt: Missing[Price] = None
    completion: Missing[Price] = None
    image: Missing[Price] = None
    audio: Missing[Price] = None
    request: Missing[Price] = None


class ProviderOptions(DefinitionModel):
    """Restricts the providers that OpenRouter selects."""

    order: Missing[Lines] = None
    allow_fallbacks: Missing[bool] = None
    require_parameters: Missing[bool] = None
    data_collection: Missing[Literal["allow", "deny"]] = None
    only: Missing[Lines] = None
    ignore: Missing[Lines] = None
    quantizations: Missing[
        Annotated[
            list[Literal["int4", "int8", "fp4", "fp6", "fp8", "fp16", "bf16", "fp32", "unknown"]],
            Field(max_length=20, fail_fast=True),
        ]
    ] = None
    sort: Missing[Literal["price", "throughput", "latency"]] = None
    max_price: Missing[MaxPrice] = None


class Definition(DefinitionModel):
    """An agent: its model, prompts, tools and the agents it can spawn. Unknown keys are dropped."""

    id: AgentId = Field(description="Lower-case letters, digits and hyphens.")
    version: Missing[Line] = Field(
        None, description="Three numbers, such as 1.0.0. Defaults to the next patch version."
    )
    publisher: Missing[Line] = Field(None, description="The id of its publisher.")
    displayName: Line = Field(description="The display name.")
    model: Line = Field(description="The model id, as listed by GET /v1/models.")
    name: Missing[Line] = Field(None, description="The name in the store, if it differs from displayName.")
    description: Missing[Prose] = Field(None, description="What it does, in one or two sentences.")
    tags: Missing[Annotated[list[Line], Field(max_length=50, fail_fast=True)]] = Field(
        None, description="Tags in the store."
    )
    license: Missing[License] = Field(
        None, description="Its licence: an SPDX expression such as MIT, or other text, shown as written."
    )
    changelog: Missing[Prose] = Field(
        None, description="What is new in this version, in Markdown. Stored beside the definition."
    )
    spawnerPrompt: Missing[Prose] = Field(None, description="Tells other agents when to spawn this one.")
    systemPrompt: Text = Field("", description="Starts the conversation.")
    instructionsPrompt: Text = Field("", description="Added after each user message.")
    stepPrompt: Text = Field("", description="Added after each step.")
    toolNames: Lines = Field([], description="The tools it can use.")
    spawnableAgents: Annotated[list[Reference], Field(max_length=MAX_SPAWNABLE, fail_fast=True)] = Field(
        [], description="Agents it can spawn: publisher/agent@version, or the id of one of yours."
    )
    mcpServers: Annotated[
        dict[str, AnyServer],
        BeforeValidator(_limit_keys),
        Field(json_schema_extra={"maxProperties": MAX_KEYS}),
    ] = Field({}, description="MCP servers whose tools it can use, by name.")
    inputSchema: Missing[InputSchema] = Field(None, description="Its input: a prompt, params, or both.")
    outputMode: Literal["last_message", "all_messages", "structured_output"] = Field(
        "last_message", description="The output its caller receives."
    )
    outputSchema: Missing[ObjectSchema] = Field(None, description="The JSON Schema of a structured_output.")
    includeMessageHistory: bool = Field(False, description="Whether it receives its caller's conversation.")
    inheritParentSystemPrompt: bool = Field(
        False, description="Whether it uses its caller's system prompt instead of its own."
    )
    reasoningOptions: Missing[ReasoningOptions] = Field(None, description="The reasoning budget.")
    providerOptions: Missing[ProviderOptions] = Field(
        None, description="Restricts the providers that OpenRouter selects."
    )
    runBudget: Missing[Annotated[int, Field(ge=1, le=10**9)]] = Field(
        None,
        description="The most credits that a run and its sub-runs spend, unless its caller says otherwise.",
    )
    handleSteps: Missing[Text] = Field(
        None,
        description='Source of a generator function, starting with "function*". Stored, never run on the server.',
    )

    def stored(self) -> dict[str, Any]:
        """The value of `agent_config.data`: with defaults, without unknown keys and the changelog."""
        stored: dict[str, Any] = _plain(self)
        stored.pop("changelog", None)
        return stored


def _plain(value: Any) -> Any:
    if isinstance(value, DefinitionModel):
        extra = value.model_extra or {}
        return {key: _plain(each) for key, each in value if each is not None or key in extra}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def conflicts(definition: Definition) -> list[dict[str, Any]]:
    """Violated rules between fields, as issues."""
    found = []
    if definition.outputSchema is not None and definition.outputMode != "structured_output":
        found.append(
            _conflict(
                "outputMode",
                "outputSchema requires outputMode to be explicitly set to 'structured_output'.",
            )
        )
    if definition.spawnableAgents and "spawn_agents" not in definition.toolNames:
        found.append(
            _conflict(
                "toolNames",
                "Non-empty spawnableAgents array requires the 'spawn_agents' tool."
                " Add 'spawn_agents' to toolNames or remove spawnableAgents.",
            )
        )
    if definition.inheritParentSystemPrompt and definition.systemPrompt:
        found.append(
            _conflict(
                "inheritParentSystemPrompt",
                "Cannot specify both systemPrompt and inheritParentSystemPrompt."
                " When inheritParentSystemPrompt is true, systemPrompt must be empty.",
            )
        )
    return found


def _conflict(field: str, message: str) -> dict[str, Any]:
    return {"code": "custom", "path": [field], "message": message}


def steps_problem(definition: Definition) -> str | None:
    """The error if `handleSteps` is not a generator function (contract 3.12)."""
    source = definition.handleSteps
    if source is None or source.strip().startswith("function*"):
        return None
    return f"{STEPS_FORM}{source.strip()[:50]}..."


def values_problem(definition: Definition) -> str | None:
    """The error if a definition has too many values."""
    values = _values(definition.stored())
    if values <= MAX_VALUES:
        return None
    return f"The definition has {values} values; the limit is {MAX_VALUES}. Simplify its schemas."


def too_large(raw: Any) -> str | None:
    """Why a definition is rejected before validation: too large, too deep, too many references, not JSON."""
    if isinstance(raw, dict):
        for key in ("spawnableAgents", "subagents"):
            named = raw.get(key)
            if isinstance(named, list) and len(named) > MAX_SPAWNABLE:
                return f"{key} names {len(named)} agents; the limit is {MAX_SPAWNABLE}."
    if _nesting(raw) > MAX_NESTING:
        return f"The definition is nested more than {MAX_NESTING} levels deep. Flatten its schemas."
    try:
        written = orjson.dumps(raw)
    except TypeError as error:
        return f"The definition is not valid JSON: {error}."
    if len(written) > MAX_BYTES:
        return f"The definition has {len(written)} bytes; the limit is {MAX_BYTES}. Shorten its prompts."
    if b"\\u0000" in written and _NUL.search(written):
        return "The definition contains a NUL character. Remove it."
    return None


def _values(value: Any) -> int:
    count, waiting = 0, [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            count += len(node)
            waiting.extend(node.values() if isinstance(node, dict) else node)
    return count


def _nesting(value: Any) -> int:
    level, depth = [value], 0
    while depth <= MAX_NESTING:
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            break
        depth += 1
    return depth
