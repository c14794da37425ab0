"""An MCP server on loopback: streamable HTTP, with sessions, answers as JSON or as a stream of events, and an endpoint of a plain tool."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from flask import Flask, Response, request

from tests.server import serving


class FakeMcpServer:
    """`requests` are the methods it was asked for, with their headers. `events`: answers as a stream. `sessions` are those that it knows."""

    def __init__(self) -> None:
        self.address = ""
        self.events = False
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sessions: set[str] = set()
        self.tools: list[Any] = [
            {"name": "add", "description": "Adds", "inputSchema": {"type": "object", "required": ["a", "b"]}},
            {"name": "fail", "inputSchema": {"type": "object"}},
            {"name": "echo", "inputSchema": {"type": "object"}},
        ]
        self.page_size = 2
        self.raw: bytes | None = None
        """Instead of any answer."""

    @property
    def url(self) -> str:
        return f"{self.address}/mcp"

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]

    def answer(self) -> Response:
        message = request.get_json()
        self.requests.append((message["method"], dict(request.headers)))
        if self.raw is not None:
            return Response(self.raw, content_type="application/json")
        if message["method"] == "initialize":
            session = f"session-{len(self.requests)}"
            self.sessions.add(session)
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {}}
            return self._response({"id": message["id"], "result": result}, {"Mcp-Session-Id": session})
        if request.headers.get("Mcp-Session-Id") not in self.sessions:
            return Response("unknown session", status=404)
        if "id" not in message:
            return Response(status=202)
        return self._response({"id": message["id"], **self._result(message["method"], message["params"])})

    def _result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "tools/list":
            start = int(params.get("cursor", 0))
            end = start + self.page_size
            more = {"nextCursor": str(end)} if end < len(self.tools) else {}
            return {"result": {"tools": self.tools[start:end], **more}}
        arguments = params["arguments"]
        if params["name"] == "add":
            return {"result": {"content": [{"type": "text", "text": str(arguments["a"] + arguments["b"])}]}}
        if params["name"] == "fail":
            return {"result": {"content": [{"type": "text", "text": "no"}], "isError": True}}
        if params["name"] == "echo":
            seen = {"headers": dict(request.headers), "arguments": arguments}
            return {"result": {"content": [{"type": "image", "data": ""}], "structuredContent": seen}}
        return {"error": {"code": -32602, "message": "unknown tool"}}

    def _response(self, message: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
        body = orjson.dumps({"jsonrpc": "2.0", **message})
        if not self.events:
            return Response(body, content_type="application/json", headers=headers)
        notice = orjson.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}})
        stream = (
            b": hello\r\n\r\nevent: message\r\ndata: "
            + notice
            + b"\r\n\r\nid: 2\r\ndata: "
            + body
            + b"\r\n\r\n"
        )
        return Response(stream, content_type="text/event-stream; charset=utf-8", headers=headers)


@pytest.fixture
def mcp_server() -> Iterator[FakeMcpServer]:
    """An MCP server on loopback."""
    fake = FakeMcpServer()
    app = Flask("mcp")
    app.add_url_rule("/mcp", "mcp", fake.answer, methods=["POST"])
    with serving(app) as address:
        fake.address = address
        yield fake
