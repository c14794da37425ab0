"""Reaching a provider over HTTP: connections kept alive, every wait and every size bounded, nothing followed.

The relay knows only `Upstream` and `ProviderResponse`; what speaks HTTP below them may be exchanged.
"""

import base64
import contextlib
import ipaddress
import itertools
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from models.core.decompression import ALIASES, DECODERS, MAX_ENCODINGS, DecompressionError, decompress

READ = 65_536
MAX_BODY = 32 << 20
"""Bytes of an answer that is not streamed."""
MAX_STREAM = 128 << 20
"""Bytes of a stream."""
MAX_HEAD = 64 << 10
"""Bytes before the body."""
GZIP = b"\x1f\x8b"
"""How gzip begins, and neither JSON nor text."""
KEPT_SECONDS = 60.0
"""How long an unused connection is kept: what a rush of calls opened is not held for ever after it."""


class UpstreamError(Exception):
    """The provider could not be reached, or did not finish what it began. The message is for the client."""

    status = 502
    kind = "upstream_error"
    type = "upstream_error"
    """What clients read as `error.type`."""
    dropped: tuple[str, ...] = ()
    """Keys of the request that it was not sent."""


class Unreachable(UpstreamError):
    """No connection."""

    kind = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Connected, but silent for too long."""

    status = 504
    kind = "upstream_timeout"


class BrokenConnection(UpstreamError):
    """The connection ended early, or what came is not HTTP."""

    kind = "upstream_cut"


class AnswerTooLarge(UpstreamError):
    """More bytes than any answer needs."""

    kind = "upstream_too_large"


class EmptyAnswer(UpstreamError):
    """A success that holds nothing: no answer and no usage."""

    kind = "upstream_empty"


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """What is sent to a provider. Headers carry a secret and are never shown."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: str = "POST"


class ProviderResponse(Protocol):
    """An answer whose head has arrived. Close it on every path."""

    status: int
    headers: Mapping[str, str]

    def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises UpstreamError."""

    def blocks(self) -> Iterator[bytes]:
        """The body in pieces, as it arrives. Raises UpstreamError."""

    def abort(self) -> None:
        """End the connection now; whoever reads from it gets Broken. May be called while another thread reads."""

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it. May be called twice."""


class Upstream(Protocol):
    """Something that answers requests."""

    def send(self, request: ProviderRequest) -> ProviderResponse:
        """Send, and wait for the head of the answer. Raises UpstreamError."""


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """How long to wait, in seconds: to connect, for the first byte, and for each next one."""

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 120.0


@dataclass(frozen=True, slots=True)
class Egress:
    """The way out: proxies, by the scheme of the address that is asked for, and certificates believed besides the system's.

    Proxies are `http://user:password@host:port`. `no_proxy` names what is asked for directly, as `NO_PROXY` does; what
    runs on this machine always is.
    """

    http_proxy: str = field(default="", repr=False)
    https_proxy: str = field(default="", repr=False)
    no_proxy: str = ""
    ca_bundle: Path | None = None

    def way(self, url: str) -> "tuple[_Origin, str]":
        """Where to connect for an address, and what to ask for there."""
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
    """What a kept connection leads to."""

    secure: bool
    host: str
    port: int
    name: str
    """As the `Host` header says it."""
    proxy: str = ""


_Kept = tuple[HTTPConnection, float]


class HttpUpstream:
    """One provider's kept connections, for the life of the process.

    The standard library's client opens them, through proxies and TLS; llhttp reads the answers, since the standard library
    takes a sixth of a worker's time to do it.
    """

    def __init__(
        self, name: str, patience: UpstreamTimeouts, egress: Egress | None = None, *, connections: int = 512
    ) -> None:
        self.name = name
        self.patience = patience
        self._egress = egress or Egress()
        self._way = lru_cache(maxsize=256)(self._egress.way)
        self._most = connections
        self._idle: dict[_Origin, deque[_Kept]] = {}
        self._tls: ssl.SSLContext | None = None
        weakref.finalize(self, _close_all, self._idle)

    def send(self, request: ProviderRequest) -> ProviderResponse:
        place, target = self._way(request.url)
        kept = self._kept(place)
        if kept is not None:
            started = time.monotonic()
            try:
                return self._send(request, place, target, kept)
            except BrokenConnection:
                # A kept connection that the provider closed meanwhile fails at once; what took longer may have
                # been read and paid, and is not sent twice.
                if time.monotonic() - started > 1:
                    raise
        return self._send(request, place, target, self._connect(place))

    def _send(
        self, request: ProviderRequest, place: _Origin, target: str, connection: HTTPConnection
    ) -> ProviderResponse:
        sock: socket.socket = connection.sock
        headers = request.headers
        if place.proxy and not place.secure:
            headers = {**headers, **_credentials(place.proxy)}
        try:
            sock.settimeout(self.patience.first_byte)
            head = _head(place, target, request.method, len(request.body), headers)
            if len(request.body) < READ:
                sock.sendall(head + request.body)
            else:
                sock.sendall(head)
                sock.sendall(request.body)
            answer = _HttpResponse(self, place, connection, sock, request.method == "HEAD")
            sock.settimeout(self.patience.idle)
        except TimeoutError as error:
            connection.close()
            raise UpstreamTimeout(
                f"{self.name} did not begin to answer within {self.patience.first_byte:g} seconds."
            ) from error
        except (HttpParserError, HttpParserUpgrade, OSError, ValueError) as error:
            connection.close()
            raise BrokenConnection(f"{self.name} ended the connection without an answer.") from error
        except BaseException:
            connection.close()
            raise
        return answer

    def _connect(self, place: _Origin) -> HTTPConnection:
        proxy = urlsplit(place.proxy)
        host, port = (proxy.hostname or "", proxy.port or 80) if place.proxy else (place.host, place.port)
        connection: HTTPConnection
        if place.secure:
            connection = HTTPSConnection(host, port, timeout=self.patience.connect, context=self._trusting())
            if place.proxy:
                named = {"Host": f"{place.host}:{place.port}"}
                connection.set_tunnel(place.host, place.port, named | _credentials(place.proxy))
        else:
            connection = HTTPConnection(host, port, timeout=self.patience.connect)
        try:
            connection.connect()
        except (HTTPException, OSError, ValueError) as error:
            connection.close()
            raise Unreachable(f"{self.name} cannot be reached right now.") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _trusting(self) -> ssl.SSLContext:
        if self._tls is None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            if self._egress.ca_bundle is not None:
                context.load_verify_locations(self._egress.ca_bundle)
            self._tls = context
        return self._tls

    def _kept(self, place: _Origin) -> HTTPConnection | None:
        idle = self._idle.get(place)
        while idle:
            try:
                connection, since = idle.pop()
            except IndexError:  # another thread was faster
                return None
            # Looking costs system calls; one that was in use a moment ago is all but surely alive.
            if time.monotonic() - since < 1 or not _has_news(connection.sock):
                return connection
            connection.close()
        return None

    def keep(self, place: _Origin, connection: HTTPConnection) -> None:
        """Take back a connection whose answer was read to its end."""
        idle = self._idle.setdefault(place, deque())
        moment = time.monotonic()
        idle.append((connection, moment))
        with contextlib.suppress(IndexError):  # another thread was faster
            while len(idle) > self._most or idle[0][1] < moment - KEPT_SECONDS:
                idle.popleft()[0].close()


def _on_this_machine(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _credentials(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    both = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}


def _head(place: _Origin, target: str, method: str, size: int, headers: Mapping[str, str]) -> bytes:
    """The request line and headers. Raises ValueError for what would not stay in its line."""
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {place.name}",
        f"Content-Length: {size}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a header contains a line break")
    return head.encode("latin-1") + b"\r\n\r\n"


def _close_all(idle: dict[_Origin, deque[_Kept]]) -> None:
    for kept in idle.values():
        for connection, _ in kept:
            connection.close()


def _has_news(sock: socket.socket) -> bool:
    """Whether an idle connection was closed by the other side, or says something unasked."""
    poll = select.poll()
    try:
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


class _Headers(Mapping[str, str]):
    """By name in any case; what came several times is joined by commas."""

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
        place: _Origin,
        connection: HTTPConnection,
        sock: socket.socket,
        bare: bool,
    ) -> None:
        self.name = upstream.name
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._found = _Headers()
        self._upstream = upstream
        self._place = place
        self._connection = connection
        self._socket = sock
        self._bare = bare
        self._pieces: deque[bytes] = deque()
        self._headed = False
        self._ended = False
        self._closed = False
        self._reusable = False
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._size = 0
        self._body: Iterator[bytes] = self._plain()
        while not self._headed:
            received = sock.recv(READ)
            if not received:
                raise ConnectionError("the connection ended before the answer began")
            self._feed(received)
            if not self._headed and self._size + len(received) > MAX_HEAD:
                raise ValueError("the head of the answer is too large")

    # what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > MAX_HEAD:
            raise ValueError("the head of the answer is too large")
        self._found.add(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:
            self.status, self.headers, self._headed = status, self._found, True
            # an answer to HEAD has the headers of a body, and none
            self._ended = self._bare
            self._reusable = self._bare and self._parser.should_keep_alive()
        elif status == 101:
            raise ValueError("another protocol was not asked for")
        self._found = _Headers()

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._ended = self._headed
        self._reusable = self._headed and self._parser.should_keep_alive()

    def _feed(self, received: bytes) -> None:
        assert self._parser is not None
        try:
            self._parser.feed_data(received)
        except (HttpParserError, HttpParserUpgrade):
            # what comes after the end makes the connection useless, and leaves the answer whole
            if not self._ended:
                raise
            self._reusable = False

    def read(self, limit: int = MAX_BODY) -> bytes:
        pieces: list[bytes] = []
        size = 0
        for piece in self._body:
            size += len(piece)
            if size > limit:
                raise AnswerTooLarge(f"{self.name} sent more than {limit >> 20} MB.")
            pieces.append(piece)
        return b"".join(pieces)

    def blocks(self) -> Iterator[bytes]:
        size = 0
        for piece in self._body:
            size += len(piece)
            if size > MAX_STREAM:
                raise AnswerTooLarge(f"{self.name} sent more than {MAX_STREAM >> 20} MB.")
            yield piece

    def _plain(self) -> Iterator[bytes]:
        """The body as it was before it was packed: some servers pack what was asked to stay plain, and do not say it."""
        pieces = iter(self._read1, b"")
        if coding := self.headers.get("content-encoding"):
            named = [ALIASES.get(name, name) for each in coding.split(",") if (name := each.strip().lower())]
            known = [name for name in named if name in DECODERS][:MAX_ENCODINGS]
            pieces = self._unpacked(pieces, known)
        for piece in pieces:
            if piece.startswith(GZIP):
                pieces = self._unpacked(itertools.chain([piece], pieces), ["gzip"])
            else:
                yield piece
            break
        yield from pieces

    def _unpacked(self, pieces: Iterable[bytes], named: list[str]) -> Iterator[bytes]:
        try:
            yield from decompress(pieces, named, lenient=True)
        except DecompressionError as error:
            raise BrokenConnection(f"{self.name} sent an answer that cannot be unpacked.") from error

    def _read1(self) -> bytes:
        while not self._pieces:
            if self._ended:
                return b""
            try:
                received = self._socket.recv(READ)
                if received:
                    self._feed(received)
            except TimeoutError as error:
                raise UpstreamTimeout(
                    f"{self.name} was silent for {self._upstream.patience.idle:g} seconds."
                ) from error
            except (HttpParserError, HttpParserUpgrade, OSError, ValueError) as error:
                raise self._incomplete() from error
            if not received:
                if "content-length" in self.headers or "transfer-encoding" in self.headers:
                    raise self._incomplete()
                # an answer of unknown length ends with its connection
                self._ended = True
        return self._pieces.popleft()

    def _incomplete(self) -> BrokenConnection:
        return BrokenConnection(f"{self.name} ended the connection before its answer was complete.")

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._ended and self._reusable:
            self._upstream.keep(self._place, self._connection)
        else:
            self._connection.close()
        # the parser holds its answer, and the answer its parser
        self._parser = None
        self._body = iter(())
