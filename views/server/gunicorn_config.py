"""gunicorn's configuration. Read as a file by the parent of the web workers, which must import nothing of Stoa:
gevent patches each worker before the application, and psycopg with it, is loaded there."""

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

GIVE_BACK_SECONDS = 30
LOOK_SECONDS = 0.25
"""How often clients are looked for that are waited for beyond their time."""
SLOWEST = 4096
"""Bytes a second that a body must come with, and an answer be taken with, after their first seconds."""
TAKEN_WITHIN = 60.0
"""Seconds in which a client must take something of an answer, and the first seconds of the answer."""
STREAM_TAKEN_WITHIN = 300.0
"""The same for a stream: after so long its client counts as gone (models/gateway/stream.py)."""
LARGEST_BODY = 20 << 20
"""Bytes of a body that the application would read (views/web/fast_path.py); it refuses larger ones unread."""
SMALL = 16 << 10
"""Bytes of a body that is not counted while it comes: 32 MB if all connections send so much."""
IN_MEMORY = 256 << 10
"""Bytes of a body that wait in memory for its rest; more waits in a file."""
MOST_RECEIVED = 512 << 20
"""Bytes of bodies that one worker keeps meanwhile."""
SPARE_FILES = 200
"""Descriptors a worker needs beside its clients' connections: providers, PostgreSQL, files."""


def give_back() -> None:
    """Return free memory to the system. glibc by itself returns only the end of its heap, so that what 500 streams at
    once needed would stay with the worker; 0.1 to 6 ms. Elsewhere nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(frozen=True)
class ClientTimeouts:
    """How long a worker waits for its clients, in seconds, and how many it bears."""

    header: float
    """From the first byte of a request, or from the connection, to the end of its head."""
    body: float
    """Without a byte of a body; and before `SLOWEST` counts."""
    connections: int
    """From here on those who keep a worker waiting longest make room."""
    per_address: int | None
    """Connections of one address; None where all come from a proxy."""


class ClientConnection(gevent.socket.socket):  # type: ignore[name-defined]
    """A client's connection. Nobody is waited for longer than his time: a head or a body that comes too slowly is
    answered with 408 where nothing else was, and the connection ends; so does one whose answer is not taken."""

    def __init__(self, client: Any, patience: ClientTimeouts, address: str) -> None:
        super().__init__(client.family, client.type, client.proto, client.detach())
        self.address = address
        self.waits = False
        """Whether this worker waits for the client now, and not the client for it."""
        self.since = time.monotonic()
        """Since when what is waited for has been due."""
        self.deadline = math.inf
        """Until when the client is waited for now."""
        self._patience = patience
        self._phase = "idle"
        self._limit = self.since + patience.header
        self._received = self._sent = 0
        self._streams = self._writes = False
        self._evicted = False
        self._head = b""

    def expect_request(self, seconds: float) -> None:
        """A request may come, or none, for so long. The first one of a connection has less."""
        self.since = time.monotonic()
        if self._received:
            self._limit = self.since + seconds
        self._phase = "idle"

    def expect_body(self) -> None:
        """The head of a request is complete."""
        self._phase = "body"
        self.since = time.monotonic()
        self._received, self._sent = 1, 0

    def evict(self) -> None:
        """Let the client make room for others."""
        self._evicted, self.waits = True, False
        with suppress(OSError):
            both = self._writes or self._phase == "answer"
            self._sock.shutdown(socket.SHUT_RDWR if both else socket.SHUT_RD)

    def recv(self, *args: Any) -> Any:
        """What has come; nothing, as at the end of the connection, when it came too slowly."""
        data = super().recv(*args)
        if not data:
            if self._evicted:
                self._refuse()
        elif self._phase == "idle":
            self._phase = "head"
            self.since = time.monotonic()
            self._limit = self.since + self._patience.header
        self._received += len(data)
        return data

    def sendall(self, data: Any, *args: Any) -> None:
        """Send all of it. The head of an answer of known length waits for the body, so that both go in one piece."""
        head, self._head = self._head, b""
        if head:
            if len(data) <= SMALL:
                data = head + data
            else:
                super().sendall(head, *args)
        elif self._phase != "answer" and data[-4:] == b"\r\n\r\n" and b"\r\nContent-Length: " in data:
            self._head = data
            return
        if self._phase != "answer":
            self._begin_answer(data)
        if len(data) <= SMALL:
            # it mostly leaves at once, and gevent's own loop costs as much as making it
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
        """Send a file, after the head of its answer."""
        self.flush()
        return super().sendfile(*args, **options)

    @property
    def unsent(self) -> bool:
        """Whether the head of an answer waits for its body."""
        return bool(self._head)

    def flush(self) -> None:
        """Send a head that no body followed."""
        head, self._head = self._head, b""
        if head:
            super().sendall(head)

    def send(self, data: Any, *args: Any, **options: Any) -> int:
        """Send some of an answer. Raises BrokenPipeError when the client takes it too slowly."""
        if self._phase != "answer":
            self._begin_answer(data)
        sent: int = super().send(data, *args, **options)
        self._sent += sent
        return sent

    def _begin_answer(self, data: Any) -> None:
        head = bytes(data[:2048])
        if not head.startswith(b"HTTP/1.1 1"):
            self._phase = "answer"
            self.since = time.monotonic()
            self._streams = b"text/event-stream" in head

    def _wait(self, watcher: Any, timeout_exc: Any = None) -> None:
        # No timer of its own: one for each wait costs a call more than all else here. `ConnectionTable.dismiss_late` looks.
        self._writes = watcher is self._write_event
        self.deadline = self._until(self._writes, time.monotonic())
        self.waits = not (self._evicted or self._streams)
        try:
            super()._wait(watcher)
        finally:
            self.deadline = math.inf
            self.waits = False

    def _until(self, writing: bool, now: float) -> float:
        if writing:
            if self._streams:
                return now + STREAM_TAKEN_WITHIN
            return min(now, self.since + self._sent / SLOWEST) + TAKEN_WITHIN
        if self._phase in ("idle", "head"):
            return self._limit
        return min(now, self.since + self._received / SLOWEST) + self._patience.body

    def _refuse(self) -> None:
        if self._phase in ("head", "body"):
            with suppress(OSError):
                self._sock.send(
                    _answer("408 Request Timeout", "The request came too slowly.", "request_timeout")
                )
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def _answer(status: str, message: str, code: str) -> bytes:
    body = (
        f'{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{code}"}},'
        f'"message":"{message}"}}'
    )
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Retry-After: 5\r\nConnection: close\r\n\r\n{body}"
    ).encode()


class ConnectionTable:
    """The connections of a worker. Where there are too many, of all or of one address, those make room that have kept it
    waiting longest: a new client finds a place while anybody dawdles."""

    def __init__(self, patience: ClientTimeouts) -> None:
        self._patience = patience
        self._all: set[ClientConnection] = set()
        self._of: dict[str, set[ClientConnection]] = {}

    def enter(self, connection: ClientConnection) -> bool:
        """Whether the connection may stay."""
        if len(self._all) >= self._patience.connections:
            _make_room(self._all)
        peers = self._of.setdefault(connection.address, set())
        most = self._patience.per_address
        if most is not None and len(peers) >= most and not _make_room(peers):
            return False
        self._all.add(connection)
        peers.add(connection)
        return True

    def dismiss_late(self) -> None:
        """End what is waited for beyond its time. Called several times a second."""
        now = time.monotonic()
        for connection in [each for each in self._all if each.deadline < now]:
            connection.evict()

    def leave(self, connection: ClientConnection) -> None:
        """The connection has ended."""
        self._all.discard(connection)
        peers = self._of.get(connection.address, set())
        peers.discard(connection)
        if not peers:
            self._of.pop(connection.address, None)


def _network(addr: Any) -> str:
    """Whose connection it is: an IPv4 address, or the /64 of an IPv6 address."""
    if not isinstance(addr, tuple):
        return ""
    address = ipaddress.ip_address(addr[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _make_room(among: Collection[ClientConnection]) -> bool:
    # some at once: looking through all for each newcomer would be work that an attacker chooses
    waiting = sorted((each for each in among if each.waits), key=lambda each: each.since)
    for connection in waiting[: max(1, len(among) // 20)]:
        connection.evict()
    return bool(waiting)


class SmallBody(io.BytesIO):
    """A small body that has come, for `wsgi.input`."""

    failed = False


class ReceivedBody:
    """A body that has come, for `wsgi.input`. `failed` tells gunicorn that the connection ends with this request."""

    def __init__(self, file: IO[bytes], *, failed: bool) -> None:
        self.failed = failed
        self.read, self.readline, self.readlines = file.read, file.readline, file.readlines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


class BrokenBody:
    """A body that broke its own framing: whoever reads it is told so, and words the answer."""

    failed = True

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, *size: Any) -> Any:
        """Raises the error."""
        raise self._error

    readline = readlines = __iter__ = read


class StoaWorker(GeventWorker):
    """Waits for no client longer than its time, and calls the application only with the whole request, so that a slow
    client holds nothing of it.

    Closes connections that only wait for their next request as soon as it is told to stop, so that an idle
    browser does not hold up the end for the whole keep-alive time. Streams that are still on their way shortly
    before the end are stopped, told so, and billed for what was delivered."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.idle: dict[Any, Any] = {}
        self.received = 0

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection to its end."""
        connection = ClientConnection(client, self.patience, _network(addr))
        if not self.crowd.enter(connection):
            with suppress(OSError), connection:
                message = "Too many connections from your address are open."
                connection._sock.send(_answer("429 Too Many Requests", message, "too_many_connections"))
            return
        gevent.getcurrent().connection = connection
        try:
            super().handle(listener, connection, addr)
        finally:
            self.crowd.leave(connection)

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Around the wait for a request; ends silently when the worker's time is over."""
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
        """Receive the request's body, let the application answer, and see that all of the answer leaves."""
        try:
            self._handle_request(listener_name, req, sock, addr)
        finally:
            if sock.unsent:
                with suppress(OSError):  # the client may be gone
                    sock.flush()

    def _handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        reader = req.body.reader
        length = reader.length if isinstance(reader, LengthReader) else None
        if length == 0 or (length or 0) > LARGEST_BODY:
            super().handle_request(listener_name, req, sock, addr)
            return
        if req._expected_100_continue:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            req._expected_100_continue = False
        if length is not None and length <= SMALL:
            whole = req.body.read(length)
            if len(whole) < length:
                raise StopIteration  # the client is gone, or was too slow
            req.body = SmallBody(whole)
            super().handle_request(listener_name, req, sock, addr)
            req.body.seek(length)
            return
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
            try:
                req.body = self._receive(req.body, length, file, sock)
                super().handle_request(listener_name, req, sock, addr)
            finally:
                self.received -= file.seek(0, os.SEEK_END)
                # gunicorn looks there for what nobody read, before the next request
                req.body = ReceivedBody(io.BytesIO(), failed=req.body.failed)

    def _receive(
        self, body: Any, length: int | None, file: IO[bytes], sock: Any
    ) -> "ReceivedBody | BrokenBody":
        size = 0
        try:
            while size <= LARGEST_BODY and (piece := body.read(IN_MEMORY)):
                size += file.write(piece)
                self.received += len(piece)
                if self.received > MOST_RECEIVED:
                    sock.sendall(
                        _answer("503 Service Unavailable", "Too much is being received.", "overloaded")
                    )
                    raise StopIteration
        except ParseException as error:
            return BrokenBody(error)
        if length is not None and size < length:
            raise StopIteration  # the client is gone, or was too slow
        file.seek(0)
        return ReceivedBody(file, failed=size > LARGEST_BODY)

    def run(self) -> None:
        """Serve until told to stop."""
        settings = self.wsgi.extensions["settings"]
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
        self.patience = ClientTimeouts(
            header=settings.stoa_header_timeout,
            body=settings.stoa_body_timeout,
            connections=min(self.worker_connections, max(files, SPARE_FILES)) * 9 // 10,
            per_address=settings.connections_per_address,
        )
        self.crowd = ConnectionTable(self.patience)
        gevent.spawn(self._dismiss_idle)
        gevent.spawn(self._keep_small)
        gevent.spawn(self._dismiss_late)
        super().run()
        self.wsgi.extensions["gateway"].close()

    def _dismiss_late(self) -> None:
        while True:
            gevent.sleep(LOOK_SECONDS)
            self.crowd.dismiss_late()

    def _keep_small(self) -> None:
        while self.alive:
            gevent.sleep(GIVE_BACK_SECONDS)
            give_back()

    def _dismiss_idle(self) -> None:
        while self.alive:
            gevent.sleep(0.25)
        last_call = time.monotonic() + self.cfg.graceful_timeout - 5
        while True:
            for greenlet, timeout in list(self.idle.items()):
                greenlet.kill(timeout, block=False)
            if time.monotonic() > last_call:
                self.wsgi.extensions["gateway"].close()
            gevent.sleep(0.25)


def new_figures(parent: str) -> str:
    """A folder for this server's figures, named by its process. Those of servers that were killed are removed."""
    for old in Path(parent).glob("stoa-metrics-*"):
        number = old.name.split("-")[2]
        if number.isdigit() and not _lives(int(number)):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"stoa-metrics-{os.getpid()}-", dir=parent)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def post_fork(arbiter: Any, worker: Any) -> None:
    """Let each worker hold as many sockets as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def child_exit(arbiter: Any, worker: Any) -> None:
    """What the worker counted stays in the sums; what it had in flight is over."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(arbiter: Any) -> None:
    """The figures end with the server."""
    shutil.rmtree(figures, ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    """Once the application is loaded, log as it does."""
    from views.web import logs

    logs.speak()
    logs.adopt("gunicorn.error")
    # What is loaded stays: the collector need not walk through it while a call waits.
    gc.collect()
    gc.freeze()
    give_back()


wsgi_app = "app:create_app()"
worker_class = StoaWorker
worker_connections = 2000
backlog = 2048
keepalive = 65  # seconds, longer than the minute after which most proxies and clients let go
timeout = 60  # seconds a worker may be stuck without giving way
graceful_timeout = 20  # seconds that calls in flight get to end when the server stops
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  (the heartbeat file)
# Workers add their figures up in files; each must find the folder before it imports the client library.
figures = new_figures(worker_tmp_dir or tempfile.gettempdir())
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={figures}"]
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 16380
accesslog = None
loglevel = "warning"
control_socket_disable = True
proc_name = "stoa"
