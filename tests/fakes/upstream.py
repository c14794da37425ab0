"""A scripted provider on loopback: normal responses, streams, stalls, broken connections, wrong data.

`fake.will(behaviour, ...)` queues behaviours, one per request; the last one repeats. A behaviour is a function of the
`Exchange`. Received requests are in `fake.requests`.
"""

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass
class RecordedRequest:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)


@dataclass
class Exchange:
    """One request and the socket to answer it on."""

    request: RecordedRequest
    connection: socket.socket

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def head(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        lines = [
            f"HTTP/1.1 {status} Scripted",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def cut(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.connection.close()


Behaviour = Callable[[Exchange], Any]


class FakeUpstream:
    """The server. `url` is the value for a provider's `…_BASE_URL`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[RecordedRequest] = []
        self.connections = 0
        self.closing = threading.Event()
        self._queue: list[Behaviour] = []
        self._last: Behaviour = answer()
        self._lock = threading.Lock()
        fake = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                fake.connections += 1
                with suppress(OSError):
                    if tls is None:
                        fake._serve(self.request)
                    else:
                        with tls.wrap_socket(self.request, server_side=True) as connection:
                            fake._serve(connection)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 256
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def will(self, *behaviours: Behaviour) -> None:
        """Queue behaviours for the next requests. The last one repeats."""
        with self._lock:
            self._queue = list(behaviours)
            self._last = behaviours[-1]

    def reset(self) -> None:
        self.requests.clear()
        self.connections = 0
        self.will(answer())

    def stop(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = connection.makefile("rb")
        while line := reader.readline():
            method, path, _ = line.decode("latin-1").split(" ", 2)
            headers: dict[str, str] = {}
            while (line := reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            raw = reader.read(int(headers.get("content-length", 0)))
            request = RecordedRequest(method, path, headers, raw)
            with self._lock:
                self.requests.append(request)
                behaviour = self._queue.pop(0) if self._queue else self._last
            if behaviour(Exchange(request, connection)) is CLOSE:
                return


CLOSE = object()
"""Returned by a behaviour to close the connection."""


# -- bodies --------------------------------------------------------------------------------------------------


def usage(prompt: Any = 100, completion: Any = 20, **extra: Any) -> dict[str, Any]:
    total = prompt + completion if isinstance(prompt, int) and isinstance(completion, int) else 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **extra}


def completion(
    text: str = "Hello there.",
    use: Any = "default",
    id: str = "chatcmpl-1",
    model: str = "openai/gpt-5-mini",
    **extra: Any,
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": id,
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": model,
        "provider": "OpenAI",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    if use is not None:
        body["usage"] = usage(cost=0.0123) if use == "default" else use
    return {**body, **extra}


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **extra: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_750_000_000}
    return {**head, "model": "openai/gpt-5-mini", "provider": "OpenAI", "choices": choices, **extra}


def chunks(text: str = "Hello there my friend.", use: Any = "default", **head: Any) -> list[Any]:
    """The events of a normal stream, ending with `[DONE]`."""
    words = text.split(" ")
    events: list[Any] = [chunk({"role": "assistant", "content": ""}, **head)]
    events += [chunk({"content": word if not i else f" {word}"}, **head) for i, word in enumerate(words)]
    events.append(chunk({}, "stop", **head))
    if use is not None:
        events.append(chunk(None, usage=usage(cost=0.0123) if use == "default" else use, **head))
    return [*events, "[DONE]"]


def message(text: str = "Hello there.", **changes: Any) -> dict[str, Any]:
    """An answer of Anthropic's Messages API."""
    use = {"input_tokens": 100, "output_tokens": 20}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    content = [{"type": "text", "text": text}]
    return {
        **head,
        "content": content,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": use,
        **changes,
    }


def message_events(text: str = "Hello there.", **changes: Any) -> list[Any]:
    """The events of a normal stream of it."""
    whole = message(text, **changes)
    started = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    found: list[dict[str, Any]] = [{"type": "message_start", "message": started}, {"type": "ping"}]
    for index, block in enumerate(whole["content"]):
        empty = {"type": "text", "text": ""} if block["type"] == "text" else block
        found.append({"type": "content_block_start", "index": index, "content_block": empty})
        if block["type"] == "text":
            delta = {"type": "text_delta", "text": block["text"]}
            found.append({"type": "content_block_delta", "index": index, "delta": delta})
        found.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
    found += [{"type": "message_delta", "delta": delta, "usage": whole["usage"]}, {"type": "message_stop"}]
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in found]


def sse(event: Any) -> bytes:
    if isinstance(event, bytes):
        return event
    return b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n"


# -- behaviours ----------------------------------------------------------------------------------------------


def answer(
    body: Any = None, status: int = 200, headers: dict[str, str] | None = None, delay: float = 0
) -> Behaviour:
    """A non-streaming response."""

    def behave(exchange: Exchange) -> None:
        time.sleep(delay)
        native = exchange.request.path.endswith("/messages")
        if body is None and exchange.request.raw and exchange.request.body.get("stream"):
            stream(message_events() if native else None)(exchange)
            return
        value = body
        if body is None:
            value = message() if native else completion()
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        exchange.head(
            status, {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}
        )
        exchange.send(raw)

    return behave


def stream(
    events: Iterable[Any] | None = None, *, delay: float = 0, cut_after: int | None = None, whole: bool = True
) -> Behaviour:
    """Chunked server-sent events. `cut_after`: reset after this many events. `whole=False`: omit the last chunk."""

    def behave(exchange: Exchange) -> Any:
        exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for index, event in enumerate(chunks() if events is None else events):
            if index == cut_after:
                exchange.cut()
                return CLOSE
            exchange.chunk(sse(event))
            if delay:
                time.sleep(delay)
        if not whole:
            return CLOSE
        exchange.send(b"0\r\n\r\n")
        return None

    return behave


def pausing(events: list[Any], gate: threading.Event, after: int) -> Behaviour:
    """A stream that waits for `gate` after this many events."""

    def walk() -> Iterator[Any]:
        for index, event in enumerate(events):
            if index == after:
                gate.wait(60)
            yield event

    return stream(walk())


def silent(seconds: float = 30) -> Behaviour:
    """Read the request and never respond."""

    def behave(exchange: Exchange) -> Any:
        time.sleep(seconds)
        return CLOSE

    return behave


def hang_up(exchange: Exchange) -> Any:
    """Close without a response."""
    return CLOSE


def raw(data: bytes) -> Behaviour:
    """Send these bytes, then close."""

    def behave(exchange: Exchange) -> Any:
        exchange.send(data)
        return CLOSE

    return behave


def huge(megabytes: int) -> Behaviour:
    """A non-streaming response of this size."""

    def behave(exchange: Exchange) -> Any:
        exchange.head(200, {"Content-Type": "application/json", "Content-Length": str(megabytes << 20)})
        block = b" " * (1 << 20)
        for _ in range(megabytes):
            exchange.send(block)
        return CLOSE

    return behave


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[FakeUpstream]:
    """Run a fake upstream."""
    fake = FakeUpstream(tls)
    try:
        yield fake
    finally:
        fake.stop()
