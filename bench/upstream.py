"""A constant provider: a raw HTTP/1.1 server in one process, started with `python -m bench.upstream`. Prints its port.

`POST /control` with `{"delay": s, "chunks": n, "interval": s}` sets the delay of responses, and the number of chunks of a
stream and the pause between them. Responses are built once; only the id changes.
"""

import asyncio
import gc
import itertools
import json
import os
import resource
from collections.abc import Callable
from typing import cast

INPUT_TOKENS, OUTPUT_TOKENS = 1200, 300
TEXT = "The answer is in the second paragraph, where the author names the three causes. " * 8

_calls = itertools.count()
_run = os.urandom(4).hex()
_settings = {"delay": 0.0, "chunks": 8, "interval": 0.0}


def _next_id() -> bytes:
    return b"chatcmpl-%s-%012d" % (_run.encode(), next(_calls))


_ID = b"chatcmpl-" + b"0" * 8 + b"-" + b"0" * 12
_USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}


def _whole() -> bytes:
    body = {
        "id": _ID.decode(),
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "gpt-4o",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"},
        ],
        "usage": _USAGE,
    }
    raw = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(raw),
        raw,
    )


def _event(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    chunk = {
        "id": _ID.decode(),
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "gpt-4o",
        "choices": [] if more else [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return _http_chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = _whole()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = _event({"content": "and so it goes on "})
STREAM_END = _event({}, "stop") + _event({}, usage=_USAGE) + _http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, separator, rest = self._buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            size = _content_length(head)
            if len(rest) < size:
                return
            body, self._buffer = rest[:size], rest[size:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /control"):
            _settings.update(json.loads(body))
            self._write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._run_after(_settings["delay"], self._stream)
        else:
            self._run_after(_settings["delay"], self._complete)

    def _run_after(self, seconds: float, action: Callable[[], None]) -> None:
        if seconds:
            self._loop.call_later(seconds, action)
        else:
            action()

    def _complete(self) -> None:
        self._write(WHOLE.replace(_ID, _next_id(), 1))

    def _stream(self) -> None:
        id = _next_id()
        chunk, end = CHUNK.replace(_ID, id), STREAM_END.replace(_ID, id)
        self._write(STREAM_HEAD)
        remaining = int(_settings["chunks"])

        def feed() -> None:
            nonlocal remaining
            if self._transport is None:
                return
            if remaining > 0:
                remaining -= 1
                self._write(chunk)
                self._loop.call_later(_settings["interval"], feed)
            else:
                self._write(end)

        if _settings["interval"]:
            feed()
        else:
            self._write(chunk * remaining + end)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _content_length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"content-length:")
    return int(lower[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()
    asyncio.run(_serve())
