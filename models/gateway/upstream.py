"""Reaching a provider over HTTP: connections kept alive, every wait and every size bounded, nothing followed.

The relay knows only `Upstream` and `Answer`; what speaks HTTP below them may be exchanged.
"""

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import urllib3
from urllib3.exceptions import ConnectTimeoutError as _ConnectTimeout
from urllib3.exceptions import HTTPError, IncompleteRead, NewConnectionError, ProtocolError
from urllib3.exceptions import ReadTimeoutError as _ReadTimeout
from urllib3.response import BaseHTTPResponse

READ = 65_536
MAX_BODY = 32 << 20
"""Bytes of an answer that is not streamed."""
MAX_STREAM = 128 << 20
"""Bytes of a stream."""
MAX_LINE = 8 << 20
"""Bytes of one line of a stream."""


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
    """One provider's connection pool, for the life of the process. Environment proxies are ignored."""

    def __init__(self, name: str, patience: Patience, *, connections: int = 512) -> None:
        self.name = name
        self.patience = patience
        self._pools = urllib3.PoolManager(
            num_pools=4,
            maxsize=connections,
            block=False,
            retries=False,
            timeout=urllib3.Timeout(connect=patience.connect, read=patience.first_byte),
        )

    def send(self, request: Request) -> Answer:
        started = time.monotonic()
        try:
            return self._send(request)
        except Broken:
            # A kept connection that the provider closed meanwhile fails at once; what took longer may have
            # been read and paid, and is not sent twice.
            if time.monotonic() - started > 1:
                raise
            return self._send(request)

    def _send(self, request: Request) -> Answer:
        try:
            response = self._pools.request(
                "POST",
                request.url,
                body=request.body,
                headers=request.headers,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (_ConnectTimeout, NewConnectionError) as error:
            raise Unreachable(f"{self.name} cannot be reached right now.") from error
        except _ReadTimeout as error:
            raise TooSlow(
                f"{self.name} did not begin to answer within {self.patience.first_byte:g} seconds."
            ) from error
        except (ProtocolError, http.client.HTTPException, OSError) as error:
            raise Broken(f"{self.name} ended the connection without an answer.") from error
        except HTTPError as error:
            raise Unreachable(f"{self.name} cannot be reached right now.") from error
        return _HttpAnswer(self.name, response, self.patience.idle)


class _HttpAnswer:
    def __init__(self, name: str, response: BaseHTTPResponse, idle: float) -> None:
        self.name = name
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._idle = idle
        self._ended = False
        self._socket = _socket_of(response)
        if self._socket is not None:
            self._socket.settimeout(idle)

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
        try:
            piece = self._response.read1(READ)
        except (_ReadTimeout, TimeoutError) as error:
            raise TooSlow(f"{self.name} was silent for {self._idle:g} seconds.") from error
        except (IncompleteRead, HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise Broken(f"{self.name} ended the connection before its answer was complete.") from error
        self._ended = not piece
        return piece or b""

    def abort(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._ended:
            self._response.release_conn()
        else:
            self._response.close()


def _socket_of(response: BaseHTTPResponse) -> socket.socket | None:
    """The socket an answer comes from. A connection that will not be kept has let go of it already."""
    found = getattr(response.connection, "sock", None)
    if found is None:
        original = getattr(response, "_original_response", None)
        found = getattr(getattr(getattr(original, "fp", None), "raw", None), "_sock", None)
    return found
