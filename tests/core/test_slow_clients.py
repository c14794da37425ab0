"""Slow clients do not block others, and slow but active ones are not disconnected."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from tests import factories
from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.server import CONFIG, running

HEAD = b"HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/chat/completions " + HEAD
FORM = b"POST /login " + HEAD + b"Content-Type: application/x-www-form-urlencoded\r\n"


SOON = 9.0
"""Seconds within which even a busy machine responds; less than every timeout but those of `server`."""


@pytest.fixture(scope="module")
def server(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with short timeouts."""
    settings = {"STOA_HEADER_TIMEOUT": "2", "STOA_BODY_TIMEOUT": "2", "STOA_CONNECTIONS_PER_ADDRESS": "100"}
    with running(postgres_url, tmp_path_factory.mktemp("slow"), workers=1, **settings) as address:
        yield address


@pytest.fixture(scope="module")
def patient(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with timeouts longer than a test, so that clients are disconnected only at the connection limit."""
    settings = {
        "STOA_HEADER_TIMEOUT": "120",
        "STOA_BODY_TIMEOUT": "120",
        "STOA_CONNECTIONS_PER_ADDRESS": "100",
    }
    with running(postgres_url, tmp_path_factory.mktemp("patient"), workers=1, **settings) as address:
        yield address


def connect(server: str, source: str = "127.0.0.1") -> socket.socket:
    port = int(server.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))


def healthy(server: str) -> None:
    """Another client gets a response soon."""
    began = time.monotonic()
    with urllib.request.urlopen(f"{server}/api/healthz", timeout=SOON) as answer:
        assert answer.status == 200
    assert time.monotonic() - began < SOON


def rest(connection: socket.socket) -> bytes:
    """The data received until the server closes the connection."""
    found = b""
    with suppress(ConnectionError):
        while data := connection.recv(65536):
            found += data
    return found


BODIES = (
    POST + b"Content-Length: 100\r\n\r\n",
    POST + b"Content-Length: 100\r\n\r\n" + b"{" * 50,
    POST + b"Content-Length: 20000000\r\n\r\n" + b" " * 300_000,
    POST + b"Transfer-Encoding: chunked\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    POST + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
    POST + b"Authorization: Bearer x\r\nContent-Length: 100\r\n\r\n",
    FORM + b"Content-Length: 100\r\n\r\n",
    b"GET /login " + HEAD + b"Content-Length: 10\r\n\r\n",
    b"DELETE /api/agents " + HEAD + b"Content-Length: 10\r\n\r\n",
)
HEADS = (b"G", b"GET / HTTP/1.1", b"GET /login " + HEAD, POST + b"Content-Length: 3", b"\r\n")


INCOMPLETE = [
    *((sent, b"") for sent in (*HEADS, *BODIES)),
    *((sent, b"x") for sent in (*HEADS[:3], *BODIES[:2], FORM + b"Content-Length: 100\r\n\r\n")),
    (POST, b"X-A: b\r\n"),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
]


def test_incomplete_requests_time_out_with_408(server: str) -> None:
    with ThreadPoolExecutor(len(INCOMPLETE)) as pool:
        found = list(pool.map(lambda each: _send_incomplete(server, *each), INCOMPLETE))
    for (sent, dripped), (received, seconds) in zip(INCOMPLETE, found, strict=True):
        assert 1.5 < seconds < SOON, (sent, dripped, seconds)
        answer = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        if sent != b"\r\n":
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), (sent, dripped, received)
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def _send_incomplete(server: str, sent: bytes, dripped: bytes) -> tuple[bytes, float]:
    """The response, and the seconds until the connection is closed."""
    began = time.monotonic()
    received = b""
    with connect(server) as connection, suppress(ConnectionError):
        connection.sendall(sent)
        connection.settimeout(0.4)
        while time.monotonic() - began < 30:
            try:
                data = connection.recv(65536)
            except TimeoutError:
                with suppress(OSError):
                    connection.sendall(dripped)
                continue
            if not data:
                break
            received += data
    return received, time.monotonic() - began


def test_silent_connections_are_closed(server: str) -> None:
    began = time.monotonic()
    with connect(server) as connection:
        assert rest(connection) == b""
    assert 1.5 < time.monotonic() - began < SOON


def test_a_connection_may_idle_between_requests(server: str) -> None:
    request = b"GET /api/healthz " + HEAD + b"\r\n"
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(request)
            time.sleep(3)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(request[:20])
        assert rest(connection).startswith(b"HTTP/1.1 408 ")


def test_requests_with_bodies_share_a_connection(server: str) -> None:
    sized = POST + b"Content-Length: 2\r\n\r\n{}"
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    large = POST + b"Content-Length: 600000\r\n\r\n" + b" " * 600_000
    unread = b"GET /api/healthz " + HEAD + b"Content-Length: 2\r\n\r\n{}"
    with connect(server) as connection:
        for request in (sized, chunked, large, unread, sized, chunked + sized):
            connection.sendall(request)
            received = b""
            while received.count(b"HTTP/1.1 ") < request.count(b"HTTP/1.1"):
                data = connection.recv(65536)
                assert data, received
                received += data
        connection.sendall(b"GET /api/healthz " + HEAD + b"Connection: close\r\n\r\n")
        assert rest(connection).count(b"HTTP/1.1 ") == 1


KINDS = {
    "says nothing": b"",
    "half a head": b"GET /login " + HEAD,
    "no body": POST + b"Content-Length: 1000\r\n\r\n",
    "half a body": POST + b"Content-Length: 1000\r\n\r\n{",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "a form": FORM + b"Content-Length: 1000\r\n\r\n",
    "a form of somebody": FORM + b"Cookie: next-auth.session-token=x\r\nContent-Length: 1000\r\n\r\n",
}


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
@pytest.mark.parametrize("kind", KINDS)
def test_slow_clients_do_not_block_others(patient: str, kind: str, source: str) -> None:
    """Neither other clients nor others at the same address."""
    with ExitStack() as open_wires:
        for _ in range(400):
            connection = open_wires.enter_context(connect(patient, source))
            with suppress(OSError):
                connection.sendall(KINDS[kind])
        for _ in range(5):
            healthy(patient)


def test_clients_that_do_not_read_do_not_block_others(patient: str) -> None:
    with ExitStack() as open_wires:
        for _ in range(150):
            connection = open_wires.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", int(patient.rsplit(":", 1)[1])))
            connection.sendall((b"GET /static/vendor/htmx/htmx.min.js " + HEAD + b"\r\n") * 4)
        time.sleep(3)
        for _ in range(5):
            healthy(patient)
            time.sleep(0.1)


def test_a_full_server_accepts_others(app: Flask, postgres_url: str, tmp_path: Path) -> None:
    settings = {"STOA_CONNECTIONS_PER_ADDRESS": "0", "GUNICORN_CMD_ARGS": "--worker-connections 200"}
    with running(postgres_url, tmp_path, workers=1, **settings) as address, ExitStack() as open_wires:
        for _ in range(1000):
            connection = open_wires.enter_context(connect(address))
            connection.sendall(KINDS["no body"])
        for _ in range(5):
            healthy(address)
            time.sleep(0.1)


def test_calls_in_flight_are_not_disconnected(
    app: Flask, postgres_url: str, session: Session, alice: Person, tmp_path: Path
) -> None:
    """Clients that wait for a response are not disconnected; the next one of that address is rejected."""
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    body = json.dumps(
        {
            "model": "openai/gpt-4o-mini",
            "stream": True,
            "messages": [{"role": "user", "content": "Say hello."}],
        }
    ).encode()
    request = (
        POST
        + b"Authorization: Bearer %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        % (alice.token.encode(), len(body))
        + body
    )
    gate = threading.Event()
    with fakes.running() as provider, ExitStack() as open_wires:
        provider.will(*(fakes.pausing(fakes.chunks(), gate, after=2) for _ in range(4)))
        settings = {
            "STOA_CONNECTIONS_PER_ADDRESS": "4",
            "OPENAI_API_KEY": "sk-operator",
            "OPENAI_BASE_URL": provider.url,
        }
        address = open_wires.enter_context(running(postgres_url, tmp_path, workers=1, **settings))
        streams = [open_wires.enter_context(connect(address)) for _ in range(4)]
        for connection in streams:
            connection.sendall(request)
        for connection in streams:
            assert connection.recv(10) == b"HTTP/1.1 2"
        with connect(address) as fifth:
            answer = rest(fifth)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: " in answer
        with connect(address, "127.0.0.2") as other:
            other.sendall(b"GET /api/healthz " + HEAD + b"\r\n")
            assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
        gate.set()
        for connection in streams:
            assert b"[DONE]" in rest(connection)


def test_slow_but_active_uploads_and_streams_are_not_disconnected(
    server: str, session: Session, alice: Person
) -> None:
    """20 kB per second, for three times the timeout."""
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    body = json.dumps(
        {
            "model": "stoa/demo",
            "stream": True,
            "messages": [
                {"role": "user", "content": "x" * 120_000},
                {"role": "user", "content": 'Say "hello".'},
            ],
        }
    ).encode()
    heads = (b"Content-Length: %d\r\n" % len(body), b"Transfer-Encoding: chunked\r\n")

    def upload(head: bytes, answers: list[bytes]) -> None:
        with connect(server) as connection:
            connection.sendall(
                POST + head + f"Authorization: Bearer {alice.token}\r\nConnection: close\r\n\r\n".encode()
            )
            for start in range(0, len(body), 10_000):
                piece = body[start : start + 10_000]
                connection.sendall(piece if b"Length" in head else b"%x\r\n%s\r\n" % (len(piece), piece))
                time.sleep(0.5)
            if b"Length" not in head:
                connection.sendall(b"0\r\n\r\n")
            answers.append(rest(connection))

    answers: list[bytes] = []
    threads = [threading.Thread(target=upload, args=(head, answers)) for head in heads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:1000]
        assert b"[DONE]" in answer


def test_an_unread_response_is_cut_off(app: Flask, postgres_url: str, tmp_path: Path) -> None:
    """Uses a copy of the configuration with a shorter write timeout, which is not a setting."""
    config = tmp_path / "web.py"
    text = CONFIG.read_text()
    assert "WRITE_TIMEOUT = 60.0" in text
    config.write_text(text.replace("WRITE_TIMEOUT = 60.0", "WRITE_TIMEOUT = 1.0"))
    with running(postgres_url, tmp_path, workers=1, config=config) as address:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
            connection.settimeout(60)
            connection.sendall((b"GET /static/vendor/htmx/htmx.min.js " + HEAD + b"\r\n") * 100)
            time.sleep(4)
            healthy(address)
            taken = rest(connection)
        assert taken.startswith(b"HTTP/1.1 200 ")
        assert taken.count(b"HTTP/1.1 200 ") < 100
