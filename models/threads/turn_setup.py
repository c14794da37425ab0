"""What the calls of a turn are made of: model, parameters, system text and tools, of the request, the thread and the assistant (crafely contract 4.3).

The more specific one wins: request, thread, assistant. The system text is the assistant's instructions, its context, the documents, the thread's
instructions and those of the request.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from models import assistants
from models.assistants import SavedAssistant
from models.assistants.toolbox import Toolbox, open_toolbox
from models.core.errors import DomainError, Invalid
from models.gateway.route import Route
from models.gateway.routing import Router
from models.ledger import Account
from models.threads.history_window import HistoryWindow, history_window, room_for_history
from models.threads.thread import Thread
from models.threads.thread_documents import FILE_SEARCH, TurnDocuments, documents_for

if TYPE_CHECKING:
    from models.threads.thread_turn_start import TurnRequest

AGENT = "thread"
"""What runs of threads without an assistant are called."""
LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
MAX_TOOLS = 128
CONTINUE = "Your last answer was cut off. Continue it exactly where it ended, without repeating anything."


@dataclass(frozen=True)
class TurnSetup:
    """`offered` are the definitions of all tools; `toolbox` knows which of them this server runs. The others are the client's."""

    model: str
    params: Mapping[str, Any]
    system: str
    toolbox: Toolbox
    tool_choice: Any
    documents: TurnDocuments
    context: int | None
    max_output: int | None
    agent_id: str
    """How the run is called: `private/<assistant>@<version>`."""
    offered: Sequence[Mapping[str, Any]] = ()

    def with_tools(self) -> "TurnSetup":
        """With the definitions of its tools. Asks MCP servers: call it outside of any transaction."""
        return replace(self, offered=self.toolbox.definitions())

    def runs(self, call: Mapping[str, Any]) -> bool:
        """Whether this server answers a tool call: with the tool, or by saying that there is none."""
        name = call["function"]["name"]
        return self.toolbox.is_server_tool(name) or all(_name(each) != name for each in self.offered)

    @property
    def runs_any(self) -> bool:
        """Whether this server has tools in it."""
        return any(self.toolbox.is_server_tool(_name(each)) for each in self.offered)

    def call(self, name: str, arguments: str) -> str:
        """Run a tool of this server. Needs the application context, and no transaction. Raises ToolFailed, DomainError."""
        return self.toolbox.call(name, arguments, self.documents)

    def window(self, thread: Thread, leaf_id: str) -> HistoryWindow:
        """The history that fits."""
        asked = next((self.params[key] for key in LIMITS if type(self.params.get(key)) is int), None)
        room = room_for_history(self.context, self.max_output, asked, [self.system, *self.offered])
        return history_window(thread, leaf_id, room, model=self.model)

    def body(
        self, messages: Sequence[Mapping[str, Any]], *, first: bool = True, last: bool = False
    ) -> dict[str, Any]:
        """The chat completion with these messages. A forced `tool_choice` is for the first round only; in the last one the server runs no
        more tools."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {**self.params, "model": self.model, "messages": [*system, *messages]}
        if messages and messages[-1]["role"] == "assistant":
            body["messages"].append({"role": "user", "content": CONTINUE})
        if not self.offered:
            return body
        client = [each for each in self.offered if not self.toolbox.is_server_tool(_name(each))]
        body["tools"] = client if last and client else list(self.offered)
        if last and not client:
            body["tool_choice"] = "none"
        elif self.tool_choice is not None and (first or self.tool_choice == "none"):
            body["tool_choice"] = self.tool_choice
        return body


def set_up(
    wanted: "TurnRequest", routes: Router, user_id: str, account_id: str, thread: Thread | None = None
) -> TurnSetup:
    """Resolve what a turn is asked for. Raises NotFound, Forbidden and AgentDeleted for the assistant, Invalid for its variables and for
    tools, and DomainError (`model_missing`) if nothing names a model."""
    saved = chosen_assistant(wanted, user_id, account_id, thread)
    version = saved.version if saved else None
    model = chosen_model(wanted, thread, saved)
    route: Route | None = None
    with suppress(DomainError):
        # the gateway says it, if the caller's own keys do not serve the model either
        route = routes.find(model)
    documents = documents_for(
        account_id, thread.id if thread else None, saved.assistant.id if saved else None
    )
    params = _params(version.model_params if version else {}, wanted.params)
    system = _system(wanted, saved, thread, documents)
    return TurnSetup(
        model=model,
        params=params,
        system=system,
        toolbox=_toolbox(wanted, saved, account_id, documents),
        tool_choice=wanted.tool_choice,
        documents=documents,
        context=route.context_window if route else None,
        max_output=route.price.max_output if route and route.price else None,
        agent_id=saved.agent_id if saved else AGENT,
    )


def chosen_assistant(
    wanted: "TurnRequest", user_id: str, account_id: str, thread: Thread | None
) -> SavedAssistant | None:
    """The assistant that the request names, else the thread's. Raises NotFound, Forbidden and AgentDeleted."""
    id, version = wanted.assistant_id, wanted.assistant_version
    if id is None and thread is not None:
        id, version = thread.assistant_id, None
    if id is None:
        if wanted.variables:
            problem = "Variables are those of an assistant: name one, or leave them out."
            raise Invalid(problem, fields={"variables": problem})
        return None
    return assistants.runnable_assistant(user_id, _account(user_id, account_id), id, version)


def chosen_model(wanted: "TurnRequest", thread: Thread | None, saved: SavedAssistant | None) -> str:
    """The model that the request names, else the thread, else the assistant. Raises DomainError (`model_missing`)."""
    model = wanted.model or (thread and thread.model) or (saved and saved.version.model)
    if not model:
        raise DomainError(
            "Neither the request nor the thread nor the assistant names a model. Send 'model'.",
            status=400,
            code="model_missing",
        )
    return model


def _account(user_id: str, account_id: str) -> Account:
    return Account(user_id=user_id) if account_id == user_id else Account(org_id=account_id)


def _params(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    limited = any(asked.get(key) is not None for key in LIMITS)
    kept = {key: value for key, value in saved.items() if not (limited and key in LIMITS)}
    return {**kept, **asked}


def _system(
    wanted: "TurnRequest", saved: SavedAssistant | None, thread: Thread | None, documents: TurnDocuments
) -> str:
    parts: list[str | None] = []
    if saved is not None:
        if "instructions" not in wanted.replaces:
            parts.append(assistants.render_instructions(saved.version, wanted.variables))
        if saved.version.context:
            parts.append(f"<context>\n{saved.version.context}\n</context>")
    parts.append(documents.system)
    parts += [thread.instructions if thread else None, wanted.instructions]
    return "\n\n".join(part for part in parts if part)


def _toolbox(
    wanted: "TurnRequest", saved: SavedAssistant | None, account_id: str, documents: TurnDocuments
) -> Toolbox:
    """The assistant's tools and the request's by name; the request wins. Documents are searched if there are any."""
    version = saved.version if saved and "tools" not in wanted.replaces else None
    tools = [each for each in (version.tools if version else ()) if each != FILE_SEARCH]
    searched = [FILE_SEARCH] if documents.scopes else []
    servers = version.mcp_servers if version else []
    return open_toolbox(account_id, [*searched, *tools], servers, wanted.tools)


def _name(tool: Mapping[str, Any]) -> str:
    """The name of a tool of chat completions, or its type if it has none."""
    for kind in ("function", "custom"):
        if isinstance(tool.get(kind), Mapping):
            return str(tool[kind].get("name"))
    return str(tool.get("type"))


def checked_tools(tools: Any) -> list[dict[str, Any]]:
    """The tools of a request: function definitions of chat completions. Raises Invalid."""
    problem = "'tools' is a list of {type: function, function: {name, description, parameters}}."
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise Invalid(problem, fields={"tools": problem})
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not 1 <= len(name) <= 64:
            raise Invalid(problem, fields={"tools": problem})
    return tools
