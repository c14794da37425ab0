"""A server on loopback that tools may reach, and the fake MCP server."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, request

from models.core.settings import Settings
from tests.fakes.mcp_server import mcp_server
from tests.server import serving

__all__ = ["mcp_server"]


class ToolServer:
    """Answers with what it was sent, after the `statuses` that come first."""

    def __init__(self) -> None:
        self.address = ""
        self.statuses: list[int] = []
        self.body: bytes | None = None
        self.requests = 0

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")

    def answer(self) -> Any:
        self.requests += 1
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return Response("not now", status=status, headers={"Location": f"{self.address}/tool"})
        if self.body is not None:
            return Response(self.body, content_type="text/plain")
        return {
            "method": request.method,
            "query": dict(request.args),
            "json": request.get_json(silent=True),
            "authorization": request.headers.get("Authorization"),
        }


@pytest.fixture
def tool_server() -> Iterator[ToolServer]:
    """An endpoint on loopback."""
    made = ToolServer()
    app = Flask("tool")
    app.add_url_rule("/tool", "tool", made.answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    with serving(app) as address:
        made.address = address
        yield made


@pytest.fixture
def open_network(app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a server whose tools may reach loopback."""
    found = settings.model_copy(update={"stoa_outgoing_networks": ("127.0.0.0/8",)})
    monkeypatch.setitem(app.extensions, "settings", found)
    return found
