"""An agent of the store as the server runs it: its published definition, with its tools mapped onto those of a workplace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from models.core.errors import DomainError, Invalid, NotFound
from models.store.catalogue.lookup import LATEST, version_of

MAX_NAME = 300
SPAWN = "spawn_agents"
TOOLS: Mapping[str, str] = {
    "read_files": "read_file",
    "str_replace": "edit_file",
    "find_files": "list_files",
    "list_directory": "list_files",
    "glob": "list_files",
    "read_subtree": "list_files",
    "code_search": "search",
    "run_terminal_command": "run_command",
    **{
        name: name for name in ("read_file", "write_file", "edit_file", "delete_file", "list_files", "search")
    },
    **{name: name for name in ("run_command", "ask_user")},
}
"""Tools of the workplace by what definitions call them."""
NEEDLESS = frozenset(
    [
        "add_message",
        "add_subgoal",
        "create_plan",
        "end_turn",
        "lookup_agent_info",
        "set_messages",
        "set_output",
        "spawn_agent_inline",
        "suggest_followups",
        "task_completed",
        "think_deeply",
        "update_subgoal",
        "write_todos",
    ]
)
"""Tools that the rounds of the server do without."""
EFFORTS = ("high", "medium", "low", "minimal", "none")


class NeedsClient(DomainError):
    """The agent has code or MCP servers of its own, which run in a client only."""

    status = 422
    code = "agent_needs_client"


@dataclass(frozen=True)
class StoreAgent:
    """A published version. `id` is `publisher/agent@version`; `tools` are those of the workplace that it may use, `missing` the names of
    those that are not there; `spawnable` are the references of agents that it may spawn."""

    id: str
    name: str
    model: str
    system: str
    tools: frozenset[str]
    missing: Sequence[str]
    spawnable: Sequence[str]
    params: Mapping[str, Any]
    with_history: bool
    with_parents_system: bool

    @property
    def instructions(self) -> str:
        """Its prompts, and which of its tools are not there."""
        if not self.missing:
            return self.system
        absent = f"These tools of yours are not there: {', '.join(self.missing[:30])}. Do without them."
        return f"{self.system}\n\n{absent}" if self.system else absent


def store_agent(reference: str) -> StoreAgent:
    """The agent `publisher/agent`, its latest version, or `publisher/agent@version`. Raises Invalid for another form, NotFound for one that is not
    published, NeedsClient for one with `handleSteps` or `mcpServers`."""
    full, _, version = reference.strip().partition("@")
    publisher, _, agent = full.partition("/")
    if not publisher or not agent or len(reference) > MAX_NAME or not reference.isprintable():
        problem = "Name an agent of the store: publisher/agent, or publisher/agent@1.0.0."
        raise Invalid(problem, fields={"agent": problem})
    try:
        found = version_of(publisher, agent, version or LATEST)
    except NotFound as missing:
        problem = f"There is no agent {reference[:120]} in the store. {missing.details or missing.message}"
        raise Invalid(problem, fields={"agent": problem}) from None
    data: Any = orjson.loads(found.data)
    id = f"{found.publisher_id}/{found.id}@{found.version}"
    if data.get("handleSteps"):
        raise NeedsClient(
            f"{id} has steps written in code (handleSteps), which the server does not run. Run it with a Codebuff client signed in to"
            " this server, or choose an agent without code."
        )
    if servers := _servers(data.get("mcpServers")):
        raise NeedsClient(
            f"{id} uses MCP servers ({', '.join(servers[:10])}), which the server does not start. Run it with a Codebuff client signed in to this server, or choose"
            " an agent without them."
        )
    names = _texts(data.get("toolNames"))
    return StoreAgent(
        id=id,
        name=str(data.get("displayName") or found.id),
        model=str(data.get("model") or ""),
        system=_system(data),
        tools=frozenset(TOOLS[name] for name in names if name in TOOLS),
        missing=_missing(names),
        spawnable=_texts(data.get("spawnableAgents")) if SPAWN in names else [],
        params=_params(data.get("reasoningOptions")),
        with_history=data.get("includeMessageHistory") is True,
        with_parents_system=data.get("inheritParentSystemPrompt") is True,
    )


def _system(data: Mapping[str, Any]) -> str:
    """Its prompts as one text: a conversation has one system text."""
    parts = [data.get("systemPrompt"), data.get("instructionsPrompt")]
    if step := data.get("stepPrompt"):
        parts.append(f"Before each step: {step}")
    if data.get("outputMode") == "structured_output" and isinstance(data.get("outputSchema"), dict):
        schema = orjson.dumps(data["outputSchema"]).decode()
        parts.append(f"Your last message is JSON only, and fits this schema: {schema}")
    return "\n\n".join(part for part in parts if isinstance(part, str) and part.strip())


def _missing(names: Sequence[str]) -> list[str]:
    known = TOOLS.keys() | NEEDLESS | {SPAWN}
    return [name for name in names if name not in known]


def _servers(value: Any) -> list[str]:
    """The names of its MCP servers, shortened."""
    return [name[:60] for name in value] if isinstance(value, dict) else []


def _params(reasoning: Any) -> dict[str, Any]:
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return {"reasoning_effort": effort} if effort in EFFORTS else {}


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
