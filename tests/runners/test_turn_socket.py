"""The socket of a turn: model calls are the turn's whatever the peer says, and nothing else is served."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.outgoing import FetchPolicy
from models.core.settings import Settings
from models.gateway import GatewayCall
from models.runners import TurnSocket, levels, open_turn_socket, open_workplace
from models.runners.host_proxy import HostProxy
from models.turns.engine import TurnHandle
from tests.factories import Person
from tests.runners.socket_calls import UnixConnection, asked

DEMO = "stoa/demo"
HELLO = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
def opened(handle: TurnHandle) -> Iterator[TurnSocket]:
    made = open_turn_socket(handle)
    yield made
    made.close()


DOORS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/messages": {"messages": HELLO, "max_tokens": 100},
    "/v1/responses": {"input": "Say hello.", "store": True},
    "/v1/embeddings": {"input": "hello"},
    "/api/v1/chat/completions": {
        "messages": HELLO,
        "codebuff_metadata": {"run_id": "another-run", "orgId": "another-org", "cost_mode": "free"},
    },
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("door", DOORS)
def test_each_call_is_the_turns_whatever_the_peer_says(
    opened: TurnSocket, handle: TurnHandle, session: OrmSession, alice: Person, door: str, stream: bool
) -> None:
    if stream and door == "/v1/embeddings":
        pytest.skip("vectors are not streamed")
    model = "stoa/demo-embeddings" if door == "/v1/embeddings" else DEMO
    status, data = asked(opened.path, door, {**DOORS[door], "model": model, "stream": stream})
    assert status == 200, data
    assert data
    opened.close()
    session.expire_all()
    made = session.scalars(select(GatewayCall)).one()
    assert (made.user_id, made.run_id) == (alice.id, handle.run_id)
    assert opened.spent == (made.credits or 0)


def test_models_are_listed_and_tokens_counted(opened: TurnSocket) -> None:
    status, data = asked(opened.path, "/v1/models")
    assert status == 200
    assert DEMO in [each["id"] for each in json.loads(data)["data"]]
    assert asked(opened.path, f"/v1/models/{DEMO}")[0] == 200
    status, data = asked(opened.path, "/v1/messages/count_tokens", {"model": DEMO, "messages": HELLO})
    assert status == 200
    assert json.loads(data)["input_tokens"] > 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("GET", path)
            for path in ("/", "/v1/models/nothing", "/api/openapi.json", "/v1/threads", "/projects")
        ),
        *(
            ("POST", path)
            for path in ("/v1/images/generations", "/api/auth/cli/code", "/v1/responses/compact")
        ),
        *(("GET", path) for path in ("/v1/chat/completions", "//v1/models/../../x")),
    ],
)
def test_nothing_else_is_served(opened: TurnSocket, method: str, path: str) -> None:
    status, data = asked(opened.path, path, b"{}" if method == "POST" else None, method)
    assert status == 404, data


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b"null", 400),
        (b'"\\u0000"', 400),
        (b"[" * 5_000, 400),
        ({"model": DEMO}, 400),
        ({"model": "no/such", "messages": HELLO}, 404),
        ({"model": DEMO, "messages": HELLO, "previous_response_id": "resp_1"}, 400),
    ],
)
def test_bad_bodies_are_refused_with_a_reason(opened: TurnSocket, body: Any, status: int) -> None:
    for door in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        sent = {**body, "max_tokens": 5, "input": None} if isinstance(body, dict) else body
        found, data = asked(opened.path, door, sent)
        if isinstance(body, dict) and "no/such" in body.values() and door == "/v1/responses":
            continue
        assert found == status, (door, data)
        assert "error" in json.loads(data)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"DELETE /v1/models HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_no_request_ends_the_connection(opened: TurnSocket, sent: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(opened.path))
        try:
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            data = peer.recv(1_000)
        except OSError:
            data = b""
    assert (
        data == b"" or b" 4" in data.split(b"\r\n")[0] or b" 5" in data.split(b"\r\n")[0] or b"error" in data
    )
    assert asked(opened.path, "/v1/models")[0] == 200


def test_chunked_bodies_are_read(opened: TurnSocket) -> None:
    body = json.dumps({"model": DEMO, "messages": HELLO}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(opened.path))
        peer.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert b"200 OK" in peer.recv(1_000)


def test_another_model_than_the_turns_is_answered_by_the_turns(
    handle: TurnHandle, session: OrmSession
) -> None:
    made = open_turn_socket(handle, models=[DEMO])
    status, _ = asked(
        made.path, "/v1/chat/completions", {"model": "dear/model", "messages": HELLO, "models": ["x"]}
    )
    assert status == 200
    assert [each["id"] for each in json.loads(asked(made.path, "/v1/models")[1])["data"]] == [DEMO]
    made.close()
    assert session.scalars(select(GatewayCall.model)).one() == DEMO


def test_a_stopped_turn_makes_no_calls_and_a_closed_socket_is_gone(
    handle: TurnHandle, opened: TurnSocket, session: OrmSession
) -> None:
    handle.stopped = "stop"
    status, _ = asked(opened.path, "/v1/chat/completions", {"model": DEMO, "messages": HELLO, "stream": True})
    assert status in (200, 499)
    opened.close()
    opened.close()
    assert not opened.path.exists()
    with pytest.raises(OSError, match=r"."):
        UnixConnection(opened.path).connect()


def test_programs_in_the_sandbox_use_the_socket_as_an_ordinary_address(
    handle: TurnHandle, opened: TurnSocket, alice: Person, session: OrmSession
) -> None:
    state = levels()["process"]
    if not state.available:
        pytest.skip(state.sentence)
    place = open_workplace("process", alice.account.id, None, socket=opened)
    script = (
        "import json, os, urllib.request as u\n"
        f"body = {{'model': '{DEMO}', 'messages': {HELLO}}}\n"
        "q = u.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', json.dumps(body).encode())\n"
        "print(json.load(u.urlopen(q))['choices'][0]['message']['role'])\n"
    )
    place.write("ask.py", script.encode())
    done = place.run("python3 ask.py; env | grep -c sk_", seconds=30)
    assert done.output == "assistant\n0\n"
    place.close()
    assert not opened.path.exists()
    assert session.scalars(select(GatewayCall.run_id)).one() == handle.run_id


# -- the proxy to allowed hosts ----------------------------------------------------------------------------


@pytest.fixture
def upstream() -> Iterator[int]:
    """A host that answers each connection with its first bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def answer() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.sendall(b"heard " + peer.recv(100))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()


def through(proxy: HostProxy, target: str) -> bytes:
    """What a tunnel says, or why there is none."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(str(proxy.path))
        peer.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = peer.recv(1_000)
        if b" 200 " not in head:
            return head
        peer.sendall(b"hello")
        peer.shutdown(socket.SHUT_WR)
        return peer.recv(1_000)


def test_the_proxy_reaches_allowed_public_hosts_and_tells_of_each(
    upstream: int, tmp_path: Path, settings: Settings
) -> None:
    told: list[tuple[str, bool]] = []
    # the names are public by this policy; the connection goes to a server of the test
    open_policy = FetchPolicy(resolve=lambda host, port: ["127.0.0.1"], allows=lambda address: True)
    hosts = ["pypi.test", "*.files.test"]
    proxy = HostProxy(
        tmp_path, hosts, lambda *each: told.append(each), settings, policy=open_policy, port=upstream
    )
    for target, expected in {
        f"pypi.test:{upstream}": b"heard hello",
        f"PYPI.test.:{upstream}": b"heard hello",
        f"a.files.test:{upstream}": b"heard hello",
        f"files.test:{upstream}": b" 403 ",
        f"pypi.test.evil.test:{upstream}": b" 403 ",
        "pypi.test:22": b" 403 ",
        "[::1]:443": b" 405 ",
        "pypi.test:99999999": b" 405 ",
    }.items():
        assert expected in through(proxy, target), target
    proxy.close()
    assert told[:2] == [("pypi.test", True), ("a.files.test", True)]
    assert ("files.test", False) in told
    assert not proxy.path.exists()


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1"])
def test_the_proxy_refuses_private_addresses_even_of_allowed_names(
    address: str, tmp_path: Path, settings: Settings
) -> None:
    told: list[tuple[str, bool]] = []
    policy = FetchPolicy(resolve=lambda host, port: [address])
    proxy = HostProxy(tmp_path, ["inside.test"], lambda *each: told.append(each), settings, policy=policy)
    assert b" 403 " in through(proxy, "inside.test:443")
    proxy.close()
    assert told == [("inside.test", False)]
