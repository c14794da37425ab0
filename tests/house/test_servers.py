"""The test server closes responses even if the client disconnects early."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.core.settings import ROOT
from tests.server import serving

CHUNK = b"x" * (1 << 16)


class Body:
    """Two chunks, then `left` more after the client has acted. Counts calls of `close`."""

    def __init__(self, left: int) -> None:
        self.length = len(CHUNK) * (2 + left)
        self.client_is_done, self.closed = threading.Event(), threading.Event()
        self.close_calls = 0
        self._left = left

    def __iter__(self) -> Iterator[bytes]:
        yield CHUNK
        yield CHUNK
        assert self.client_is_done.wait(30)
        for _ in range(self._left):
            yield CHUNK

    def close(self) -> None:
        self.close_calls += 1
        self.closed.set()


def disconnect(connection: socket.socket) -> None:
    """Disconnect without reading the response."""
    connection.close()


def reset(connection: socket.socket) -> None:
    """Reset the connection during the response, like a browser that navigates away."""
    connection.recv(1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


def send_more_and_disconnect(connection: socket.socket) -> None:
    """Send unexpected bytes, then disconnect."""
    connection.recv(1000)
    connection.sendall(b"GET /another HTTP/1.1\r\n")
    connection.close()


def stop_sending(connection: socket.socket) -> None:
    """Shut down the sending side."""
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("left", [0, 500], ids=["all was sent", "32 MB were to come"])
@pytest.mark.parametrize("client", [disconnect, reset, send_more_and_disconnect, stop_sending])
def test_a_response_is_closed_once_however_the_client_disconnects(
    client: Callable[[socket.socket], None], left: int
) -> None:
    body = Body(left)

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(body.length))])
        return body

    with serving(app) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(1)
            client(connection)
            body.client_is_done.set()
            while connection.fileno() >= 0 and connection.recv(1 << 20):
                pass
        assert body.closed.wait(30)
    assert body.close_calls == 1


def test_there_is_one_way_to_serve_an_application() -> None:
    makes = re.compile(r"\b(make_server|run_simple|\w*WSGIServer)\b")
    files = [file for file in Path(ROOT, "tests").rglob("*.py") if file.name != Path(__file__).name]
    assert [file.name for file in files if makes.search(file.read_text())] == ["server.py"]
