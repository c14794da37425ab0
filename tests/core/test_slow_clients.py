"""Clients that send their requests slowly, or never take their answers, shut nobody out; honest ones are not cut."""

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
"""Seconds in which even a busy machine does what it need not wait for: less than the shortest patience but for `server`'s."""


@pytest.fixture(scope="module")
def server(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that is impatient."""
    settings = {"STOA_HEADER_TIMEOUT": "2", "STOA_BODY_TIMEOUT": "2", "STOA_CONNECTIONS_PER_ADDRESS": "100"}
    with running(postgres_url, tmp_path_factory.mktemp("slow"), **settings) as address:
        yield address


@pytest.fixture(scope="module")
def patient(app: Flask, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that ends nobody for being slow while a test lasts, so that room for others is made only where it is needed."""
    settings = {
        "STOA_HEADER_TIMEOUT": "120",
        "STOA_BODY_TIMEOUT": "120",
        "STOA_CONNECTIONS_PER_ADDRESS": "100",
    }
    with running(postgres_url, tmp_path_factory.mktemp("patient"), **settings) as address:
        yield address


def connect(server: str, source: str = "127.0.0.1") -> socket.socket:
    port = int(server.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))


def healthy(server: str) -> None:
    """Another client is answered soon."""
    began = time.monotonic()
    with urllib.request.urlopen(f"{server}/api/healthz", timeout=SOON) as answer:
        assert answer.status == 200
    assert time.monotonic() - began < SOON


def rest(wire: socket.socket) -> bytes:
    """What the server says until it closes the connection."""
    found = b""
    with suppress(ConnectionError):
        while data := wire.recv(65536):
            found += data
    return found


BODY_LACKING = (
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
HEAD_LACKING = (b"G", b"GET / HTTP/1.1", b"GET /login " + HEAD, POST + b"Content-Length: 3", b"\r\n")


LACKING = [
    *((sent, b"") for sent in (*HEAD_LACKING, *BODY_LACKING)),
    *((sent, b"x") for sent in (*HEAD_LACKING[:3], *BODY_LACKING[:2], FORM + b"Content-Length: 100\r\n\r\n")),
    (POST, b"X-A: b\r\n"),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
]


def test_what_never_comes_is_waited_for_in_seconds(server: str) -> None:
    with ThreadPoolExecutor(len(LACKING)) as pool:
        found = list(pool.map(lambda each: _lack(server, *each), LACKING))
    for (sent, dripped), (heard, seconds) in zip(LACKING, found, strict=True):
        assert 1.5 < seconds < SOON, (sent, dripped, seconds)
        answer = heard.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        if sent != b"\r\n":
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n"), (sent, dripped, heard)
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def _lack(server: str, sent: bytes, dripped: bytes) -> tuple[bytes, float]:
    """What is heard, and after how long the connection ends."""
    began = time.monotonic()
    heard = b""
    with connect(server) as wire, suppress(ConnectionError):
        wire.sendall(sent)
        wire.settimeout(0.4)
        while time.monotonic() - began < 30:
            try:
                data = wire.recv(65536)
            except TimeoutError:
                with suppress(OSError):
                    wire.sendall(dripped)
                continue
            if not data:
                break
            heard += data
    return heard, time.monotonic() - began


def test_who_says_nothing_is_not_waited_for(server: str) -> None:
    began = time.monotonic()
    with connect(server) as wire:
        assert rest(wire) == b""
    assert 1.5 < time.monotonic() - began < SOON


def test_a_connection_may_rest_between_two_requests(server: str) -> None:
    request = b"GET /api/healthz " + HEAD + b"\r\n"
    with connect(server) as wire:
        for _ in range(2):
            wire.sendall(request)
            time.sleep(3)
            assert wire.recv(65536).startswith(b"HTTP/1.1 200 ")
        wire.sendall(request[:20])
        assert rest(wire).startswith(b"HTTP/1.1 408 ")


def test_requests_with_bodies_follow_one_another(server: str) -> None:
    sized = POST + b"Content-Length: 2\r\n\r\n{}"
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    large = POST + b"Content-Length: 600000\r\n\r\n" + b" " * 600_000
    unread = b"GET /api/healthz " + HEAD + b"Content-Length: 2\r\n\r\n{}"
    with connect(server) as wire:
        for request in (sized, chunked, large, unread, sized, chunked + sized):
            wire.sendall(request)
            heard = b""
            while heard.count(b"HTTP/1.1 ") < request.count(b"HTTP/1.1"):
                data = wire.recv(65536)
                assert data, heard
                heard += data
        wire.sendall(b"GET /api/healthz " + HEAD + b"Connection: close\r\n\r\n")
        assert rest(wire).count(b"HTTP/1.1 ") == 1


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
def test_slow_clients_shut_nobody_out(patient: str, kind: str, source: str) -> None:
    """Neither the others, nor others at their own address."""
    with ExitStack() as open_wires:
        for _ in range(400):
            wire = open_wires.enter_context(connect(patient, source))
            with suppress(OSError):
                wire.sendall(KINDS[kind])
        for _ in range(5):
            healthy(patient)


def test_clients_that_take_nothing_shut_nobody_out(patient: str) -> None:
    with ExitStack() as open_wires:
        for _ in range(150):
            wire = open_wires.enter_context(socket.socket())
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.connect(("127.0.0.1", int(patient.rsplit(":", 1)[1])))
            wire.sendall((b"GET /static/vendor/htmx/htmx.min.js " + HEAD + b"\r\n") * 4)
        time.sleep(3)
        for _ in range(5):
            healthy(patient)
            time.sleep(0.1)


def test_more_than_all_places_shut_nobody_out(app: Flask, postgres_url: str, tmp_path: Path) -> None:
    settings = {"STOA_CONNECTIONS_PER_ADDRESS": "0", "GUNICORN_CMD_ARGS": "--worker-connections 200"}
    with running(postgres_url, tmp_path, **settings) as address, ExitStack() as open_wires:
        for _ in range(1000):
            wire = open_wires.enter_context(connect(address))
            wire.sendall(KINDS["no body"])
        for _ in range(5):
            healthy(address)
            time.sleep(0.1)


def test_calls_in_flight_make_no_room(
    app: Flask, postgres_url: str, session: Session, alice: Person, tmp_path: Path
) -> None:
    """Nobody who waits for us is shown out; the next of that address is told that it has too many."""
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
        for wire in streams:
            wire.sendall(request)
        for wire in streams:
            assert wire.recv(10) == b"HTTP/1.1 2"
        with connect(address) as fifth:
            answer = rest(fifth)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: " in answer
        with connect(address, "127.0.0.2") as other:
            other.sendall(b"GET /api/healthz " + HEAD + b"\r\n")
            assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
        gate.set()
        for wire in streams:
            assert b"[DONE]" in rest(wire)


def test_slow_but_honest_uploads_and_streams_are_not_cut(
    server: str, session: Session, alice: Person
) -> None:
    """20 kB a second, for three times the patience."""
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
        with connect(server) as wire:
            wire.sendall(
                POST + head + f"Authorization: Bearer {alice.token}\r\nConnection: close\r\n\r\n".encode()
            )
            for start in range(0, len(body), 10_000):
                piece = body[start : start + 10_000]
                wire.sendall(piece if b"Length" in head else b"%x\r\n%s\r\n" % (len(piece), piece))
                time.sleep(0.5)
            if b"Length" not in head:
                wire.sendall(b"0\r\n\r\n")
            answers.append(rest(wire))

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


def test_an_answer_that_is_not_taken_ends(app: Flask, postgres_url: str, tmp_path: Path) -> None:
    """With the worker's own times shortened: they are no settings."""
    config = tmp_path / "web.py"
    text = CONFIG.read_text()
    assert "TAKEN_WITHIN = 60.0" in text
    config.write_text(text.replace("TAKEN_WITHIN = 60.0", "TAKEN_WITHIN = 1.0"))
    with running(postgres_url, tmp_path, config=config) as address:
        with socket.socket() as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
            wire.settimeout(60)
            wire.sendall((b"GET /static/vendor/htmx/htmx.min.js " + HEAD + b"\r\n") * 100)
            time.sleep(4)
            healthy(address)
            taken = rest(wire)
        assert taken.startswith(b"HTTP/1.1 200 ")
        assert taken.count(b"HTTP/1.1 200 ") < 100
