"""Head and body of a response are sent together, even if written separately."""

import socket
from collections.abc import Iterator

import pytest

from views.server.gunicorn_config import SMALL_BYTES, ClientConnection, ClientTimeouts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[ClientConnection, socket.socket]]:
    server, client = socket.socketpair()
    client.setblocking(False)
    connection = ClientConnection(server, ClientTimeouts(10, 20, 100, None), "")
    connection.expect_body()
    yield connection, client
    connection.close()
    client.close()


def received(client: socket.socket) -> bytes:
    try:
        return client.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_the_head_waits_for_the_body(pair: tuple[ClientConnection, socket.socket]) -> None:
    connection, client = pair
    connection.sendall(HEAD)
    assert received(client) == b""
    connection.sendall(b"{}")
    assert received(client) == HEAD + b"{}"
    connection.sendall(b"more")
    assert received(client) == b"more"


def test_a_head_without_a_body_is_sent_by_flush(pair: tuple[ClientConnection, socket.socket]) -> None:
    connection, client = pair
    connection.sendall(HEAD)
    connection.flush()
    assert received(client) == HEAD
    connection.flush()
    assert received(client) == b""


def test_a_large_body_is_not_copied_behind_its_head(pair: tuple[ClientConnection, socket.socket]) -> None:
    connection, client = pair
    body = b"x" * (SMALL_BYTES + 1)
    connection.sendall(HEAD)
    connection.sendall(body)
    assert received(client) == HEAD + body


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad",
    ],
)
def test_a_head_without_content_length_is_sent_at_once(
    pair: tuple[ClientConnection, socket.socket], data: bytes
) -> None:
    connection, client = pair
    connection.sendall(data)
    assert received(client) == data
