"""Reaching a provider over HTTP: connections kept alive, every wait and every size bounded, nothing followed.

The relay knows only `Upstream` and `Answer`; what speaks HTTP below them may be exchanged.
"""

import contextlib
import http.client
import select
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

READ = 65_536
MAX_BODY = 32 << 20
"""Bytes of an answer that is not streamed."""
MAX_STREAM = 128 << 20
"""Bytes of a stream."""
MAX_LINE = 8 << 20
"""Bytes of one line of a stream."""
KEPT_SECONDS = 60.0
"""How long an unused connection is kept: what a rush of calls opened is not held for ever after it."""


class UpstreamError(Exception):
    """The provider could not be reached, or did not finish what it began. The message is for the client."""

    status = 502
    kind = "upstream_error"


class Unreachable(UpstreamError):
    """No connection."""

    kind = "upstream_unreachable"


class TooSlow(UpstreamError):
    """Connected, but silent for too long."""

    status = 504
    kind = "upstream_timeout"


class Broken(UpstreamError):
    """The connection ended early, or what came is not HTTP."""

    kind = "upstream_cut"


class TooLarge(UpstreamError):
    """More bytes than any answer needs."""

    kind = "upstream_too_large"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to a provider. Headers carry a secret and are never shown."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Answer(Protocol):
    """An answer whose head has arrived. Close it on every path."""

    status: int
    headers: Mapping[str, str]

    def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises UpstreamError."""

    def blocks(self) -> Iterator[bytes]:
        """The body as it arrives, whole lines only (with their ends), then what is left. Raises UpstreamError."""

    def abort(self) -> None:
        """End the connection now; whoever reads from it gets Broken. May be called while another thread reads."""

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else drop it. May be called twice."""


class Upstream(Protocol):
    """Something that answers requests."""

    def send(self, request: Request) -> Answer:
        """Send, and wait for the head of the answer. Raises UpstreamError."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: to connect, for the first byte, and for each next one."""

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 120.0


class HttpUpstream:
    """One provider's kept connections, for the life of the process. Environment proxies are ignored.

    The standard library's client, because urllib3 above it costs two and a half times as much per call.
    """

    def __init__(self, name: str, patience: Patience, *, connections: int = 512) -> None:
        self.name = name
        self.patience = patience
        self._most = connections
        self._idle: dict[_Place, deque[_Kept]] = {}
        self._tls: ssl.SSLContext | None = None
        weakref.finalize(self, _close_all, self._idle)

    def send(self, request: Request) -> Answer:
        place, path = _split(request.url)
        kept = self._kept(place)
        if kept is not None:
            started = time.monotonic()
            try:
                return self._send(request, place, path, kept)
            except Broken:
                # A kept connection that the provider closed meanwhile fails at once; what took longer may have
                # been read and paid, and is not sent twice.
                if time.monotonic() - started > 1:
                    raise
        return self._send(request, place, path, self._connect(place))

    def _send(
        self, request: Request, place: "_Place", path: str, connection: http.client.HTTPConnection
    ) -> Answer:
        sock = connection.sock
        try:
            sock.settimeout(self.patience.first_byte)
            connection.request("POST", path, request.body, request.headers)
            response = connection.getresponse()
            sock.settimeout(self.patience.idle)
        except TimeoutError as error:
            connection.close()
            raise TooSlow(
                f"{self.name} did not begin to answer within {self.patience.first_byte:g} seconds."
            ) from error
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise Broken(f"{self.name} ended the connection without an answer.") from error
        except BaseException:
            connection.close()
            raise
        return _HttpAnswer(self, place, connection, sock, response)

    def _connect(self, place: "_Place") -> http.client.HTTPConnection:
        if place.secure:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                place.host, place.port, timeout=self.patience.connect, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(place.host, place.port, timeout=self.patience.connect)
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            connection.close()
            raise Unreachable(f"{self.name} cannot be reached right now.") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _kept(self, place: "_Place") -> http.client.HTTPConnection | None:
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

    def keep(self, place: "_Place", connection: http.client.HTTPConnection) -> None:
        """Take back a connection whose answer was read to its end."""
        idle = self._idle.setdefault(place, deque())
        moment = time.monotonic()
        idle.append((connection, moment))
        with contextlib.suppress(IndexError):  # another thread was faster
            while len(idle) > self._most or idle[0][1] < moment - KEPT_SECONDS:
                idle.popleft()[0].close()


class _Place(NamedTuple):
    secure: bool
    host: str
    port: int | None


_Kept = tuple[http.client.HTTPConnection, float]


@lru_cache(maxsize=256)
def _split(url: str) -> tuple[_Place, str]:
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Place(parts.scheme == "https", parts.hostname or "", parts.port), path


def _close_all(idle: dict[_Place, deque[_Kept]]) -> None:
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


class _HttpAnswer:
    def __init__(
        self,
        upstream: HttpUpstream,
        place: _Place,
        connection: http.client.HTTPConnection,
        sock: socket.socket,
        response: http.client.HTTPResponse,
    ) -> None:
        self.name = upstream.name
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers  # type: ignore[assignment]
        self._upstream = upstream
        self._place = place
        self._connection: http.client.HTTPConnection | None = connection
        self._socket = sock  # a connection that will not be kept has let go of it already
        self._response = response
        self._ended = False

    def read(self, limit: int = MAX_BODY) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := self._read1():
            size += len(piece)
            if size > limit:
                raise TooLarge(f"{self.name} sent more than {limit >> 20} MB.")
            pieces.append(piece)
        return b"".join(pieces)

    def blocks(self) -> Iterator[bytes]:
        rest = b""
        size = 0
        while piece := self._read1():
            size += len(piece)
            if size > MAX_STREAM:
                raise TooLarge(f"{self.name} sent more than {MAX_STREAM >> 20} MB.")
            cut = piece.rfind(b"\n") + 1
            if not cut:
                rest += piece
                if len(rest) > MAX_LINE:
                    raise TooLarge(f"{self.name} sent a line of more than {MAX_LINE >> 20} MB.")
                continue
            yield rest + piece[:cut]
            rest = piece[cut:]
        if rest:
            yield rest

    def _read1(self) -> bytes:
        response = self._response
        try:
            piece = response.read1(READ)
        except TimeoutError as error:
            raise TooSlow(f"{self.name} was silent for {self._upstream.patience.idle:g} seconds.") from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise self._incomplete() from error
        if not piece:
            # the client library says nothing of a body that is shorter than announced
            if response.length:
                raise self._incomplete()
            self._ended = True
        return piece

    def _incomplete(self) -> Broken:
        return Broken(f"{self.name} ended the connection before its answer was complete.")

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._response.close()
        if self._ended and connection.sock is not None:
            self._upstream.keep(self._place, connection)
        else:
            connection.close()
