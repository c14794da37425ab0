"""A scripted provider in a separate process.

The last message of each request is a `Script` as JSON. `/seen` reports the received requests and completed responses.
The process exits with its parent.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from models.core.settings import ROOT
from tests.fakes.upstream import chunk, completion, sse, usage

PROMPT, COMPLETION = 40, 60


@dataclass
class Script:
    """One response: length, delays, reported usage, and fault.

    `id` becomes the id of the response and of its `message`. `use` replaces the usage object; if `reports` is false,
    there is none.
    """

    id: str
    words: int = 8
    first: float = 0.0
    """Seconds before the first byte."""
    pace: float = 0.0
    """Seconds between words."""
    prompt: int = PROMPT
    completion: int = COMPLETION
    cost: float | None = None
    """Reported cost in dollars."""
    reports: bool = True
    use: dict[str, Any] | None = None
    fault: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    tools: list[str] = field(default_factory=list)
    """Commands that it asks for first, one in each response, whose ids end with `-0`, `-1` and so on."""

    @property
    def text(self) -> str:
        return " ".join(f"w{index}" for index in range(self.words))

    def usage(self) -> dict[str, Any] | None:
        if not self.reports:
            return None
        if self.use is not None:
            return self.use
        cost = {} if self.cost is None else {"cost": self.cost}
        return usage(self.prompt, self.completion, **cost)

    def message(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": json.dumps(asdict(self))}]


class Upstream:
    """Handle of a running provider process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def seen(self) -> dict[str, dict[str, int]]:
        """By script id: number of requests (`requests`) and of completed responses (`ended`)."""
        with urllib.request.urlopen(f"{self.url}/seen", timeout=20) as answer:
            found: dict[str, dict[str, int]] = json.load(answer)
        return found


@contextlib.contextmanager
def running() -> Iterator[Upstream]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.proof.upstream"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield Upstream(int(process.stdout.readline()))
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


# -- inside the process --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """The answer of a route without a script."""

    body: bytes
    stream: bytes = b""


USED = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
IMAGES = Plain(
    json.dumps({"created": 1, "data": [{"b64_json": "aGk="}], "usage": USED}).encode(),
    sse({"type": "image_generation.completed", "b64_json": "aGk=", "usage": USED}),
)
HEARD = Plain(json.dumps({"text": "Hi", "usage": {"type": "duration", "seconds": 1}}).encode())
PLAIN = {
    "/images/generations": IMAGES,
    "/images/edits": IMAGES,
    "/audio/transcriptions": HEARD,
    "/audio/translations": HEARD,
    "/audio/speech": Plain(
        b"audio",
        sse({"type": "speech.audio.delta", "audio": "aGk="})
        + sse({"type": "speech.audio.done", "usage": USED}),
    ),
    "/rerank": Plain(
        json.dumps({"results": [{"index": 0, "relevance_score": 0.9}], "usage": {"search_units": 1}}).encode()
    ),
}


class Provider:
    def __init__(self) -> None:
        self.log: dict[str, dict[str, int]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError):
            while await self.answer(reader, writer):
                pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        if head.startswith("GET /seen"):
            writer.write(response(json.dumps(self.log).encode()))
            await writer.drain()
            return True
        lengths = [line[15:] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        raw = await reader.readexactly(int(lengths[0]))
        path = head.split(" ", 2)[1]
        if plain := next((made for end, made in PLAIN.items() if path.endswith(end)), None):
            events = b'"stream":true' in raw or b'"stream_format"' in raw
            writer.write(response(plain.stream if events and plain.stream else plain.body))
            await writer.drain()
            return True
        body = json.loads(raw)
        script = self.script(body)
        log = self.log.setdefault(script.id, {"requests": 0, "ended": 0})
        log["requests"] += 1
        await asyncio.sleep(script.first)
        keep = await self.respond(script, bool(body.get("stream")), str(body["model"]), writer)
        await writer.drain()
        log["ended"] += keep
        return keep

    def script(self, body: dict[str, Any]) -> Script:
        """The script in the request, or a default. Of one with tools what is left of them."""
        try:
            messages = list(body["messages"])
            last = max(index for index, each in enumerate(messages) if each["role"] == "user")
            script = Script(**json.loads(messages[last]["content"]))
        except (ValueError, TypeError, KeyError):
            return Script(f"unscripted-{len(self.log)}")
        if not script.tools:
            return script
        done = sum(each["role"] == "tool" for each in messages[last:])
        return replace(script, id=f"{script.id}-{done}", tools=script.tools[done:])

    async def respond(self, script: Script, stream: bool, model: str, writer: asyncio.StreamWriter) -> bool:
        """Write the response. False: it is incomplete, and the connection is closed."""
        fault = getattr(self, f"fault_{script.fault}", None)
        if fault is not None:
            await fault(script, writer)
            return False
        if script.status != 200:
            error = {"error": {"message": f"the provider says {script.status}", "code": script.status}}
            writer.write(response(json.dumps(error).encode(), script.status, script.headers))
            return True
        if not stream:
            await asyncio.sleep(script.pace * script.words)
            body = json.dumps(completion(script.text, script.usage(), id=script.id, model=model)).encode()
            if script.fault == "cut":
                writer.write(response(body)[:-20])
                return False
            writer.write(response(b'{"choices": [{' if script.fault == "bad_json" else body))
            return True
        head = {"id": script.id, "model": model}
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for index, event in enumerate(events(script, head)):
            if script.fault == "cut" and index == 1 + script.words // 2:
                await writer.drain()
                writer.transport.abort()
                return False
            if writer.is_closing():
                return False
            event_bytes = sse(event)
            writer.write(f"{len(event_bytes):x}\r\n".encode() + event_bytes + b"\r\n")
            if script.pace:
                await writer.drain()
                await asyncio.sleep(script.pace)
        writer.write(b"0\r\n\r\n")
        return True

    async def fault_silent(self, script: Script, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def fault_hang_up(self, script: Script, writer: asyncio.StreamWriter) -> None:
        pass

    async def fault_no_http(self, script: Script, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 what is this\r\n\r\n")

    async def fault_big_headers(self, script: Script, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Big: " + b"a" * (64 << 10) + b"\r\n\r\n")

    async def fault_huge(self, script: Script, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n"
        )
        block = b" " * (1 << 20)
        for _ in range(100):
            writer.write(block)
            await writer.drain()


def events(script: Script, head: dict[str, str]) -> Iterator[Any]:
    yield chunk({"role": "assistant", "content": ""}, **head)
    if script.tools:
        asked = {"name": "run_command", "arguments": json.dumps({"command": script.tools[0]})}
        yield chunk(
            {"tool_calls": [{"index": 0, "id": f"call-{script.id}", "type": "function", "function": asked}]},
            **head,
        )
        yield chunk({}, "tool_calls", **head)
        yield chunk(None, usage=script.usage(), **head)
        yield "[DONE]"
        return
    for index in range(script.words):
        if script.fault == "bad_sse" and index == 1:
            yield b"data: {no json at all\n\nnonsense\n\n"
        if script.fault == "half_char" and index == 1:
            yield b'data: {"choices":[{"index":0,"delta":{"content":"\xe4\xb8"},"finish_reason":null}]}\n\n'
        if script.fault == "error_inside" and index == script.words // 2:
            yield {**chunk(None, **head), "error": {"message": "the model fell over", "code": 502}}
            return
        yield chunk({"content": f"w{index}" if not index else f" w{index}"}, **head)
    yield chunk({}, "stop", **head)
    use = script.usage()
    if use is not None:
        yield chunk(None, usage=use, **head)
    yield "[DONE]"


def response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def main() -> None:
    server = await asyncio.start_server(Provider().serve, "127.0.0.1", 0, backlog=2048, limit=64 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
