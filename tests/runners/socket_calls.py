"""Requests over a Unix socket, as a program of a turn makes them."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

STOLEN = {
    "Authorization": "Bearer sk_live_nobody",
    "x-api-key": "nobody",
    "x-stoa-run-id": "another-run",
    "x-stoa-org": "another-org",
    "x-stoa-run-budget": "1",
    "x-openrouter-api-key": "sk-or-nobody",
    "anthropic-version": "2023-06-01",
}
"""Everything that would change who pays."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


def asked(path: Path, door: str, body: Any = None, method: str = "") -> tuple[int, bytes]:
    """Status and body of an answer; a request with a body is a POST, with everything that would change who pays."""
    connection = UnixConnection(path)
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method or ("GET" if body is None else "POST"), door, sent, STOLEN)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data
