"""A browser may leave a test's server at any moment: whatever was being sent to it is let go of."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.core.settings import ROOT
from tests.server import serving

PIECE = b"x" * (1 << 16)


class Body:
    """Two pieces, then what is left of them once the client has done what it does. Its closings are counted."""

    def __init__(self, left: int) -> None:
        self.length = len(PIECE) * (2 + left)
        self.client_is_done, self.closed = threading.Event(), threading.Event()
        self.closings = 0
        self._left = left

    def __iter__(self) -> Iterator[bytes]:
        yield PIECE
        yield PIECE
        assert self.client_is_done.wait(30)
        for _ in range(self._left):
            yield PIECE

    def close(self) -> None:
        self.closings += 1
        self.closed.set()


def leave(wire: socket.socket) -> None:
    """Without a look at the answer."""
    wire.close()


def reset(wire: socket.socket) -> None:
    """In the middle, as a browser does that goes to another page."""
    wire.recv(1000)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    wire.close()


def say_more_and_leave(wire: socket.socket) -> None:
    """With bytes that nobody asked for."""
    wire.recv(1000)
    wire.sendall(b"GET /another HTTP/1.1\r\n")
    wire.close()


def say_no_more(wire: socket.socket) -> None:
    """And read nothing either, for now."""
    wire.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("left", [0, 500], ids=["all was sent", "32 MB were to come"])
@pytest.mark.parametrize("client", [leave, reset, say_more_and_leave, say_no_more])
def test_an_answer_is_closed_once_however_the_client_leaves(
    client: Callable[[socket.socket], None], left: int
) -> None:
    body = Body(left)

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(body.length))])
        return body

    with serving(app) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as wire:
            wire.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wire.recv(1)
            client(wire)
            body.client_is_done.set()
            while wire.fileno() >= 0 and wire.recv(1 << 20):
                pass
        assert body.closed.wait(30)
    assert body.closings == 1


def test_there_is_one_way_to_serve_an_application() -> None:
    makes = re.compile(r"\b(make_server|run_simple|\w*WSGIServer)\b")
    files = [file for file in Path(ROOT, "tests").rglob("*.py") if file.name != Path(__file__).name]
    assert [file.name for file in files if makes.search(file.read_text())] == ["server.py"]
