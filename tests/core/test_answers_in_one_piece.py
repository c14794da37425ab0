"""A whole answer leaves in one piece, whatever writes its head and its body apart."""

import socket
from collections.abc import Iterator

import pytest

from views.server.gunicorn_config import SMALL, ClientConnection, ClientTimeouts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture
def ends() -> Iterator[tuple[ClientConnection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    connection = ClientConnection(ours, ClientTimeouts(10, 20, 100, None), "")
    connection.expect_body()
    yield connection, theirs
    connection.close()
    theirs.close()


def came(theirs: socket.socket) -> bytes:
    try:
        return theirs.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_the_head_waits_for_the_body(ends: tuple[ClientConnection, socket.socket]) -> None:
    connection, theirs = ends
    connection.sendall(HEAD)
    assert came(theirs) == b""
    connection.sendall(b"{}")
    assert came(theirs) == HEAD + b"{}"
    connection.sendall(b"more")
    assert came(theirs) == b"more"


def test_a_head_without_a_body_leaves_at_the_end(ends: tuple[ClientConnection, socket.socket]) -> None:
    connection, theirs = ends
    connection.sendall(HEAD)
    connection.flush()
    assert came(theirs) == HEAD
    connection.flush()
    assert came(theirs) == b""


def test_a_large_body_is_not_copied_behind_its_head(ends: tuple[ClientConnection, socket.socket]) -> None:
    connection, theirs = ends
    body = b"x" * (SMALL + 1)
    connection.sendall(HEAD)
    connection.sendall(body)
    assert came(theirs) == HEAD + body


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad",
    ],
)
def test_what_no_body_follows_at_once_leaves_at_once(
    ends: tuple[ClientConnection, socket.socket], data: bytes
) -> None:
    connection, theirs = ends
    connection.sendall(data)
    assert came(theirs) == data
