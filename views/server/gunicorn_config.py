"""gunicorn configuration: worker class, client timeouts, buffering of request bodies. The parent process reads this file and
must not import Stoa: gevent patches each worker before the worker loads the application and psycopg."""

import ctypes
import gc
import io
import ipaddress
import math
import os
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gevent
import gevent.socket
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.workers.ggevent import GeventWorker

MEMORY_RELEASE_SECONDS = 30
TIMEOUT_CHECK_SECONDS = 0.25
"""Interval of the check for clients past their deadline."""
MIN_BYTES_PER_SECOND = 4096
"""Minimum rate at which clients must send bodies and read responses, after the first seconds."""
WRITE_TIMEOUT = 60.0
"""Seconds a blocked write may wait for the client; also the grace period of the minimum rate for responses."""
STREAM_WRITE_TIMEOUT = 300.0
"""The same for a stream: after it the client counts as disconnected (models/gateway/stream.py)."""
MAX_BODY_BYTES = 26 << 20
"""Largest body that the application reads (views/web/fast_path.py); it rejects larger ones unread."""
SMALL_BYTES = 16 << 10
"""Bodies up to this size are not counted while received: 32 MB if all connections send one."""
MEMORY_BYTES = 256 << 10
"""Bytes of a body buffered in memory; larger bodies are buffered in a file."""
MAX_BUFFERED_BYTES = 512 << 20
"""Total bytes of buffered bodies per worker."""
SPARE_FILES = 200
"""File descriptors reserved for providers, PostgreSQL and files."""


def release_memory() -> None:
    """Return free memory to the system: glibc by itself returns only the top of its heap, so that the memory of 500
    concurrent streams would stay with the worker. Takes 0.1 to 6 ms; no-op without glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(frozen=True)
class ClientTimeouts:
    """Client timeouts in seconds, and connection limits of a worker."""

    header: float
    """From the connection, or the first byte of a later request, to the end of the request head."""
    body: float
    """Without a byte of a body; also the grace period of the minimum rate."""
    connections: int
    """Limit of the worker; above it, the slowest waiting clients are disconnected."""
    per_address: int | None
    """Limit per client address; None behind a proxy."""


class ClientConnection(gevent.socket.socket):  # type: ignore[name-defined]
    """A client connection with timeouts. A slow request receives 408, unless a response has begun, and the connection is
    closed; so is a connection whose client does not read the response."""

    def __init__(self, client: Any, timeouts: ClientTimeouts, address: str) -> None:
        super().__init__(client.family, client.type, client.proto, client.detach())
        self.address = address
        self.waits = False
        """Whether the worker is currently waiting for the client."""
        self.since = time.monotonic()
        """Start of the current wait (monotonic seconds)."""
        self.deadline = math.inf
        """End of the current wait (monotonic seconds)."""
        self._timeouts = timeouts
        self._phase = "idle"
        self._limit = self.since + timeouts.header
        self._received = self._sent = 0
        self._streams = self._writes = self._upgraded = False
        self._evicted = False
        self._head = b""

    def expect_request(self, seconds: float) -> None:
        """Wait for the next request for `seconds`; the first request of a connection has the header timeout."""
        self.since = time.monotonic()
        if self._received:
            self._limit = self.since + seconds
        self._phase = "idle"

    def expect_body(self) -> None:
        """The request head is complete."""
        self._phase = "body"
        self.since = time.monotonic()
        self._received, self._sent = 1, 0

    def upgrade(self) -> None:
        """From now on the connection has another protocol, with timeouts of its own, and is not disconnected in favour of others."""
        self._phase = "response"
        self._streams = self._upgraded = True

    def evict(self) -> None:
        """Disconnect the client."""
        self._evicted, self.waits = True, False
        with suppress(OSError):
            both = self._writes or self._phase == "response"
            self._sock.shutdown(socket.SHUT_RDWR if both else socket.SHUT_RD)

    def recv(self, *args: Any) -> Any:
        """Received data; empty at the end of the connection and after an eviction."""
        data = super().recv(*args)
        if not data:
            if self._evicted:
                self._send_timeout()
        elif self._phase == "idle":
            self._phase = "head"
            self.since = time.monotonic()
            self._limit = self.since + self._timeouts.header
        self._received += len(data)
        return data

    def sendall(self, data: Any, *args: Any) -> None:
        """Send all data. Delays a response head with Content-Length, to send it together with the body."""
        head, self._head = self._head, b""
        if head:
            if len(data) <= SMALL_BYTES:
                data = head + data
            else:
                super().sendall(head, *args)
        elif self._phase != "response" and data[-4:] == b"\r\n\r\n" and b"\r\nContent-Length: " in data:
            self._head = data
            return
        if self._phase != "response":
            self._begin_response(data)
        if len(data) <= SMALL_BYTES:
            # usually sends everything; gevent's sendall loop would cost as much as building the response
            try:
                sent = self._sock.send(data, *args)
            except BlockingIOError:
                sent = 0
            self._sent += sent
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        super().sendall(data, *args)

    def sendfile(self, *args: Any, **options: Any) -> Any:
        """Send a file after the delayed response head."""
        self.flush()
        return super().sendfile(*args, **options)

    @property
    def unsent(self) -> bool:
        """Whether a response head is delayed."""
        return bool(self._head)

    def flush(self) -> None:
        """Send a delayed response head."""
        head, self._head = self._head, b""
        if head:
            super().sendall(head)

    def send(self, data: Any, *args: Any, **options: Any) -> int:
        """Send part of a response. Raises BrokenPipeError if the client reads too slowly."""
        if self._phase != "response":
            self._begin_response(data)
        sent: int = super().send(data, *args, **options)
        self._sent += sent
        return sent

    def _begin_response(self, data: Any) -> None:
        head = bytes(data[:2048])
        if not head.startswith(b"HTTP/1.1 1"):
            self._phase = "response"
            self.since = time.monotonic()
            self._streams = b"text/event-stream" in head

    def _wait(self, watcher: Any, timeout_exc: Any = None) -> None:
        # No timer per wait: it would cost more than the rest of this class. `ConnectionTable.evict_expired` polls.
        self._writes = watcher is self._write_event
        self.deadline = self._deadline(self._writes, time.monotonic())
        self.waits = not (self._evicted or self._streams)
        try:
            super()._wait(watcher)
        finally:
            self.deadline = math.inf
            self.waits = False

    def _deadline(self, writing: bool, now: float) -> float:
        if self._upgraded:
            return math.inf
        if writing:
            if self._streams:
                return now + STREAM_WRITE_TIMEOUT
            return min(now, self.since + self._sent / MIN_BYTES_PER_SECOND) + WRITE_TIMEOUT
        if self._phase in ("idle", "head"):
            return self._limit
        return min(now, self.since + self._received / MIN_BYTES_PER_SECOND) + self._timeouts.body

    def _send_timeout(self) -> None:
        if self._phase in ("head", "body"):
            with suppress(OSError):
                self._sock.send(
                    _error("408 Request Timeout", "The request was sent too slowly.", "request_timeout")
                )
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def _error(status: str, message: str, code: str) -> bytes:
    body = (
        f'{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{code}"}},'
        f'"message":"{message}"}}'
    )
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Retry-After: 5\r\nConnection: close\r\n\r\n{body}"
    ).encode()


class ConnectionTable:
    """The connections of a worker. At a limit, in total or per address, the clients that the worker has waited for longest are
    disconnected in favour of new ones."""

    def __init__(self, timeouts: ClientTimeouts) -> None:
        self._timeouts = timeouts
        self._all: set[ClientConnection] = set()
        self._by_address: dict[str, set[ClientConnection]] = {}

    def add(self, connection: ClientConnection) -> bool:
        """Add a connection; False if its address is at the limit and none can be evicted."""
        if len(self._all) >= self._timeouts.connections:
            _evict_slowest(self._all)
        peers = self._by_address.setdefault(connection.address, set())
        limit = self._timeouts.per_address
        if limit is not None and len(peers) >= limit and not _evict_slowest(peers):
            return False
        self._all.add(connection)
        peers.add(connection)
        return True

    def evict_expired(self) -> None:
        """Disconnect clients past their deadline. Called several times per second."""
        now = time.monotonic()
        for connection in [each for each in self._all if each.deadline < now]:
            connection.evict()

    def remove(self, connection: ClientConnection) -> None:
        """Remove a closed connection."""
        self._all.discard(connection)
        peers = self._by_address.get(connection.address, set())
        peers.discard(connection)
        if not peers:
            self._by_address.pop(connection.address, None)


def _network(addr: Any) -> str:
    """The IPv4 address, or the /64 network of an IPv6 address."""
    if not isinstance(addr, tuple):
        return ""
    address = ipaddress.ip_address(addr[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _evict_slowest(connections: Collection[ClientConnection]) -> bool:
    # several at a time: scanning all connections for each new one would let an attacker cause quadratic work
    waiting = sorted((each for each in connections if each.waits), key=lambda each: each.since)
    for connection in waiting[: max(1, len(connections) // 20)]:
        connection.evict()
    return bool(waiting)


class SmallBody(io.BytesIO):
    """A small body, completely received, for `wsgi.input`."""

    failed = False


class ReceivedBody:
    """A body, completely received, for `wsgi.input`. `failed` makes gunicorn close the connection after this request."""

    def __init__(self, file: IO[bytes], *, failed: bool) -> None:
        self.failed = failed
        self.read, self.readline, self.readlines = file.read, file.readline, file.readlines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


class BrokenBody:
    """A body with invalid framing: reading it raises the error, so that the application formats the response."""

    failed = True

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, *size: Any) -> Any:
        """Raise the error."""
        raise self._error

    readline = readlines = __iter__ = read


class StoaWorker(GeventWorker):
    """gevent worker that enforces client timeouts and buffers request bodies, so slow clients do not occupy the application.

    On shutdown it closes idle keep-alive connections immediately. Streams still open shortly before the graceful timeout
    are ended with an error event and billed for what was delivered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.idle: dict[Any, Any] = {}
        self.received = 0

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection until it is closed."""
        connection = ClientConnection(client, self.timeouts, _network(addr))
        if not self.connection_table.add(connection):
            with suppress(OSError), connection:
                message = "Too many connections from your address are open."
                connection._sock.send(_error("429 Too Many Requests", message, "too_many_connections"))
            return
        gevent.getcurrent().connection = connection
        try:
            super().handle(listener, connection, addr)
        finally:
            self.connection_table.remove(connection)

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for a request; ends silently when the worker shuts down."""
        greenlet = gevent.getcurrent()
        greenlet.connection.expect_request(self.cfg.keepalive)
        with gevent.Timeout(None, False) as timeout:
            self.idle[greenlet] = timeout
            try:
                yield
            finally:
                del self.idle[greenlet]
        greenlet.connection.expect_body()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Receive the request body, call the application, and send the whole response."""
        try:
            self._handle_request(listener_name, req, sock, addr)
        finally:
            if sock.unsent:
                with suppress(OSError):  # the client may be gone
                    sock.flush()

    def _handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        reader = req.body.reader
        length = reader.length if isinstance(reader, LengthReader) else None
        if length == 0 or (length or 0) > MAX_BODY_BYTES:
            super().handle_request(listener_name, req, sock, addr)
            return
        if req._expected_100_continue:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            req._expected_100_continue = False
        if length is not None and length <= SMALL_BYTES:
            whole = req.body.read(length)
            if len(whole) < length:
                raise StopIteration  # the client disconnected or was too slow
            req.body = SmallBody(whole)
            super().handle_request(listener_name, req, sock, addr)
            req.body.seek(length)
            return
        with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
            try:
                req.body = self._receive(req.body, length, file, sock)
                super().handle_request(listener_name, req, sock, addr)
            finally:
                self.received -= file.seek(0, os.SEEK_END)
                # gunicorn discards unread data from it before the next request
                req.body = ReceivedBody(io.BytesIO(), failed=req.body.failed)

    def _receive(
        self, body: Any, length: int | None, file: IO[bytes], sock: Any
    ) -> "ReceivedBody | BrokenBody":
        size = 0
        try:
            while size <= MAX_BODY_BYTES and (chunk := body.read(MEMORY_BYTES)):
                size += file.write(chunk)
                self.received += len(chunk)
                if self.received > MAX_BUFFERED_BYTES:
                    sock.sendall(
                        _error("503 Service Unavailable", "Overloaded. Try again in a moment.", "overloaded")
                    )
                    raise StopIteration
        except ParseException as error:
            return BrokenBody(error)
        if length is not None and size < length:
            raise StopIteration  # the client disconnected or was too slow
        file.seek(0)
        return ReceivedBody(file, failed=size > MAX_BODY_BYTES)

    def run(self) -> None:
        """Serve until told to stop."""
        settings = self.wsgi.extensions["settings"]
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
        self.timeouts = ClientTimeouts(
            header=settings.stoa_header_timeout,
            body=settings.stoa_body_timeout,
            connections=min(self.worker_connections, max(files, SPARE_FILES)) * 9 // 10,
            per_address=settings.connections_per_address,
        )
        self.connection_table = ConnectionTable(self.timeouts)
        gevent.spawn(self._close_idle)
        gevent.spawn(self._release_memory)
        gevent.spawn(self._evict_expired)
        self.wsgi.extensions["turns"].start()
        super().run()
        self.wsgi.extensions["turns"].close()
        self.wsgi.extensions["gateway"].close()

    def _evict_expired(self) -> None:
        while True:
            gevent.sleep(TIMEOUT_CHECK_SECONDS)
            self.connection_table.evict_expired()

    def _release_memory(self) -> None:
        while self.alive:
            gevent.sleep(MEMORY_RELEASE_SECONDS)
            release_memory()

    def _close_idle(self) -> None:
        while self.alive:
            gevent.sleep(0.25)
        stream_deadline = time.monotonic() + self.cfg.graceful_timeout - 5
        while True:
            self.wsgi.extensions["response_sockets"].close_idle()
            for greenlet, timeout in list(self.idle.items()):
                greenlet.kill(timeout, block=False)
            if time.monotonic() > stream_deadline:
                self.wsgi.extensions["turns"].close()
                self.wsgi.extensions["gateway"].close()
            gevent.sleep(0.25)


def new_metrics_dir(parent: str) -> str:
    """Create a directory for this server's metrics, named by its pid. Removes those of dead servers."""
    for old in Path(parent).glob("stoa-metrics-*"):
        pid = old.name.split("-")[2]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"stoa-metrics-{os.getpid()}-", dir=parent)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def post_fork(arbiter: Any, worker: Any) -> None:
    """Raise the file descriptor limit of the worker to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def child_exit(arbiter: Any, worker: Any) -> None:
    """Drop the live gauges of the dead worker; its counters remain in the sums."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(arbiter: Any) -> None:
    """Delete the metrics directory."""
    shutil.rmtree(metrics_dir, ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    """Route gunicorn's log through the application's, and exempt loaded objects from garbage collection."""
    from views.web import logs

    logs.show_progress()
    logs.use_root_handlers("gunicorn.error")
    # Loaded modules stay: the collector need not traverse them while calls wait.
    gc.collect()
    gc.freeze()
    release_memory()


wsgi_app = "app:create_app(migrations=False)"
worker_class = StoaWorker
worker_connections = 2000
backlog = 2048
keepalive = 65  # seconds; longer than the 60 s of most proxies and clients
timeout = 60  # seconds without a heartbeat after which a worker is killed
graceful_timeout = 20  # seconds for calls in flight at shutdown
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  (the heartbeat file)
# Workers aggregate metrics in files; the directory must be set before they import the client library.
metrics_dir = new_metrics_dir(worker_tmp_dir or tempfile.gettempdir())
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={metrics_dir}"]
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 16380
accesslog = None
loglevel = "warning"
control_socket_disable = True
proc_name = "stoa"
