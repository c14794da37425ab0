"""Responses over WebSocket, under gunicorn with gevent workers: lanes, memory, steering, limits and bills."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import openai
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from werkzeug.test import EnvironBuilder

from tests import factories
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream, answer, chunk, pausing, stream, usage
from tests.gateway.conftest import Facts, wait
from tests.server import running, serving
from views.gateway.api import response_sockets
from views.web import web_socket

MODEL = "openai/gpt-5-mini"
TOOL = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}
END = [chunk({}, "stop"), chunk(None, usage=usage(100, 20)), "[DONE]"]
CALLED = [
    chunk({"tool_calls": [{"index": 0, "id": "c0", "function": {"name": "ls", "arguments": "{}"}}]}),
    chunk({}, "tool_calls"),
    chunk(None, usage=usage(100, 20)),
    "[DONE]",
]


@pytest.fixture(scope="module")
def server(
    app: Flask, postgres_url: str, fake_server: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a running server whose provider is the scripted upstream."""
    with running(
        postgres_url,
        tmp_path_factory.mktemp("server"),
        workers=1,
        OPENAI_API_KEY="sk-operator-openai",
        OPENAI_BASE_URL=f"{fake_server.url}/openai",
    ) as address:
        yield address


class Socket:
    """A client: sends frames, and reads the events of one response or a single one."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def create(self, input: Any = "Say hello.", **more: Any) -> None:
        self.send({"type": "response.create", "model": MODEL, "input": input, **more})

    def send(self, frame: Any) -> None:
        self.connection.send(frame if isinstance(frame, str) else json.dumps(frame))

    def event(self) -> dict[str, Any]:
        return json.loads(self.connection.recv(timeout=20))

    def until(self, *kinds: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while not found or found[-1]["type"] not in kinds:
            found.append(self.event())
        return found

    def response(self, input: Any = "Say hello.", **more: Any) -> dict[str, Any]:
        """Create a response; its last event's."""
        self.create(input, **more)
        events = self.until("response.completed", "response.incomplete", "response.failed", "error")
        return events[-1].get("response") or events[-1]


@pytest.fixture
def ws(server: str, rich: Person, fake: FakeUpstream) -> Iterator[Socket]:
    with connect(socket_address(server), additional_headers=rich.headers) as connection:
        yield Socket(connection)


def socket_address(server: str) -> str:
    return server.replace("http:", "ws:") + "/v1/responses"


def sent_texts(fake: FakeUpstream) -> list[Any]:
    return [message.get("content") for message in fake.requests[-1].body["messages"]]


def test_turns_continue_from_the_memory_of_the_connection(
    ws: Socket, fake: FakeUpstream, facts: Facts
) -> None:
    ws.create(store=False)
    events = ws.until("response.completed")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    first = events[-1]["response"]
    assert (first["store"], first["usage"]["output_tokens"]) == (False, 20)
    second = ws.response("And?", store=False, previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert sent_texts(fake) == ["Say hello.", "Hello there my friend.", "And?"]
    fake.will(answer())
    third = ws.response("More", previous_response_id=second["id"])
    assert third["store"] is True
    lost = ws.response("x", previous_response_id="resp_unknown")
    assert (lost["status"], lost["error"]["code"]) == (400, "previous_response_not_found")
    assert lost["error"]["param"] == "previous_response_id"
    wait(lambda: facts.holds() == 0)
    calls = facts.calls()
    assert [call.state for call in calls[:3]] == ["settled"] * 3
    assert all(call.door == "responses" and call.micro_credits for call in calls[:3])


def test_what_a_socket_kept_is_read_over_http_and_continued_elsewhere(
    ws: Socket, server: str, rich: Person, fake: FakeUpstream
) -> None:
    first = ws.response("One", store=False)
    kept = ws.response("Two", previous_response_id=first["id"])
    with openai.OpenAI(base_url=f"{server}/v1", api_key=rich.token, max_retries=0) as client:
        assert client.responses.retrieve(kept["id"]).output_text == "Hello there my friend."
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first["id"])
        client.responses.create(model=MODEL, input="Three", previous_response_id=kept["id"])
    assert sent_texts(fake)[::2] == ["One", "Two", "Three"]


def test_a_prepared_response_costs_nothing_and_is_continued(
    ws: Socket, fake: FakeUpstream, facts: Facts
) -> None:
    warm = ws.response("One", generate=False, instructions="Be brief.", tools=[TOOL])
    assert (warm["status"], warm["output"], warm["usage"]["total_tokens"]) == ("completed", [], 0)
    assert fake.requests == []
    ws.response([], previous_response_id=warm["id"])
    assert sent_texts(fake) == ["One"]
    assert len(facts.calls()) == 1
    assert ws.response(generate=False, model="nobody/nothing")["status"] == 404


def test_lanes_run_beside_each_other_and_each_in_order(ws: Socket, fake: FakeUpstream, facts: Facts) -> None:
    gate = threading.Event()
    fake.will(pausing([chunk({"content": "slow"}), *END], gate, 1), answer_stream("fast"))
    ws.create("1", stream_id="a")
    ws.create("2", stream_id="a")
    wait(lambda: len(fake.requests) == 1)
    ws.create("3", stream_id="b")
    ended: list[tuple[str, str]] = []
    lanes = set()
    while len(ended) < 3:
        event = ws.event()
        lanes.add(event["stream_id"])
        if event["type"] == "response.completed":
            gate.set()
            ended.append((event["stream_id"], event["response"]["output"][0]["content"][0]["text"]))
    assert ended == [("b", "fast"), ("a", "slow"), ("a", "fast")]
    assert lanes == {"a", "b"}
    wait(lambda: facts.holds() == 0)
    assert len(facts.calls()) == 3


def test_steering_continues_a_response(ws: Socket, fake: FakeUpstream, facts: Facts) -> None:
    gate = threading.Event()
    fake.will(
        pausing([chunk({"content": "Hel"}), chunk({"content": "lo"}), *END], gate, 1), answer_stream("Then.")
    )
    ws.create("One", store=False)
    id = ws.until("response.created")[-1]["response"]["id"]
    steer = {"type": "response.steer", "previous_response_id": id, "input": "Shorter!"}
    ws.send(steer)
    accepted = ws.until("response.steer.accepted")[-1]
    assert accepted["steer"]["previous_response_id"] == id
    gate.set()
    ws.until("response.completed")
    successor = ws.until("response.completed")[-1]["response"]
    assert successor["previous_response_id"] == id
    assert sent_texts(fake) == ["One", "Hello", "Shorter!"]
    ws.send(steer)
    failed = ws.event()
    assert (failed["type"], failed["error"]["code"]) == (
        "response.steer.failed",
        "response_already_completed",
    )
    assert failed["steer"]["input"] == "Shorter!"
    for change, code in (
        ({"previous_response_id": "resp_x"}, "response_not_found"),
        ({"input": []}, "invalid_input"),
    ):
        ws.send(steer | change)
        assert ws.event()["error"]["code"] == code
    wait(lambda: facts.holds() == 0)
    assert len(facts.calls()) == 2


def answer_stream(text: str) -> Any:
    return stream([chunk({"content": text}), *END])


def test_steering_waits_for_the_results_of_tools(ws: Socket, fake: FakeUpstream) -> None:
    gate = threading.Event()
    fake.will(pausing(CALLED, gate, 1), answer_stream("Done."))
    ws.create("One", tools=[TOOL], store=False)
    id = ws.until("response.created")[-1]["response"]["id"]
    ws.send(
        {
            "type": "response.steer",
            "previous_response_id": id,
            "input": [{"role": "user", "content": "Also two"}],
        }
    )
    ws.until("response.steer.accepted")
    gate.set()
    pending = ws.until("response.steer.pending")[-1]
    assert pending["required_input"] == [{"type": "function_call_output", "call_id": "c0", "name": "ls"}]
    output = [{"type": "function_call_output", "call_id": "c0", "output": "a.txt"}]
    ws.response(output, tools=[TOOL], store=False, previous_response_id=id)
    assert [message["role"] for message in fake.requests[-1].body["messages"]] == [
        *("user", "assistant", "user", "tool"),
    ]


def test_a_closed_socket_aborts_and_is_billed_once(ws: Socket, fake: FakeUpstream, facts: Facts) -> None:
    gate = threading.Event()
    fake.will(pausing([chunk({"content": "word "}) for _ in range(9)] + END, gate, 5))
    ws.create()
    ws.until("response.output_text.delta")
    ws.connection.close()
    gate.set()
    call = facts.call()
    assert (call.state, call.client_gone) == ("settled", True)
    assert facts.call().micro_credits > 0


WRONG: list[tuple[Any, str]] = [
    ("{", "invalid_json"),
    ("[]", "invalid_event"),
    ({"type": "response.cancel"}, "invalid_event"),
    ({"type": "response.create"}, "invalid_request"),
    ({"type": "response.create", "model": MODEL, "input": ""}, "invalid_request"),
    ({"type": "response.create", "model": MODEL, "input": "x", "background": True}, "invalid_request"),
    ({"type": "response.create", "model": MODEL, "input": "x", "stream": False}, "invalid_request"),
    ({"type": "response.create", "model": MODEL, "input": "x", "generate": 3}, "invalid_request"),
    ({"type": "response.create", "model": MODEL, "input": "x", "stream_id": 3}, "invalid_stream_id"),
    ({"type": "response.create", "model": "nobody/nothing", "input": "x"}, "model_not_found"),
]


def test_wrong_frames_are_refused_and_the_connection_lives(ws: Socket, fake: FakeUpstream) -> None:
    for frame, code in WRONG:
        ws.send(frame)
        refused = ws.event()
        assert (refused["type"], refused["error"]["code"]) == ("error", code), frame
        assert refused["status"] in (400, 404)
    assert fake.requests == []
    assert ws.response()["status"] == "completed"
    ws.send({"type": "response.create", "model": MODEL, "input": "x" * (20 << 20)})
    with pytest.raises(ConnectionClosed) as closed:
        ws.event()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_the_key_is_checked_before_the_upgrade(
    server: str, session: OrmSession, rich: Person, fake: FakeUpstream
) -> None:
    banned = factories.token(factories.user("banned", banned=True))
    for key, status in (("wrong", 401), (None, 401), (banned, 403)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(socket_address(server), additional_headers=headers),
        ):
            pass
        assert refused.value.response.status_code == status
    # a key that is revoked meanwhile makes no more responses
    with connect(socket_address(server), additional_headers=rich.headers) as connection:
        ws = Socket(connection)
        assert ws.response()["status"] == "completed"
        assert rich.user is not None
        rich.user.banned = True
        session.commit()
        assert ws.response()["error"]["code"] == "account_suspended"


@pytest.mark.filterwarnings("ignore:connect:DeprecationWarning")
def test_the_openai_client_connects(server: str, rich: Person, fake: FakeUpstream) -> None:
    with (
        openai.OpenAI(base_url=f"{server}/v1", api_key=rich.token) as client,
        client.responses.connect() as connection,
    ):
        connection.response.create(model=MODEL, input="Hi", store=False)
        text, id = "", ""
        for event in connection:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.completed":
                id = event.response.id
                break
        assert text == "Hello there my friend."
        connection.response.create(model=MODEL, input="More", store=False, previous_response_id=id)
        assert next(event for event in connection if event.type == "response.completed")


def test_many_sockets_share_one_worker(server: str, rich: Person, fake: FakeUpstream, facts: Facts) -> None:
    with ExitStack() as stack:
        sockets = [
            Socket(stack.enter_context(connect(socket_address(server), additional_headers=rich.headers)))
            for _ in range(20)
        ]
        for each in sockets:
            each.create(store=False)
        for each in sockets:
            assert each.until("response.completed")
    wait(lambda: facts.holds() == 0)
    assert [call.state for call in facts.calls()] == ["settled"] * 20


# -- limits, without a server --------------------------------------------------------------------------------


@pytest.fixture
def dial(web: FlaskClient, rich: Person) -> Iterator[Callable[[], Socket]]:
    """Connect to the application by a pair of sockets."""
    with ExitStack() as stack:

        def connected() -> Socket:
            ours, theirs = socket.socketpair()

            def serve() -> None:
                environ = handshake_environ(web, rich, theirs)
                with suppress(StopIteration):
                    theirs.sendall(b"".join(web.application.wsgi_app(environ, refused(theirs))))
                theirs.close()

            threading.Thread(target=serve, daemon=True).start()
            client = connect("ws://localhost/", sock=ours, additional_headers={})
            return Socket(stack.enter_context(client))

        yield connected


def handshake_environ(web: FlaskClient, caller: Person, connection: socket.socket) -> dict[str, Any]:
    """The request that the client sends, as gunicorn hands it on."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    sent = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if line)
    builder = EnvironBuilder(path="/v1/responses", headers={**caller.headers, **sent})
    return builder.get_environ() | {"gunicorn.socket": connection, "SERVER_PROTOCOL": "HTTP/1.1"}


def refused(connection: socket.socket) -> Any:
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    return start


def test_a_connection_ends_after_an_hour_and_when_it_is_not_used(
    dial: Callable[[], Socket], fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = dial()
    assert old.response()["status"] == "completed"
    monkeypatch.setattr(response_sockets, "MAX_SECONDS", 0.0)
    old.create()
    last = old.event()
    assert (last["status"], last["error"]["code"]) == (400, "websocket_connection_limit_reached")
    assert close_code(old) == 1001
    monkeypatch.undo()
    monkeypatch.setattr(web_socket, "PING_SECONDS", 0.5)
    monkeypatch.setattr(response_sockets, "IDLE_SECONDS", 0.1)
    assert close_code(dial()) == 1001
    assert len(fake.requests) == 1


def close_code(connection: Socket) -> int | None:
    """The code with which the server closes the connection."""
    with pytest.raises(ConnectionClosed) as closed:
        connection.event()
    return closed.value.rcvd and closed.value.rcvd.code


def test_a_key_has_a_limit_of_connections(
    dial: Callable[[], Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_sockets, "MAX_SOCKETS_PER_KEY", 1)
    first = dial()
    with pytest.raises(InvalidStatus) as refusal:
        dial()
    assert refusal.value.response.status_code == 429
    first.connection.close()


def test_an_idle_server_that_stops_closes_its_connections(
    dial: Callable[[], Socket], web: FlaskClient
) -> None:
    ws = dial()
    ws.response(generate=False)
    sockets = web.application.extensions["response_sockets"]
    wait(lambda: all(each._session.idle for each in sockets._open))
    sockets.close_idle()
    with pytest.raises(ConnectionClosed) as closed:
        ws.event()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_what_is_forgotten_is_sent_again(
    dial: Callable[[], Socket], web: FlaskClient, fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = web.application.extensions["response_sockets"].remembered
    monkeypatch.setattr(remembered, "_limit", 2_000)
    ws = dial()
    first = ws.response("a" * 900, store=False)
    second = ws.response("b" * 900, store=False)
    assert 0 < remembered.bytes <= 2_000
    lost = ws.response("c", previous_response_id=first["id"])
    assert lost["error"]["code"] == "previous_response_not_found"
    assert ws.response("c", store=False, previous_response_id=second["id"])["status"] == "completed"
    ws.connection.close()
    wait(lambda: remembered.bytes == 0)


def test_a_broken_handshake_is_refused(web: FlaskClient, rich: Person) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        builder = EnvironBuilder(path="/v1/responses", headers={**rich.headers, "Upgrade": "websocket"})
        environ = builder.get_environ() | {"gunicorn.socket": theirs, "SERVER_PROTOCOL": "HTTP/1.1"}
        body = b"".join(web.application.wsgi_app(environ, refused(theirs)))
        assert b"400 BAD REQUEST" in ours.recv(4096)
        assert b"cannot be opened" in body


def test_it_works_in_the_server_of_tests_too(gateway_app: Flask, web: FlaskClient, rich: Person) -> None:
    with (
        serving(gateway_app) as address,
        connect(socket_address(address), additional_headers=rich.headers) as connection,
    ):
        assert Socket(connection).response(store=False)["status"] == "completed"
