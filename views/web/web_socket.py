"""WebSockets on the connection of a WSGI request: gunicorn's with gevent workers, or werkzeug's.

The protocol is that of the library `websockets`; this module moves its bytes. A connection is read by the one thread (under gevent:
greenlet) that served the request, and may be written by any. Extensions are not offered: a compressed frame could unpack to any size.
"""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from werkzeug import Response

RECEIVE = 64 << 10
PING_SECONDS = 30.0
"""Seconds of silence after which the client is pinged; after three times as many it is gone. A write may wait as long for the client."""
MESSAGE_SECONDS = 60.0
"""Seconds for the rest of a message that has begun."""
LINGER_SECONDS = 2.0
"""How long the rest of what the client sends is read and ignored before the connection is closed."""
MAX_PENDING = 128 << 20
"""Bytes of unfinished messages in all sockets of a process."""

_quiet = logging.getLogger("stoa.websockets")
_quiet.setLevel(logging.WARNING)
_pending_bytes = 0


class SocketClosed(ConnectionError):
    """The connection is closed, or as good as closed."""


class WebSocket:
    """An accepted connection. Raises SocketClosed if the handshake cannot be answered."""

    def __init__(self, connection: Any, protocol: ServerProtocol) -> None:
        self._connection = connection
        self._protocol = protocol
        self._lock = threading.Lock()
        self._messages: deque[bytes] = deque()
        self._parts: list[bytes] = []
        self._pending = 0
        self._begun = self._heard = time.monotonic()
        connection.settimeout(PING_SECONDS)
        self._flush()

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.state is OPEN

    def send(self, text: bytes) -> None:
        """Send a text message. Raises SocketClosed."""
        with self._lock:
            try:
                self._protocol.send_text(text)
            except InvalidState as error:
                raise SocketClosed from error
            self._flush()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin to close the connection; the reader ends when the client has agreed."""
        with suppress(SocketClosed), self._lock:
            if self.open:
                self._protocol.send_close(code, reason)
                self._flush()

    def receive(self) -> bytes | None:
        """The next message; None after up to PING_SECONDS without one. Raises SocketClosed."""
        if self._messages:
            return self._messages.popleft()
        try:
            data: bytes = self._connection.recv(RECEIVE)
        except TimeoutError:
            self._check_silence()
            return None
        except OSError as error:
            raise SocketClosed from error
        self._heard = time.monotonic()
        with self._lock:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            events = self._protocol.events_received()
            self._flush()
        self._collect(events, len(data))
        if not self._messages and (not data or not self.open):
            raise SocketClosed
        return self._messages.popleft() if self._messages else None

    def end(self) -> None:
        """Release the connection. Called by the reader, last."""
        self._count(-self._pending)
        with suppress(OSError):
            # a client that still sends would not see why the connection is closed
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(LINGER_SECONDS)
            end = time.monotonic() + LINGER_SECONDS
            while time.monotonic() < end and self._connection.recv(RECEIVE):
                pass
        with suppress(OSError):
            self._connection.close()

    def _check_silence(self) -> None:
        now = time.monotonic()
        if now - self._heard >= 3 * PING_SECONDS or (self._pending and now - self._begun >= MESSAGE_SECONDS):
            raise SocketClosed
        with self._lock:
            if self.open:
                self._protocol.send_ping(b"")
                self._flush()

    def _collect(self, frames: Iterable[Any], received: int) -> None:
        """Take the messages that these frames end, and count what is unfinished."""
        ended = False
        for frame in frames:
            if not isinstance(frame, Frame) or frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            self._parts.append(bytes(frame.data))
            if frame.fin:
                self._messages.append(b"".join(self._parts))
                self._parts.clear()
                ended = True
        if ended or not self._pending:
            self._begun = time.monotonic()
        self._count(-self._pending if ended else received)
        if _pending_bytes > MAX_PENDING:
            self.close(CloseCode.TRY_AGAIN_LATER, "The server is overloaded.")
            raise SocketClosed

    def _count(self, size: int) -> None:
        global _pending_bytes
        self._pending += size
        _pending_bytes += size

    def _flush(self) -> None:
        try:
            for data in self._protocol.data_to_send():
                if data:
                    self._connection.sendall(data)
        except OSError as error:
            # a client that reads nothing is gone: the reader ends too
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            raise SocketClosed from error


class UpgradeRefused(Exception):
    """The request is no valid handshake; the message says why."""


def accept(environ: Mapping[str, Any], *, max_size: int, headers: Mapping[str, str]) -> WebSocket | None:
    """Accept the WebSocket that the request asks for, with messages up to `max_size` bytes; None if the server does not hand out its
    connections. `headers` are added to the handshake. Raises UpgradeRefused, SocketClosed."""
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is None:
        return None
    protocol = ServerProtocol(max_size=max_size, logger=_quiet)
    protocol.receive_data(_handshake(environ))
    requests = [event for event in protocol.events_received() if isinstance(event, Request)]
    response = protocol.accept(requests[0]) if requests else None
    if response is None or response.status_code != 101:
        raise UpgradeRefused(str(protocol.handshake_exc or "it cannot be read"))
    for name, value in headers.items():
        response.headers[name] = value
    protocol.send_response(response)
    if hasattr(connection, "upgrade"):
        connection.upgrade()
    return WebSocket(connection, protocol)


def is_upgrade(environ: Mapping[str, Any]) -> bool:
    """Whether the request asks for a WebSocket."""
    return str(environ.get("HTTP_UPGRADE", "")).lower() == "websocket"


def _handshake(environ: Mapping[str, Any]) -> bytes:
    """The part of the request that concerns the protocol, for the library to check."""
    lines = [f"GET / {environ.get('SERVER_PROTOCOL', 'HTTP/1.1')}"]
    names = ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
    for name in names:
        value = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        if value is not None:
            lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


class SocketResponse(Response):
    """The end of a request whose connection was a WebSocket: nothing is sent."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Gunicorn closes the connection."""
        if "gunicorn.socket" in environ:
            raise StopIteration
        return super().__call__(environ, start_response)
