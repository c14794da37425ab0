"""The gateway under gunicorn with gevent workers: the openai client, many streams, disconnecting clients."""

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests
from flask import Flask

from tests.factories import Person
from tests.fakes import upstream as fakes
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import Facts, wait
from tests.server import running

TOOL = {
    "type": "function",
    "function": {
        "name": "measure_column",
        "description": "Measure a column",
        "parameters": {
            "type": "object",
            "properties": {"column": {"type": "integer"}},
            "required": ["column"],
        },
    },
}


@pytest.fixture(scope="module")
def server(
    app: Flask, postgres_url: str, fake_server: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a running server whose providers are the scripted upstream."""
    with running(
        postgres_url,
        tmp_path_factory.mktemp("server"),
        OPENAI_API_KEY="sk-operator-openai",
        OPENAI_BASE_URL=f"{fake_server.url}/openai",
    ) as address:
        yield address


@pytest.fixture
def ai(server: str, rich: Person, fake: FakeUpstream) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=rich.token, max_retries=0) as client:
        yield client


def test_openai_client_lists_models(ai: openai.OpenAI) -> None:
    assert "stoa/demo" in [model.id for model in ai.models.list()]
    assert ai.models.retrieve("stoa/demo").owned_by == "stoa"


def test_openai_client_completes(ai: openai.OpenAI, facts: Facts) -> None:
    answer = ai.chat.completions.create(
        model="stoa/demo", messages=[{"role": "user", "content": "Write a page about columns."}]
    )
    assert "columns" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    call = facts.call()
    assert (call.output_tokens, call.message_id) == (answer.usage.completion_tokens, answer.id)
    assert call.credits >= 1


def test_speech_is_cut_off_where_it_fails(ai: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    kind = {"Content-Type": "audio/mpeg"}
    head = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: 9999\r\n\r\n"
    fake.will(fakes.answer(b"ID3" * 9_999, headers=kind), fakes.raw(head + b"ID3" * 99))
    assert len(ai.audio.speech.create(model="tts-1", voice="nova", input="Hello").content) == 29_997
    with pytest.raises(Exception, match=r"(?i)incomplete|connection"):
        ai.audio.speech.create(model="tts-1", voice="nova", input="Hello")
    wait(lambda: [call.state for call in facts.calls()] == ["settled", "settled"])
    assert [call.error for call in facts.calls()] == [None, "upstream_cut"]


def test_a_large_upload_is_transcribed(ai: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    fake.will(fakes.answer({"text": "Hi.", "usage": {"type": "duration", "seconds": 9}}))
    assert ai.audio.transcriptions.create(model="whisper-1", file=("a.webm", b"x" * (24 << 20))).text == "Hi."
    with pytest.raises(openai.APIStatusError) as refused:
        ai.audio.transcriptions.create(model="whisper-1", file=("a.webm", b"x" * (27 << 20)))
    assert refused.value.status_code == 413
    assert len(fake.requests[0].raw) > 24 << 20
    assert facts.call().parts == {"seconds": 9}


def test_openai_client_streams(ai: openai.OpenAI, facts: Facts) -> None:
    chunks = list(
        ai.chat.completions.create(
            model="stoa/demo",
            messages=[{"role": "user", "content": 'Say "hello there".'}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "hello there"
    assert chunks[-1].usage is not None
    assert facts.call().output_tokens == chunks[-1].usage.completion_tokens


def test_openai_clients_stream_helper(ai: openai.OpenAI) -> None:
    with ai.chat.completions.stream(
        model="stoa/demo", messages=[{"role": "user", "content": 'Say "hello there".'}]
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content == "hello there"


@pytest.mark.parametrize("streaming", [False, True])
def test_openai_client_calls_a_tool_and_gets_its_answer(ai: openai.OpenAI, streaming: bool) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "Use measure_column on column 3."}]
    options = {"model": "stoa/demo", "tools": [TOOL]}
    if streaming:
        with ai.chat.completions.stream(messages=messages, **options) as stream:  # type: ignore[call-arg]
            choice = stream.get_final_completion().choices[0]
    else:
        choice = ai.chat.completions.create(messages=messages, **options).choices[0]  # type: ignore[call-overload]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("measure_column", '{"column":3}')
    messages += [
        {
            "role": "assistant",
            "tool_calls": [{"id": call.id, "type": "function", "function": call.function.to_dict()}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": '{"height": 5.4}'},
    ]
    answer = ai.chat.completions.create(messages=messages, **options)  # type: ignore[call-overload]
    assert "5.4" in answer.choices[0].message.content


def test_openai_clients_errors(ai: openai.OpenAI, server: str) -> None:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError, match="unknown or expired"):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model="stoa/demo", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError, match="not served here"):
        ai.chat.completions.create(model="mistral/x", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="'messages'"):
        ai.chat.completions.create(model="stoa/demo", messages=[])


def test_openai_client_sees_a_broken_stream(ai: openai.OpenAI, fake: FakeUpstream) -> None:
    fake.will(fakes.stream(cut_after=4))
    stream = ai.chat.completions.create(
        model="openai/gpt-4o-mini", messages=[{"role": "user", "content": "x"}], stream=True
    )
    with pytest.raises(openai.APIError, match="closed the connection"):
        list(stream)


def test_disconnected_client_is_billed_once(
    server: str, ai: openai.OpenAI, fake: FakeUpstream, facts: Facts
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks("word " * 60), gate, 5))
    stream = ai.chat.completions.create(
        model="openai/gpt-4o-mini", messages=[{"role": "user", "content": "x"}], stream=True
    )
    assert next(iter(stream))
    stream.close()
    time.sleep(0.1)
    gate.set()
    call = facts.call()
    assert (call.state, call.usage_source, call.output_tokens) == ("settled", "provider", 20)
    assert len(facts.messages()) == 1


def test_many_streams_at_once_are_all_settled(ai: openai.OpenAI, fake: FakeUpstream, facts: Facts) -> None:
    fake.will(fakes.stream(delay=0.05))
    count = 60

    def one(_: int) -> int:
        return len(
            list(
                ai.chat.completions.create(
                    model="openai/gpt-4o-mini",
                    messages=[{"role": "user", "content": "x"}],
                    stream=True,
                    max_tokens=9,
                )
            )
        )

    with ThreadPoolExecutor(count) as pool:
        lengths = list(pool.map(one, range(count)))
    assert set(lengths) == {6}
    wait(lambda: facts.holds() == 0)
    calls = facts.calls()
    assert len(calls) == count
    assert {(call.state, call.usage_source, call.error) for call in calls} == {("settled", "provider", None)}


def test_large_bodies_are_refused_however_they_are_sent(server: str, rich: Person) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"model":"stoa/demo","messages":[{"role":"user","content":"'
        for _ in range(21):
            yield b"x" * (1 << 20)
        yield b'"}]}'

    for data in (pieces(), b"".join(pieces())):
        answer = requests.post(f"{server}/v1/chat/completions", data=data, headers=rich.headers, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/agent-runs", "/login"])
def test_a_chunked_body_that_breaks_its_framing_is_400(server: str, rich: Person, path: str) -> None:
    port = int(server.rsplit(":", 1)[1])
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rich.token}\r\n"
    with socket.create_connection(("localhost", port), timeout=60) as wire:
        wire.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\nZZ\r\nabc\r\n\r\n".encode())
        assert wire.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "path",
    [
        "/chat/completions",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/v1/chat/completions",
        "/v1/chat%2Fcompletions/",
        "/V1/chat/completions?stream=1",
        "http://localhost//v1/chat/completions",
    ],
)
def test_mistyped_urls_are_not_redirected(server: str, rich: Person, path: str) -> None:
    # a raw socket, because clients normalise the URL
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 60) as line:
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: https://app.example.org\r\n"
        key = f"Authorization: bearer   {rich.token}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        line.sendall((head + key).encode())
        answer = b"".join(iter(lambda: line.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 404")
    assert "content-type: application/json" in answer.lower()
    assert "access-control-allow-origin: *" in answer.lower()
    assert "/v1/chat/completions." in answer


CHAT = b'{"model": "stoa/demo", "messages": [{"role": "user", "content": "hi"}]}'
STREAMED = CHAT[:-1] + b', "stream": true}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT)
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YQ==\r\n"
)
ONE_MODEL = "GET /v1/models/stoa/demo HTTP/1.1"
LINES: list[tuple[str, str, bytes, int, str]] = [
    ("POST /v1%2Fchat/completions HTTP/1.1", "", CHAT, 200, "chat.completion"),
    ("POST /v1/chat%2fcompletions?api-version=1&x=%2F HTTP/1.1", "", CHAT, 200, "chat.completion"),
    ("POST http://elsewhere.example/v1/chat/completions HTTP/1.1", "", CHAT, 200, "chat.completion"),
    ("GET https://elsewhere.example/v1/models/stoa/demo HTTP/1.1", "", b"", 200, "stoa/demo"),
    ("POST /v1/chat/completions HTTP/1.0", "", CHAT, 200, "chat.completion"),
    ("POST /v1/chat/completions HTTP/1.0", "Connection: keep-alive\r\n", STREAMED, 200, "data: [DONE]"),
    ("POST /v1/chat/completions HTTP/1.1", "Expect: 100-continue\r\n", CHAT, 100, "chat.completion"),
    ("POST /v1/chat/completions HTTP/1.1", "Transfer-Encoding: chunked\r\n", CHUNKED, 200, "chat.completion"),
    ("POST /v1/chat/completions HTTP/1.1", "", b"", 400, "not valid JSON"),
    ("POST /v1/./chat/completions HTTP/1.1", "", CHAT, 404, "POST http"),
    ("GET /v1/%2e%2e/v1/models HTTP/1.1", "", b"", 404, "/v1/models."),
    ("GET /v1/%ff%fe HTTP/1.1", "", b"", 404, "unknown_url"),
    ("GET /v1/%00 HTTP/1.1", "", b"", 404, "unknown_url"),
    ("GET /v1/%0d%0aX-Evil:%201 HTTP/1.1", "", b"", 404, "unknown_url"),
    (f"GET /v1/{'x' * 5000} HTTP/1.1", "", b"", 404, "unknown_url"),
    ("GET /v1/responses HTTP/1.1", UPGRADE, b"", 400, "cannot be opened"),
    ("GET /v1/chat/completions HTTP/1.1", UPGRADE, b"", 405, "method_not_allowed"),
    ("PROPFIND /v1/chat/completions HTTP/1.1", "", b"", 405, "method_not_allowed"),
    ("BREW /v1/nothing HTTP/1.1", "", b"", 404, "unknown_url"),
    (ONE_MODEL, "Authorization: Bearer {0}\r\n", b"", 200, "stoa/demo"),
    (ONE_MODEL, "Authorization: Bearer other\r\n", b"", 401, "invalid_api_key"),
    (ONE_MODEL, "X-Api-Key: {0}\r\nX-Api-Key: {0}\r\n", b"", 200, "stoa/demo"),
    (ONE_MODEL, "X-Api-Key: Bearer {0}\r\n", b"", 200, "stoa/demo"),
    (ONE_MODEL, "X_Api_Key: other\r\n", b"", 200, "stoa/demo"),
]


@pytest.mark.parametrize(
    ("line", "headers", "body", "status", "words"),
    LINES,
    ids=[f"{line[:50]} {headers[:30]!r}" for line, headers, *_ in LINES],
)
def test_raw_request_lines(
    server: str, rich: Person, line: str, headers: str, body: bytes, status: int, words: str
) -> None:
    host, _, port = server.removeprefix("http://").partition(":")
    if body and not headers.startswith("Transfer"):
        headers += f"Content-Length: {len(body)}\r\n"
    if "Connection" not in headers:
        headers += "Connection: close\r\n"
    head = f"{line}\r\nHost: x\r\nAuthorization: Bearer {{0}}\r\n{headers}\r\n".format(rich.token)
    with socket.create_connection((host, int(port)), 60) as wire:
        wire.sendall(head.encode() + body)
        if "Upgrade" in headers:
            wire.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: wire.recv(65536), b"")).decode()
    assert int(answer.split(" ", 2)[1]) == status
    assert words in answer
    assert "\r\nX-Evil" not in answer
    assert "<html" not in answer


def test_a_page_of_another_origin_calls_the_started_server(server: str, rich: Person) -> None:
    origin = {"Origin": "https://app.example.org"}
    preflight_headers = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    address = f"{server}/v1/chat/completions"
    preflight = requests.options(address, headers=origin | preflight_headers, timeout=60)
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization"
    body = {"model": " Stoa/Demo ", "messages": [{"role": "user", "content": "Hi."}], "stream": True}
    key = {"Authorization": f"BEARER {rich.token}"}
    for headers, status in ((origin | key, 200), (origin, 401)):
        answer = requests.post(address, json=body, headers=headers, timeout=60)
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")
    head = requests.head(f"{server}/v1/models", headers=key, timeout=60)
    assert (head.status_code, head.content) == (200, b"")


def test_metrics_add_up_over_the_workers(server: str, ai: openai.OpenAI) -> None:
    def figure() -> float:
        with urllib.request.urlopen(f"{server}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        wanted = 'stoa_calls_total{door="openai",outcome="settled",provider="stoa"} '
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    before = figure()
    for _ in range(8):
        ai.chat.completions.create(model="stoa/demo", messages=[{"role": "user", "content": 'Say "x".'}])
    wait(lambda: figure() == before + 8)


def test_stopping_server_settles_streams_of_disconnected_clients(
    postgres_url: str,
    rich: Person,
    fake: FakeUpstream,
    facts: Facts,
    tmp_path: Path,
) -> None:
    gate = threading.Event()
    fake.will(fakes.pausing(fakes.chunks("one two three four"), gate, 4))
    settings = {
        "OPENAI_API_KEY": "sk-operator-openai",
        "OPENAI_BASE_URL": f"{fake.url}/openai",
        "GUNICORN_CMD_ARGS": "--graceful-timeout 6",
    }
    body = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with running(postgres_url, tmp_path, workers=1, **settings) as address:
        url = f"{address}/v1/chat/completions"
        with requests.post(url, json=body, headers=rich.headers, stream=True, timeout=60) as answer:
            seen = b""
            for piece in answer.iter_content(None):
                seen += piece
                if b"three" in seen:
                    break
        time.sleep(0.3)
        assert facts.holds() == 1
    gate.set()
    call = facts.call()
    assert (call.state, call.usage_source, call.error) == ("settled", "counted", "server_stopping")
    assert call.output_tokens == 3
