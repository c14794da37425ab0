"""Model calls of a work's commands: a socket on this computer, whose requests are handed on to the server with the token of the work.

The commands need no key, and get none of the server's. Where they share the computer's network a port of 127.0.0.1 is offered too, which other users could
reach: it wants a key of its own, that only the commands are told.
"""

from __future__ import annotations

import hmac
import json
import os
import pkgutil
import secrets
import shutil
import socket
import socketserver
import tempfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from stoa.failures import Failure
from stoa.server_calls import Server

INNER = "/run/stoa"
"""Where a sandbox has the socket."""
PORT = 4180
"""Of 127.0.0.1 in a sandbox without network."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HEADER = "X-Stoa-Work"
PASSED = ("content-type", "accept", "anthropic-version", "anthropic-beta")
MOST_BODY = 20 << 20
MOST_AT_ONCE = 32
SILENT_SECONDS = 660
"""How long the server may say nothing: models that think before they answer."""
ANY_KEY = "of-the-turn"


class ModelSocket:
    """Offers the model doors of one work until `close`."""

    def __init__(self, server: Server, path: str, token: str, *, port: bool) -> None:
        self.server, self.prefix, self.token = server, f"{path}/models", token
        self.free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self.key = secrets.token_urlsafe(24)
        self.folder = Path(tempfile.mkdtemp(prefix="stoa-"))  # only this user may enter
        self.socket = self.folder / "turn.sock"
        self.forwarder = self.folder / "socket_forwarder.py"
        self.forwarder.write_bytes(pkgutil.get_data("stoa", "socket_forwarder.py") or b"")
        self._servers: list[_Doors] = [_SocketDoors(str(self.socket), self, "")]
        if port:
            self._servers.append(_PortDoors(("127.0.0.1", 0), self, self.key))
        for each in self._servers:
            threading.Thread(target=each.serve_forever, args=(0.5,), name="stoa-models", daemon=True).start()

    def close(self) -> None:
        """Offer them no longer. Idempotent."""
        for each in self._servers:
            each.shutdown()
            each.server_close()
        self._servers = []
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def port(self) -> int | None:
        """The port on this computer; None without one."""
        return self._servers[-1].server_address[1] if len(self._servers) > 1 else None

    def environment(self, confined: bool) -> dict[str, str]:
        """What tells a command where the doors are."""
        own = {"STOA_SOCKET": f"{INNER}/turn.sock" if confined else str(self.socket)}
        port, key = (self.port, self.key) if self.port else (PORT if forwards() else None, ANY_KEY)
        if port is None:
            return own
        here = f"http://127.0.0.1:{port}"
        return {
            **own,
            "OPENAI_BASE_URL": f"{here}/v1",
            "OPENAI_API_KEY": key,
            "ANTHROPIC_BASE_URL": here,
            "ANTHROPIC_API_KEY": key,
            "CODEBUFF_API_KEY": key,
            "NEXT_PUBLIC_CODEBUFF_APP_URL": here,
        }

    def binds(self) -> list[str]:
        """Arguments of bubblewrap that show the socket inside."""
        line = ["--bind", str(self.socket), f"{INNER}/turn.sock"]
        return [*line, "--ro-bind", str(self.forwarder), f"{INNER}/socket_forwarder.py"]

    def forwarded(self, command: list[str]) -> list[str]:
        """The command line in a sandbox without network, with a port that leads to the socket."""
        if self.port or not forwards():
            return command
        own = ["python3", "-I", "-S", f"{INNER}/socket_forwarder.py", f"{PORT}:{INNER}/turn.sock", "--"]
        return [*own, *command]


def forwards() -> bool:
    """Whether programs in a sandbox can run the forwarder."""
    found = shutil.which("python3", path=PATH)
    return found is not None and os.path.realpath(found).startswith("/usr/")


class _Doors(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: Any, own: ModelSocket, key: str) -> None:
        self.own, self.key = own, key
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that has left is no news."""


class _PortDoors(_Doors):
    pass


class _SocketDoors(_Doors):
    address_family = getattr(socket, "AF_UNIX", socket.AF_INET)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a command."""

    protocol_version = "HTTP/1.1"
    server_version = "stoa"
    sys_version = ""
    timeout = 300
    server: _Doors

    def do_GET(self) -> None:
        if self._allowed():
            self._hand_on(None)

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            self.close_connection = True
            self._say(413, "Send a body of at most 20 MB, with its length.")
        elif self._allowed():
            self._hand_on(body)

    def _allowed(self) -> bool:
        key = self.server.key
        sent = self.headers.get("x-api-key") or self.headers.get("authorization", "").rpartition(" ")[2]
        if key and not hmac.compare_digest(key.encode(), sent.encode("utf-8", "replace")):
            self._say(401, "This port is for the commands of one work: use the key that they were told.")
            return False
        return True

    def _body(self) -> bytes | None:
        length = self.headers.get("content-length", "")
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return self._chunks()
        if not length.isdigit() or len(length) > 9 or int(length) > MOST_BODY:
            return None
        return self.rfile.read(int(length))

    def _chunks(self) -> bytes | None:
        body = b""
        while True:
            try:
                size = int(self.rfile.readline(32).partition(b";")[0], 16)
            except ValueError:
                return None
            if size < 0 or len(body) + size > MOST_BODY:
                return None
            body += self.rfile.read(size)
            self.rfile.readline(3)
            if size == 0:
                return body

    def _hand_on(self, body: bytes | None) -> None:
        own = self.server.own
        headers = {name: self.headers[name] for name in PASSED if self.headers.get(name)}
        path = own.prefix + self.path.partition("?")[0]
        with own.free:
            try:
                with own.server.opened(
                    self.command, path, body, {**headers, HEADER: own.token}, SILENT_SECONDS
                ) as answer:
                    self._answer(answer)
            except Failure as failure:
                self._say(502, f"The server cannot be reached: {failure}")

    def _answer(self, answer: Any) -> None:
        self.send_response(answer.status)
        for name in ("content-type", "retry-after", "x-should-retry"):
            if answer.headers.get(name):
                self.send_header(name, answer.headers[name])
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            while piece := answer.read1(1 << 16):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except Exception:  # whatever broke off, the command must not take it for the whole
            self.close_connection = True

    def _say(self, status: int, message: str) -> None:
        body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
        with suppress(OSError):
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Calls are in the records of the server."""
