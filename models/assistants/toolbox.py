"""The tools of one turn: what the model is offered, which of them this server runs, and their calls."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from models.assistants.assistant_fields import (
    MAX_DEPTH,
    MAX_TOOLS,
    TOOL_NAME,
    checked_schema,
    is_deep,
    tool_name,
)
from models.assistants.builtin_tools import BUILTIN_TOOLS, builtin_call
from models.assistants.mcp_client import McpClient
from models.assistants.tool import Tool
from models.assistants.tool_registry import registered
from models.assistants.tool_requests import ToolFailed, ToolHttp, call_endpoint
from models.assistants.tool_secrets import OpenedSecret, opened_secrets
from models.assistants.turn_searches import DIALECTS, TurnSearches
from models.core.db import extension
from models.core.errors import Invalid
from models.core.settings import Settings
from models.turns.engine import TurnHandle

MAX_DESCRIPTION = 4_000


@dataclass(frozen=True)
class RegisteredTool:
    """A registered tool as it was when the turn began."""

    definition: dict[str, Any]
    url: str
    method: str
    headers: dict[str, Any]
    seconds: int
    retries: int


def open_toolbox(
    account_id: str,
    tools: Sequence[Any] = (),
    mcp_servers: Sequence[Mapping[str, Any]] = (),
    request_tools: Sequence[Mapping[str, Any]] = (),
) -> "Toolbox":
    """The tools of a turn: those of an assistant's version, and of the request, which win by name (crafely contract 4.3). Reads the
    database; commit before you use it, because it makes requests."""
    names = {each for each in tools if isinstance(each, str)} - BUILTIN_TOOLS.keys()
    rows = registered(account_id, names)
    secrets = {name for row in rows.values() for name in row.headers.values()}
    secrets |= {name for server in mcp_servers for name in server["headers"].values()}
    endpoints = {name: _endpoint(row) for name, row in rows.items()}
    box = Toolbox(account_id, endpoints, opened_secrets(account_id, secrets), extension("settings"))
    box.add(tools, mcp_servers, request_tools)
    return box


class Toolbox:
    """See `open_toolbox`. `problems` say what is not offered, and why."""

    def __init__(
        self,
        account_id: str,
        endpoints: Mapping[str, RegisteredTool],
        secrets: Mapping[str, OpenedSecret],
        settings: Settings,
    ) -> None:
        self.problems: list[str] = []
        self._account_id, self._endpoints = account_id, endpoints
        self._secrets, self._settings = secrets, settings
        self._definitions: dict[str, dict[str, Any]] = {}
        self._server_tools: set[str] = set()
        self._mcp_servers: Sequence[Mapping[str, Any]] = ()
        self._mcp: dict[str, tuple[McpClient, str]] = {}
        self._wanted_searches: list[str] = []
        self._searches: TurnSearches | None = None

    def add(
        self,
        tools: Sequence[Any],
        mcp_servers: Sequence[Mapping[str, Any]],
        request_tools: Sequence[Mapping[str, Any]],
    ) -> None:
        """Collect the definitions; those of MCP servers are asked for by `definitions`."""
        for each in request_tools:
            self._definitions[tool_name(each)] = dict(each)
        for each in tools:
            name = tool_name(each)
            if name in self._definitions:
                continue
            if not isinstance(each, str):
                self._definitions[name] = each
            elif name in self._endpoints:
                self._offer(name, self._endpoints[name].definition)
            elif name in DIALECTS:
                self._wanted_searches.append(name)
            elif builtin_call(name):
                self._offer(name, BUILTIN_TOOLS[name])
            else:
                self.problems.append(f"The tool '{name}' is not there.")
        self._mcp_servers = mcp_servers

    def pay_with(self, handle: TurnHandle, org_id: str | None) -> None:
        """Offer searches, if this server has a service for them: calls of the gateway that the turn pays. Call it before `definitions`."""
        self._searches = TurnSearches(handle, org_id)
        for name in self._wanted_searches:
            if self._searches.offers(name):
                self._offer(name, BUILTIN_TOOLS[name])
            else:
                self.problems.append(f"The tool '{name}' is not set up on this server.")

    def take_credits(self) -> int:
        """What searches have cost since the last time, in credits."""
        return self._searches.take_credits() if self._searches else 0

    def definitions(self) -> list[dict[str, Any]]:
        """The functions for the model. Asks MCP servers that were not asked in the last five minutes; one that fails offers nothing. Blocks."""
        servers, self._mcp_servers = self._mcp_servers, ()
        for server in servers:
            try:
                client = self._client(server)
                self._offer_listed(client, server.get("allowed_tools"), client.tools())
            except ToolFailed as failed:
                self.problems.append(failed.message)
        return list(self._definitions.values())

    def is_server_tool(self, name: str) -> bool:
        """Whether this server runs the tool; else the client does, or it was not offered. Of MCP servers: once `definitions` was called."""
        return name in self._server_tools

    def call(self, name: str, arguments: str | Mapping[str, Any], context: Any = None) -> str:
        """Run a tool of this server and return its text, at most 64,000 characters. `arguments` are as the model wrote them; `context` is what
        the tools of `builtin_tools` need. Blocks; call it outside a transaction. Raises ToolFailed, whose message is for the model."""
        if name not in self._server_tools:
            raise ToolFailed(f"There is no tool '{name[:70]}'.")
        sent = self._arguments(name, arguments)
        if name in self._mcp:
            client, tool = self._mcp[name]
            return client.call(tool, sent)
        if (endpoint := self._endpoints.get(name)) is not None:
            http = ToolHttp(endpoint.url, endpoint.headers, self._secrets, self._settings)
            return call_endpoint(
                http, endpoint.method, sent, seconds=endpoint.seconds, retries=endpoint.retries
            )
        if name in DIALECTS:
            assert self._searches is not None, "searches are offered by `pay_with`"
            return self._searches.search(name, sent)
        run = builtin_call(name)
        assert run is not None, "a tool of this server is offered only if it is registered"
        return run(context, sent)

    def _arguments(self, name: str, raw: str | Mapping[str, Any]) -> dict[str, Any]:
        try:
            sent = orjson.loads(raw or "{}") if isinstance(raw, str) else dict(raw)
        except orjson.JSONDecodeError:
            sent = None
        if not isinstance(sent, dict):
            raise ToolFailed("The arguments are not a JSON object. Call the tool again with one.")
        if is_deep(sent):  # deeper, JSON can be read, but not written
            raise ToolFailed(f"The arguments are nested more than {MAX_DEPTH} levels deep.")
        schema = self._definitions[name]["function"].get("parameters", {})
        required: Iterable[str] = schema.get("required", ())
        if missing := [each for each in required if each not in sent]:
            raise ToolFailed(f"These arguments are missing: {', '.join(missing[:10])}. Call the tool again.")
        return sent

    def _offer(self, name: str, definition: dict[str, Any]) -> None:
        self._definitions[name] = definition
        self._server_tools.add(name)

    def _client(self, server: Mapping[str, Any]) -> McpClient:
        http = ToolHttp(server["url"], server["headers"], self._secrets, self._settings)
        return McpClient(self._account_id, server["name"], http)

    def _offer_listed(
        self, client: McpClient, allowed: Sequence[str] | None, tools: Sequence[Mapping[str, Any]]
    ) -> None:
        for each in tools:
            tool = each.get("name")
            if not isinstance(tool, str) or (allowed is not None and tool not in allowed):
                continue
            name = f"{client.name}__{tool}"
            if name in self._definitions:
                continue
            if len(self._definitions) >= MAX_TOOLS or not TOOL_NAME.fullmatch(name):
                self.problems.append(f"The tool '{name[:140]}' has no usable name, or is one too many.")
                continue
            try:
                schema = checked_schema(each.get("inputSchema") or {}, "tools", name)
            except Invalid as invalid:
                self.problems.append(invalid.message)
                continue
            about = each.get("description")
            function = {
                "name": name,
                "description": about[:MAX_DESCRIPTION] if isinstance(about, str) else "",
                "parameters": schema,
            }
            self._offer(name, {"type": "function", "function": function})
            self._mcp[name] = (client, tool)


def call_tool(account_id: str, name: str, arguments: str | Mapping[str, Any]) -> str:
    """Call a registered tool of the account by its name, outside a turn. Reads the database first. Raises ToolFailed."""
    return open_toolbox(account_id, [name]).call(name, arguments)


def _endpoint(row: Tool) -> RegisteredTool:
    function = {"name": row.name, "description": row.description, "parameters": row.parameters}
    return RegisteredTool(
        {"type": "function", "function": function},
        row.url,
        row.method,
        row.headers,
        row.timeout_seconds,
        row.retries,
    )
