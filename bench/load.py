"""The load: HTTP/1.1 over raw asyncio protocols, cheap enough (a tenth of a core at 1,000 calls/s) not to be the bottleneck.

Three shapes: `closed` (each connection sends the next call when the last is answered: throughput), `paced` (a steady
rate whatever the answers do, several targets taking turns: latency), `held` (streams open at once).
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
    """Where calls go, and the requests that are sent in turn."""

    name: str
    port: int
    requests: Sequence[bytes] = field(repr=False)


def request(
    model: str, headers: dict[str, str], *, stream: bool = False, path: str = "/v1/chat/completions"
) -> bytes:
    """A chat completion call, ready to be written."""
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
    """How one call went. Seconds; `first` is the time to the first byte of the body."""

    status: int
    first: float
    last: float
    whole: bool = True
    tail: bytes = b""


class _Connection(asyncio.Protocol):
    """One kept connection, one call at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.done: Callable[[Answer], None] | None = None
        self.first_seen: Callable[[], None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._started = 0.0
        self._status = 0
        self._first = 0.0
        self._left = -1  # bytes of the body to come; -1: chunked, or the head is not read
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
            head, mark, data = self._head.partition(b"\r\n\r\n")
            if not mark:
                return
            self._in_body = True
            self._status = int(head[9:12])
            lower = head.lower()
            at = lower.find(b"content-length:")
            self._left = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else -1
            if self._left == 0:
                self._finish()
                return
            if not data:
                return
        if not self._first:
            self._first = time.perf_counter()
            if self.first_seen is not None:
                self.first_seen()
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
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
    """What a closed loop saw."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list, repr=False)

    @property
    def rate(self) -> float:
        """Good calls per second."""
        return self.calls / self.seconds if self.seconds else 0.0


def closed(target: Target, *, connections: int, seconds: float, calls: int | None = None) -> Throughput:
    """As many calls as `connections` can have answered in `seconds` (or until there were `calls`)."""
    return _run(_closed(target, connections, seconds, calls))


async def _closed(target: Target, connections: int, seconds: float, calls: int | None) -> Throughput:
    seen = Throughput()
    requests = itertools.cycle(target.requests)
    protocols = [await _connect(target.port) for _ in range(connections)]
    began = time.perf_counter()
    deadline = began + seconds
    busy = len(protocols)
    over = asyncio.get_running_loop().create_future()

    def drive(protocol: _Connection) -> None:
        def done(answer: Answer) -> None:
            nonlocal busy
            moment = time.perf_counter()
            if moment < deadline:
                if answer.status == 200 and answer.whole:
                    seen.calls += 1
                    seen.latencies.append(answer.last)
                else:
                    seen.failed += 1
                    seen.statuses[answer.status] = seen.statuses.get(answer.status, 0) + 1
                seen.seconds = moment - began
            if moment < deadline and protocol.transport is not None and (calls is None or seen.calls < calls):
                protocol.call(next(requests), done)
            else:
                busy -= 1
                if not busy:
                    over.set_result(None)

        protocol.call(next(requests), done)

    for protocol in protocols:
        drive(protocol)
    await asyncio.wait_for(over, seconds + 60)
    for protocol in protocols:
        if protocol.transport is not None:
            protocol.transport.abort()
    return seen


def paced(targets: Sequence[Target], *, rate: float, seconds: float) -> dict[str, list[Answer]]:
    """`rate` calls per second at each of the targets, taking turns within each interval, so that all see the same
    moments of the machine."""
    return _run(_paced(targets, rate, seconds))


async def _paced(targets: Sequence[Target], rate: float, seconds: float) -> dict[str, list[Answer]]:
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
        protocol = free.pop() if free else await _connect(target.port)
        over: asyncio.Future[Answer] = loop.create_future()
        protocol.call(next(requests[target.name]), over.set_result)
        found[target.name].append(await over)
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
class Held:
    """What became of streams that were open at once."""

    opened: int = 0
    most_at_once: int = 0
    complete: int = 0
    lost: int = 0
    seconds: float = 0.0


def held(target: Target, *, streams: int, ramp: float, patience: float) -> Held:
    """Open `streams` over `ramp` seconds; each counts as open from its first byte to its last."""
    return _run(_held(target, streams, ramp, patience))


async def _held(target: Target, streams: int, ramp: float, patience: float) -> Held:
    seen = Held()
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
            seen.opened += 1
            seen.most_at_once = max(seen.most_at_once, live)

        try:
            protocol = await _connect(target.port)
        except OSError:
            seen.lost += 1
            return
        over: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        protocol.first_seen = opened
        protocol.call(next(requests), over.set_result)
        answer = None
        try:
            answer = await asyncio.wait_for(over, patience)
        except TimeoutError:
            protocol.done = None
        if counted:
            live -= 1
        if answer and answer.status == 200 and answer.whole and b"data: [DONE]" in answer.tail:
            seen.complete += 1
        else:
            seen.lost += 1
        if protocol.transport is not None:
            protocol.transport.abort()

    await asyncio.gather(*(one(number) for number in range(streams)))
    seen.seconds = time.perf_counter() - began
    return seen


def quantile(values: Sequence[float], part: float) -> float:
    """The nearest-rank quantile; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def _run(what: Coroutine[Any, Any, T]) -> T:
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(what)
    finally:
        gc.enable()
