"""An asyncio client for hundreds of concurrent calls, which can disconnect after any byte."""

import asyncio
import contextlib
import json
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.proof.upstream import Script

Loaded = TypeVar("Loaded")

CODEBUFF, OPENAI = "/api/v1/chat/completions", "/v1/chat/completions"


@dataclass
class Outcome:
    """How a call ended for its client. `status` None: no response head; `whole`: the complete body was received."""

    script: Script
    status: int | None = None
    body: bytes = b""
    whole: bool = False
    disconnected: bool = False
    error: str = ""
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """A complete response with status 200."""
        return self.status == 200 and self.whole

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def body_of(script: Script, *, model: str, stream: bool, **more: Any) -> bytes:
    body = {"model": model, "messages": script.message(), "stream": stream, **more}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


def run_in_thread(load: Coroutine[Any, Any, Loaded]) -> Loaded:
    """Run a coroutine in a separate thread: the browser of other tests has an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, load).result()


async def call(
    address: str,
    key: str,
    script: Script,
    *,
    model: str,
    stream: bool = False,
    headers: Mapping[str, str] | None = None,
    leave_after: int | None = None,
    timeout: float = 90.0,
    **more: Any,
) -> Outcome:
    """Make a call. `leave_after`: reset the connection after this many response bytes; 0: after sending the request."""
    outcome = Outcome(script)
    raw = body_of(script, model=model, stream=stream, **more)
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            sent = {"Authorization": f"Bearer {key}", **(headers or {})}
            await fetch(address, "POST", OPENAI, sent, raw, outcome, leave_after)
    except (OSError, EOFError, TimeoutError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.seconds = time.monotonic() - began
    if stream and outcome.status == 200:
        outcome.whole = outcome.whole and outcome.body.endswith(b"data: [DONE]\n\n")
    return outcome


async def get(address: str, path: str, headers: dict[str, str], timeout: float = 30.0) -> Outcome:
    outcome = Outcome(Script(path))
    try:
        async with asyncio.timeout(timeout):
            await fetch(address, "GET", path, headers, b"", outcome, None)
    except (OSError, EOFError, TimeoutError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def fetch(
    address: str,
    method: str,
    path: str,
    headers: dict[str, str],
    raw: bytes,
    outcome: Outcome,
    leave_after: int | None,
) -> None:
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + raw)
        await writer.drain()
        data = bytearray()
        try:
            while leave_after is None or len(data) < leave_after:
                limit = 65_536 if leave_after is None else min(65_536, leave_after - len(data))
                chunk = await reader.read(limit)
                if not chunk:
                    break
                data += chunk
            else:
                outcome.disconnected = True
                writer.transport.abort()
        finally:
            parse_response(bytes(data), outcome)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def parse_response(data: bytes, outcome: Outcome) -> None:
    """Parse a raw HTTP response into `outcome`."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return
    first, *lines = head.decode("latin-1").split("\r\n")
    outcome.status = int(first.split(" ")[1])
    outcome.headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if outcome.headers.get("transfer-encoding") == "chunked":
        outcome.body, outcome.whole = decode_chunked(rest)
    else:
        outcome.body = rest
        length = outcome.headers.get("content-length")
        outcome.whole = length is not None and len(rest) == int(length)


def decode_chunked(data: bytes) -> tuple[bytes, bool]:
    chunks, start = [], 0
    while (end := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:end], 16)
        if not size:
            return b"".join(chunks), True
        chunks.append(data[end + 2 : end + 2 + size])
        start = end + 2 + size + 2
    return b"".join(chunks), False
