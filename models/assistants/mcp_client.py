"""A client of MCP servers: streamable HTTP with JSON-RPC, as far as tools need it (initialize, tools/list, tools/call).

Lists of tools and sessions are kept per process for five minutes. An answer that is a stream of events must end: it is read whole.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import requests

from models.assistants.tool_requests import ToolFailed, ToolHttp

PROTOCOL = "2025-06-18"
SECONDS = 60.0
LIST_SECONDS = 10.0
LISTING_SECONDS = 20.0
"""After which a server is asked for no more pages of its tools."""
KEPT_SECONDS = 300.0
MAX_KEPT = 500
MAX_PAGES = 10
MAX_TOOLS = 128


@dataclass
class McpState:
    """What is known of a server: its tools as it lists them, and the session that it opened."""

    until: float
    protocol: str = PROTOCOL
    session: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)


_kept: OrderedDict[str, McpState] = OrderedDict()
_lock = threading.Lock()


class McpClient:
    """One server, by one account. Blocks; call it outside a transaction. Raises ToolFailed."""

    def __init__(self, account_id: str, name: str, http: ToolHttp) -> None:
        self.name, self._http = name, http
        about = orjson.dumps([account_id, http.url, sorted(http.headers.items())])
        self._key = hashlib.sha256(about).hexdigest()

    def tools(self) -> list[dict[str, Any]]:
        """Its tools: name, description, inputSchema; kept for five minutes."""
        return self._state().tools

    def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """Call a tool and return its text."""
        params = {"name": tool, "arguments": arguments}
        state = self._state()
        try:
            result = self._request(state, "tools/call", params, SECONDS)
        except _SessionEnded:
            with _lock:
                _kept.pop(self._key, None)
            try:
                result = self._request(self._state(), "tools/call", params, SECONDS)
            except _SessionEnded:
                raise self._failed("it ends every session") from None
        text = self._http.text(_result_text(result))
        if result.get("isError") is True:
            raise ToolFailed(text)
        return text

    def _state(self) -> McpState:
        with _lock:
            state = _kept.get(self._key)
        if state is not None and state.until > time.monotonic():
            return state
        try:
            state = self._connected()
        except _SessionEnded:
            raise self._failed("it ends every session") from None
        with _lock:
            _kept[self._key] = state
            while len(_kept) > MAX_KEPT:
                _kept.popitem(last=False)
        return state

    def _connected(self) -> McpState:
        began = time.monotonic()
        state = McpState(began + KEPT_SECONDS)
        about = {"name": "Stoa", "version": "1"}
        params = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": about}
        result = self._request(state, "initialize", params, LIST_SECONDS)
        if isinstance(result.get("protocolVersion"), str) and result["protocolVersion"].isascii():
            state.protocol = result["protocolVersion"][:32]
        self._send(state, {"jsonrpc": "2.0", "method": "notifications/initialized"}, LIST_SECONDS)
        cursor: dict[str, Any] = {}
        for _ in range(MAX_PAGES):
            if time.monotonic() - began > LISTING_SECONDS:
                raise self._failed("it takes too long to list its tools")
            page = self._request(state, "tools/list", cursor, LIST_SECONDS)
            listed = page.get("tools")
            state.tools += (
                [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
            )
            if not isinstance(page.get("nextCursor"), str) or len(state.tools) >= MAX_TOOLS:
                break
            cursor = {"cursor": page["nextCursor"]}
        del state.tools[MAX_TOOLS:]
        return state

    def _request(
        self, state: McpState, method: str, params: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        response = self._send(state, message, seconds)
        if method == "initialize" and (session := response.headers.get("Mcp-Session-Id")):
            if not session.isascii() or not session.isprintable() or len(session) > 1_000:
                raise self._failed("its session has no usable id")
            state.session = session
        for answer in _messages(response):
            if answer.get("id") != 1:
                continue
            if isinstance(answer.get("error"), dict):
                raise self._failed(f"it refused: {_plain(answer['error'].get('message'))[:1_000]}")
            if isinstance(answer.get("result"), dict):
                return dict(answer["result"])
        raise self._failed("its answer is no JSON-RPC response")

    def _send(self, state: McpState, message: dict[str, Any], seconds: float) -> requests.Response:
        headers = {"Accept": "application/json, text/event-stream"}
        if message["method"] != "initialize":
            headers["MCP-Protocol-Version"] = state.protocol
        if state.session:
            headers["Mcp-Session-Id"] = state.session
        try:
            response = self._http.send("POST", seconds=seconds, json=message, headers=headers)
        except requests.RequestException as error:
            raise self._failed(str(error)[:300]) from None
        if response.status_code == 404 and state.session:
            raise _SessionEnded
        if not 200 <= response.status_code < 300:
            raise self._failed(f"it answered with status {response.status_code}")
        return response

    def _failed(self, why: str) -> ToolFailed:
        return ToolFailed(self._http.text(f"The MCP server '{self.name}' failed: {why}."))


class _SessionEnded(Exception):
    """The server no longer knows the session."""


def _messages(response: requests.Response) -> Iterator[dict[str, Any]]:
    """The JSON-RPC messages of an answer: one, a list, or a stream of events."""
    texts = [response.content]
    if response.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
        blocks = response.content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
        texts = [_data(block) for block in blocks]
    for text in filter(None, texts):
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        yield from (
            each for each in (found if isinstance(found, list) else [found]) if isinstance(each, dict)
        )


def _data(block: bytes) -> bytes:
    lines = (line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(lines)


def _result_text(result: dict[str, Any]) -> str:
    parts = result.get("content")
    texts = [_part_text(each) for each in parts if isinstance(each, dict)] if isinstance(parts, list) else []
    if not any(texts) and result.get("structuredContent") is not None:
        try:
            return orjson.dumps(result["structuredContent"]).decode()
        except TypeError:  # deeper JSON can be read than written
            raise ToolFailed("The answer of the tool is nested too deeply to be read.") from None
    return "\n\n".join(filter(None, texts)) or "(empty)"


def _part_text(part: dict[str, Any]) -> str:
    resource = part.get("resource") if isinstance(part.get("resource"), dict) else part
    if isinstance(resource, dict) and isinstance(resource.get("text"), str):
        return str(resource["text"])
    if part.get("type") == "resource_link":
        return _plain(part.get("uri"))[:2_000]
    return f"[{_plain(part.get('type'))[:40]}: not shown]"


def _plain(value: Any) -> str:
    """A text of an answer; empty if it is anything else, such as a list so deep that it cannot be shown."""
    return value if isinstance(value, str) else ""
