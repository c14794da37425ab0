"""Load generator: HTTP/1.1 over raw asyncio protocols. It uses a tenth of a core at 1,000 calls/s.

`closed_loop`: each connection sends its next call after the last response (throughput). `fixed_rate`: a constant rate,
alternating between targets (latency). `open_streams`: concurrent streams.
"""

import asyncio
import gc
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

T = TypeVar("T")

PROMPT = (
    "Read the following passage and answer the question in two sentences. "
    + "It was the custom of the house that whoever came late took the seat by the door and told a story. "
    * 18
)


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the requests that are sent to it in rotation."""

    name: str
    port: int
    requests: Sequence[bytes] = field(repr=False)


def request(
    model: str, headers: dict[str, str], *, stream: bool = False, path: str = "/v1/chat/completions"
) -> bytes:
    """A raw chat completion request."""
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a careful reader."},
            {"role": "user", "content": PROMPT},
        ],
        "max_tokens": 400,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    raw = json.dumps(body, separators=(",", ":")).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(raw)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


@dataclass(slots=True)
class Answer:
    """Result of one call, in seconds. `first`: time to the first byte of the body; `last`: to the last."""

    status: int
    first: float
    last: float
    whole: bool = True
    tail: bytes = b""


class _Connection(asyncio.Protocol):
    """A keep-alive connection with one call at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: Callable[[Answer], None] | None = None
        self.on_first_byte: Callable[[], None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._started = 0.0
        self._status = 0
        self._first = 0.0
        self._remaining = -1  # remaining bytes of the body; -1: chunked, or the head is incomplete
        self._head = b""
        self._in_body = False
        self._tail = b""

    def call(self, raw: bytes, done: Callable[[Answer], None]) -> None:
        self._reset()
        self.done = done
        self._started = time.perf_counter()
        assert self.transport is not None
        self.transport.write(raw)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.done is not None:
            self._finish(whole=False)

    def data_received(self, data: bytes) -> None:
        if self.done is None:
            return
        if not self._in_body:
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            self._in_body = True
            self._status = int(head[9:12])
            lower = head.lower()
            start = lower.find(b"content-length:")
            self._remaining = int(lower[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else -1
            if self._remaining == 0:
                self._finish()
                return
            if not data:
                return
        if not self._first:
            self._first = time.perf_counter()
            if self.on_first_byte is not None:
                self.on_first_byte()
        if self._remaining >= 0:
            self._remaining -= len(data)
            if self._remaining <= 0:
                self._finish()
        else:
            self._tail = (self._tail + data)[-64:]
            if self._tail.endswith(b"0\r\n\r\n"):
                self._finish()

    def _finish(self, *, whole: bool = True) -> None:
        done, self.done = self.done, None
        last = time.perf_counter()
        first = (self._first or last) - self._started
        assert done is not None
        done(Answer(self._status, first, last - self._started, whole, self._tail))


async def _connect(port: int) -> _Connection:
    _, protocol = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
    return protocol


@dataclass(slots=True)
class Throughput:
    """Result of a closed loop."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list, repr=False)

    @property
    def rate(self) -> float:
        """Successful calls per second."""
        return self.calls / self.seconds if self.seconds else 0.0


def closed_loop(target: Target, *, connections: int, seconds: float, calls: int | None = None) -> Throughput:
    """Make calls on `connections` connections for `seconds`, or until `calls` have succeeded."""
    return _run(_closed_loop(target, connections, seconds, calls))


async def _closed_loop(target: Target, connections: int, seconds: float, calls: int | None) -> Throughput:
    result = Throughput()
    requests = itertools.cycle(target.requests)
    protocols = [await _connect(target.port) for _ in range(connections)]
    began = time.perf_counter()
    deadline = began + seconds
    busy = len(protocols)
    finished = asyncio.get_running_loop().create_future()

    def drive(protocol: _Connection) -> None:
        def done(answer: Answer) -> None:
            nonlocal busy
            now = time.perf_counter()
            if now < deadline:
                if answer.status == 200 and answer.whole:
                    result.calls += 1
                    result.latencies.append(answer.last)
                else:
                    result.failed += 1
                    result.statuses[answer.status] = result.statuses.get(answer.status, 0) + 1
                result.seconds = now - began
            if now < deadline and protocol.transport is not None and (calls is None or result.calls < calls):
                protocol.call(next(requests), done)
            else:
                busy -= 1
                if not busy:
                    finished.set_result(None)

        protocol.call(next(requests), done)

    for protocol in protocols:
        drive(protocol)
    await asyncio.wait_for(finished, seconds + 60)
    for protocol in protocols:
        if protocol.transport is not None:
            protocol.transport.abort()
    return result


def fixed_rate(targets: Sequence[Target], *, rate: float, seconds: float) -> dict[str, list[Answer]]:
    """Make `rate` calls per second to each target, alternating, so that all run under the same conditions."""
    return _run(_fixed_rate(targets, rate, seconds))


async def _fixed_rate(targets: Sequence[Target], rate: float, seconds: float) -> dict[str, list[Answer]]:
    loop = asyncio.get_running_loop()
    found: dict[str, list[Answer]] = {target.name: [] for target in targets}
    idle: dict[str, list[_Connection]] = {target.name: [] for target in targets}
    requests: dict[str, Iterator[bytes]] = {
        target.name: itertools.cycle(target.requests) for target in targets
    }
    for target in targets:
        idle[target.name] = [await _connect(target.port) for _ in range(8)]
    waiting: set[asyncio.Task[None]] = set()

    async def one(target: Target) -> None:
        free = idle[target.name]
        while free and free[-1].transport is None:
            free.pop()  # the server closed it while it was idle
        protocol = free.pop() if free else await _connect(target.port)
        finished: asyncio.Future[Answer] = loop.create_future()
        protocol.call(next(requests[target.name]), finished.set_result)
        found[target.name].append(await finished)
        if protocol.transport is not None:
            free.append(protocol)

    step = 1 / rate / len(targets)
    began = loop.time()
    for number in range(int(seconds * rate) * len(targets)):
        pause = began + number * step - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(targets[number % len(targets)]))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    if waiting:
        await asyncio.wait(waiting, timeout=30)
    return found


@dataclass(slots=True)
class StreamResult:
    """Result of concurrent streams."""

    opened: int = 0
    max_open: int = 0
    complete: int = 0
    lost: int = 0
    seconds: float = 0.0


def open_streams(target: Target, *, streams: int, ramp: float, timeout: float) -> StreamResult:
    """Start `streams` over `ramp` seconds. Each counts as open from its first to its last byte."""
    return _run(_open_streams(target, streams, ramp, timeout))


async def _open_streams(target: Target, streams: int, ramp: float, timeout: float) -> StreamResult:
    result = StreamResult()
    requests = itertools.cycle(target.requests)
    live = 0
    began = time.perf_counter()

    async def one(number: int) -> None:
        nonlocal live
        await asyncio.sleep(ramp * number / streams)
        counted = False

        def opened() -> None:
            nonlocal live, counted
            counted = True
            live += 1
            result.opened += 1
            result.max_open = max(result.max_open, live)

        try:
            protocol = await _connect(target.port)
        except OSError:
            result.lost += 1
            return
        finished: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        protocol.on_first_byte = opened
        protocol.call(next(requests), finished.set_result)
        answer = None
        try:
            answer = await asyncio.wait_for(finished, timeout)
        except TimeoutError:
            protocol.done = None
        if counted:
            live -= 1
        if answer and answer.status == 200 and answer.whole and b"data: [DONE]" in answer.tail:
            result.complete += 1
        else:
            result.lost += 1
        if protocol.transport is not None:
            protocol.transport.abort()

    await asyncio.gather(*(one(number) for number in range(streams)))
    result.seconds = time.perf_counter() - began
    return result


def quantile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank quantile; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))] if ordered else 0.0


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(coroutine)
    finally:
        gc.enable()
