"""HTTP client for providers: keep-alive connections, bounded timeouts and sizes, no redirects.

The relay depends only on `Upstream` and `ProviderResponse`, not on the HTTP implementation.
"""

import base64
import contextlib
import ipaddress
import itertools
import select
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from models.core.decompression import ALIASES, DECODERS, MAX_ENCODINGS, DecompressionError, decompress

READ = 65_536
MAX_BODY = 32 << 20
"""Largest response that is not streamed, in bytes."""
MAX_STREAM = 128 << 20
"""Largest stream, in bytes."""
MAX_HEAD = 64 << 10
"""Largest response head, in bytes."""
GZIP = b"\x1f\x8b"
"""The magic number of gzip, with which neither JSON nor text begins."""
IDLE_SECONDS = 60.0
"""How long an idle connection is kept. Those opened by a burst of calls are closed afterwards."""


class UpstreamError(Exception):
    """The provider could not be reached, or its response is incomplete. The message is for the client."""

    status = 502
    kind = "upstream_error"
    type = "upstream_error"
    """The client's `error.type`."""
    dropped: tuple[str, ...] = ()
    """Request keys left out for the provider."""
    details: Any = None
    """More about the error for the client, as JSON."""
    arrived: Any = None
    """What had arrived of an answer that is not charged, as `message.response`."""
    before_answer = False
    """Nothing of a response had arrived."""
    retry_after: str | None = None
    """Seconds until a retry may succeed, if known."""


class Unreachable(UpstreamError):
    """The connection could not be opened."""

    kind = "upstream_unreachable"
    before_answer = True


class UpstreamResting(UpstreamError):
    """The upstream failed too often of late, and is left alone for a while."""

    status = 503
    kind = "upstream_unavailable"
    before_answer = True

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.retry_after = str(max(ceil(seconds), 1))


class UpstreamTimeout(UpstreamError):
    """The provider sent nothing for too long."""

    status = 504
    kind = "upstream_timeout"


class BrokenConnection(UpstreamError):
    """The connection ended early, or the response is not HTTP."""

    kind = "upstream_cut"


class AnswerTooLarge(UpstreamError):
    """The response exceeds its size limit."""

    kind = "upstream_too_large"


class EmptyAnswer(UpstreamError):
    """A successful response without content and without usage."""

    kind = "upstream_empty"


Opened = Callable[[Callable[[], None]], None]
"""Is told a function that aborts what a request waits for, from another thread."""


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """A request to a provider. Its headers contain a secret and are never shown."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"
    opened: Opened | None = field(default=None, repr=False, compare=False)
    """Called with a function that aborts the request from another thread, until the response has its own."""
    timeouts: "UpstreamTimeouts | None" = None
    """Instead of the upstream's own."""


class ProviderResponse(Protocol):
    """A response whose head has arrived. Close it on every path."""

    status: int
    headers: Mapping[str, str]

    def read(self, limit: int = MAX_BODY) -> bytes:
        """Read the whole body. Raises UpstreamError."""

    def blocks(self) -> Iterator[bytes]:
        """Iterate over the body as it arrives. Raises UpstreamError."""

    def abort(self) -> None:
        """Close the connection now; a concurrent reader gets BrokenConnection. Safe to call from another thread."""

    def close(self) -> None:
        """Release the connection for reuse if the body was read to its end, else close it. May be called twice."""


class Upstream(Protocol):
    """Sends requests to one provider."""

    def send(self, request: ProviderRequest) -> ProviderResponse:
        """Send, and wait for the head of the response. Raises UpstreamError."""


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """Timeouts in seconds: to connect, for the first byte, between later bytes, and for the whole response."""

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 120.0
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Egress:
    """Outgoing connections: a proxy per URL scheme, and a CA bundle trusted in addition to the system's.

    Proxies are `http://user:password@host:port`. `no_proxy` has the syntax of `NO_PROXY`; loopback is never proxied.
    """

    http_proxy: str = field(default="", repr=False)
    https_proxy: str = field(default="", repr=False)
    no_proxy: str = ""
    ca_bundle: Path | None = None

    def resolve(self, url: str) -> "tuple[_Origin, str]":
        """The origin to connect to for a URL, and the request target to send."""
        parts = urlsplit(url)
        secure, host = parts.scheme == "https", parts.hostname or ""
        port = parts.port or (443 if secure else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        name = parts.netloc.rpartition("@")[2]
        proxy = self.https_proxy if secure else self.http_proxy
        if (
            not proxy
            or _on_this_machine(host)
            or proxy_bypass_environment(f"{host}:{port}", {"no": self.no_proxy})
        ):
            return _Origin(secure, host, port, name), target
        if not secure:
            target = f"http://{name}{target}"
        return _Origin(secure, host, port, name, proxy), target


class _Origin(NamedTuple):
    """The key under which idle connections are pooled."""

    secure: bool
    host: str
    port: int
    name: str
    """The value of the `Host` header."""
    proxy: str = ""


_Idle = tuple[HTTPConnection, float]


class HttpUpstream:
    """HTTP client of one provider, with a connection pool for the life of the process.

    `http.client` opens connections, through proxies and TLS; llhttp parses responses, which took `http.client` a sixth of a
    worker's time.
    """

    def __init__(
        self, name: str, timeouts: UpstreamTimeouts, egress: Egress | None = None, *, connections: int = 512
    ) -> None:
        self.name = name
        self.timeouts = timeouts
        self._egress = egress or Egress()
        self._resolve = lru_cache(maxsize=256)(self._egress.resolve)
        self._max_idle = connections
        self._idle: dict[_Origin, deque[_Idle]] = {}
        self._tls: ssl.SSLContext | None = None
        weakref.finalize(self, _close_all, self._idle)

    def send(self, request: ProviderRequest) -> ProviderResponse:
        origin, target = self._resolve(request.url)
        idle_connection = self._take_idle(origin)
        if idle_connection is not None:
            started = time.monotonic()
            try:
                return self._send(request, origin, target, idle_connection)
            except BrokenConnection:
                # An idle connection that the provider has closed fails at once. A request that took longer may have
                # been processed and charged, and is not sent twice.
                if time.monotonic() - started > 1:
                    raise
        return self._send(request, origin, target, self._connect(origin, request))

    def _send(
        self, request: ProviderRequest, origin: _Origin, target: str, connection: HTTPConnection
    ) -> ProviderResponse:
        sock: socket.socket = connection.sock
        headers = request.headers
        timeouts = request.timeouts or self.timeouts
        if request.opened is not None:
            request.opened(partial(_shut_down, sock))
        if origin.proxy and not origin.secure:
            headers = {**headers, **_credentials(origin.proxy)}
        try:
            sock.settimeout(timeouts.first_byte)
            head = _request_head(origin, target, request.method, len(request.body), headers)
            if len(request.body) < READ:
                sock.sendall(head + request.body)
            else:
                sock.sendall(head)
                sock.sendall(request.body)
            response = _HttpResponse(self, origin, connection, sock, request.method == "HEAD", timeouts)
            sock.settimeout(timeouts.idle)
        except TimeoutError as error:
            connection.close()
            failed = UpstreamTimeout(f"{self.name} did not respond within {timeouts.first_byte:g} seconds.")
            failed.before_answer = True
            raise failed from error
        except (HttpParserError, HttpParserUpgrade, OSError, ValueError) as error:
            connection.close()
            broken = BrokenConnection(f"{self.name} closed the connection without a response.")
            broken.before_answer = True
            raise broken from error
        except BaseException:
            connection.close()
            raise
        return response

    def _connect(self, origin: _Origin, request: ProviderRequest) -> HTTPConnection:
        seconds = (request.timeouts or self.timeouts).connect
        proxy = urlsplit(origin.proxy)
        host, port = (proxy.hostname or "", proxy.port or 80) if origin.proxy else (origin.host, origin.port)
        connection: HTTPConnection
        if origin.secure:
            connection = HTTPSConnection(host, port, timeout=seconds, context=self._tls_context())
            if origin.proxy:
                connect_headers = {"Host": f"{origin.host}:{origin.port}"}
                connection.set_tunnel(origin.host, origin.port, connect_headers | _credentials(origin.proxy))
        else:
            connection = HTTPConnection(host, port, timeout=seconds)
        connection._create_connection = partial(_open_socket, opened=request.opened)  # type: ignore[attr-defined]
        try:
            connection.connect()
        except (HTTPException, OSError, ValueError) as error:
            connection.close()
            raise Unreachable(f"{self.name} cannot be reached right now.") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            if self._egress.ca_bundle is not None:
                context.load_verify_locations(self._egress.ca_bundle)
            self._tls = context
        return self._tls

    def _take_idle(self, origin: _Origin) -> HTTPConnection | None:
        idle = self._idle.get(origin)
        while idle:
            try:
                connection, since = idle.pop()
            except IndexError:  # another thread was faster
                return None
            # The check costs system calls; skip it for a connection used within the last second.
            if time.monotonic() - since < 1 or not _is_readable(connection.sock):
                return connection
            connection.close()
        return None

    def release(self, origin: _Origin, connection: HTTPConnection) -> None:
        """Return a connection to the pool after its response was read to its end."""
        idle = self._idle.setdefault(origin, deque())
        current = time.monotonic()
        idle.append((connection, current))
        with contextlib.suppress(IndexError):  # another thread was faster
            while len(idle) > self._max_idle or idle[0][1] < current - IDLE_SECONDS:
                idle.popleft()[0].close()


def _open_socket(
    address: tuple[str, int], seconds: float, source: None = None, *, opened: Opened | None = None
) -> socket.socket:
    """Connect within `seconds` in all, however many addresses the host has. `opened` is told how to abort that. Raises OSError."""
    end = time.monotonic() + seconds
    error: OSError | None = None
    aborted = threading.Event()

    def abort(sock: socket.socket) -> None:
        aborted.set()
        _shut_down(sock)

    for family, kind, protocol, _, found in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
        remaining = end - time.monotonic()
        if remaining <= 0 or aborted.is_set():
            break
        sock = socket.socket(family, kind, protocol)
        if opened is not None:
            opened(partial(abort, sock))
        try:
            if aborted.is_set():
                raise ConnectionAbortedError("the request was aborted")
            sock.settimeout(remaining)
            sock.connect(found)
        except OSError as failed:
            error = failed
            sock.close()
        else:
            sock.settimeout(seconds)
            return sock
    raise error or TimeoutError("no address answered in time")


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _on_this_machine(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _credentials(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


def _request_head(origin: _Origin, target: str, method: str, size: int, headers: Mapping[str, str]) -> bytes:
    """The request line and headers. Raises ValueError for line breaks and NUL in them."""
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {origin.name}",
        f"Content-Length: {size}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a header contains a line break")
    return head.encode("latin-1") + b"\r\n\r\n"


def _close_all(idle: dict[_Origin, deque[_Idle]]) -> None:
    for idle_connection in idle.values():
        for connection, _ in idle_connection:
            connection.close()


def _is_readable(sock: socket.socket) -> bool:
    """Whether an idle connection was closed by the peer, or received unexpected data."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


class _Headers(Mapping[str, str]):
    """Case-insensitive headers; repeated ones are joined by commas."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def add(self, name: str, value: str) -> None:
        before = self._values.get(name)
        self._values[name] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _HttpResponse:
    def __init__(
        self,
        upstream: HttpUpstream,
        origin: _Origin,
        connection: HTTPConnection,
        sock: socket.socket,
        head_only: bool,
        timeouts: UpstreamTimeouts,
    ) -> None:
        self.name = upstream.name
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._pending_headers = _Headers()
        self._upstream = upstream
        self._origin = origin
        self._connection = connection
        self._socket = sock
        self._head_only = head_only
        self._idle = timeouts.idle
        self._end = None if timeouts.total is None else time.monotonic() + timeouts.total
        self._chunks: deque[bytes] = deque()
        self._head_complete = False
        self._ended = False
        self._closed = False
        self._reusable = False
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._size = 0
        self._body: Iterator[bytes] = self._decoded()
        while not self._head_complete:
            data = sock.recv(READ)
            if not data:
                raise ConnectionError("the connection ended before the response began")
            self._feed(data)
            if not self._head_complete and self._size + len(data) > MAX_HEAD:
                raise ValueError("the response head is too large")

    # callbacks of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > MAX_HEAD:
            raise ValueError("the response head is too large")
        self._pending_headers.add(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:
            self.status, self.headers, self._head_complete = status, self._pending_headers, True
            # the response to HEAD has no body
            self._ended = self._head_only
            self._reusable = self._head_only and self._parser.should_keep_alive()
        elif status == 101:
            raise ValueError("unexpected protocol upgrade")
        self._pending_headers = _Headers()

    def on_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._ended = self._head_complete
        self._reusable = self._head_complete and self._parser.should_keep_alive()

    def _feed(self, data: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            # data after the end of the response: keep the response, do not reuse the connection
            if not self._ended:
                raise
            self._reusable = False

    def read(self, limit: int = MAX_BODY) -> bytes:
        chunks: list[bytes] = []
        size = 0
        for chunk in self._body:
            size += len(chunk)
            if size > limit:
                raise AnswerTooLarge(f"{self.name} sent more than {limit >> 20} MB.")
            chunks.append(chunk)
        return b"".join(chunks)

    def blocks(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._body:
            size += len(chunk)
            if size > MAX_STREAM:
                raise AnswerTooLarge(f"{self.name} sent more than {MAX_STREAM >> 20} MB.")
            yield chunk

    def _decoded(self) -> Iterator[bytes]:
        """The decompressed body. Some servers compress although asked not to, without a `Content-Encoding`."""
        chunks = iter(self._read1, b"")
        if coding := self.headers.get("content-encoding"):
            codings = [
                ALIASES.get(name, name) for each in coding.split(",") if (name := each.strip().lower())
            ]
            known = [name for name in codings if name in DECODERS][:MAX_ENCODINGS]
            chunks = self._decompress(chunks, known)
        for chunk in chunks:
            if chunk.startswith(GZIP):
                chunks = self._decompress(itertools.chain([chunk], chunks), ["gzip"])
            else:
                yield chunk
            break
        yield from chunks

    def _decompress(self, chunks: Iterable[bytes], codings: list[str]) -> Iterator[bytes]:
        try:
            yield from decompress(chunks, codings, lenient=True)
        except DecompressionError as error:
            raise BrokenConnection(f"{self.name} sent a response that cannot be decompressed.") from error

    def _read1(self) -> bytes:
        while not self._chunks:
            if self._ended:
                return b""
            try:
                if self._end is not None:
                    self._limit_wait(self._end)
                data = self._socket.recv(READ)
                if data:
                    self._feed(data)
            except TimeoutError as error:
                if self._end is not None:
                    self._limit_wait(self._end)
                raise UpstreamTimeout(f"{self.name} sent nothing for {self._idle:g} seconds.") from error
            except (HttpParserError, HttpParserUpgrade, OSError, ValueError) as error:
                raise self._incomplete() from error
            if not data:
                if "content-length" in self.headers or "transfer-encoding" in self.headers:
                    raise self._incomplete()
                # a response of unknown length ends with its connection
                self._ended = True
        return self._chunks.popleft()

    def _limit_wait(self, end: float) -> None:
        """Wait for the next bytes no longer than until the whole response is due. Raises UpstreamTimeout."""
        remaining = end - time.monotonic()
        if remaining <= 0:
            raise UpstreamTimeout(f"{self.name} did not complete its response in time.")
        self._socket.settimeout(min(self._idle, remaining))

    def _incomplete(self) -> BrokenConnection:
        return BrokenConnection(f"{self.name} closed the connection before its response was complete.")

    def abort(self) -> None:
        _shut_down(self._socket)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._ended and self._reusable:
            self._upstream.release(self._origin, self._connection)
        else:
            self._connection.close()
        # break the reference cycle between parser and response
        self._parser = None
        self._body = iter(())
