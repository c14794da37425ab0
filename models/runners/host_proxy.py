"""A proxy for sandboxes: tunnels to hosts of an allow-list, such as package registries, and to nowhere else."""

import re
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from models.core.outgoing import FetchPolicy, OutgoingRefused, checked_addresses, policy_of
from models.core.settings import Settings
from models.runners.unix_listener import UnixListener

MAX_HEAD = 16 << 10
HEAD_SECONDS = 10.0
CONNECT_SECONDS = 15.0
IDLE_SECONDS = 120.0
MAX_BYTES = 4 << 30
"""Bytes that pass through one proxy."""
MAX_TOLD = 200
"""Hosts that are told of."""
PORT = 443
_CONNECT = re.compile(rb"CONNECT ([A-Za-z0-9.-]{1,253}):(\d{1,5}) HTTP/1\.[01]\r\n")

OnHost = Callable[[str, bool], None]


class HostProxy:
    """Answers CONNECT on a Unix socket. A host is a name, or `*.` and a name for all below it. `on_host` hears each host that was asked for, and whether it was
    allowed, once each. Addresses that are not public are refused, whatever the list says."""

    def __init__(
        self,
        folder: Path,
        hosts: Sequence[str],
        on_host: OnHost | None,
        settings: Settings,
        *,
        policy: FetchPolicy | None = None,
        port: int = PORT,
    ) -> None:
        self._names = {host.lower().rstrip(".") for host in hosts if not host.startswith("*.")}
        self._below = tuple(host[1:].lower() for host in hosts if host.startswith("*."))
        self._on_host = on_host
        self._policy = policy or policy_of(settings)
        self._port = port
        self._told: set[tuple[str, bool]] = set()
        self._left = MAX_BYTES
        self._lock = threading.Lock()
        self._listener = UnixListener(folder, self._serve)

    @property
    def path(self) -> Path:
        """Where it listens."""
        return self._listener.path

    def close(self) -> None:
        """End all tunnels. Idempotent."""
        self._listener.close()

    def allows(self, host: str) -> bool:
        """Whether a host is on the list."""
        return host in self._names or host.endswith(self._below)

    def _serve(self, peer: socket.socket) -> None:
        peer.settimeout(HEAD_SECONDS)
        head = _head(peer)
        found = _CONNECT.match(head)
        if found is None:
            _answer(peer, 405, "Only CONNECT to an HTTPS host is served here.")
            return
        host, port = found[1].decode().lower().rstrip("."), int(found[2])
        upstream = self._upstream(peer, host, port)
        if upstream is None:
            return
        with upstream:
            peer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            upstream.sendall(head.partition(b"\r\n\r\n")[2])
            self._join(peer, upstream)

    def _upstream(self, peer: socket.socket, host: str, port: int) -> socket.socket | None:
        """A connection to the host, if it is allowed; else the peer is told why not."""
        problem = ""
        addresses: list[str] = []
        if not self.allows(host) or port != self._port:
            problem = f"{host}:{port} is not among the hosts that this turn may reach."
        else:
            try:
                addresses = checked_addresses(f"https://{host}:{port}/", self._policy)
            except OutgoingRefused as refused:
                problem = f"{refused}."
        self._tell(host, allowed=not problem)
        if problem:
            _answer(peer, 403, problem)
            return None
        upstream = _connected(addresses, port)
        if upstream is None:
            _answer(peer, 502, f"{host} cannot be reached.")
        return upstream

    def _join(self, peer: socket.socket, upstream: socket.socket) -> None:
        """Copy in both directions until one end closes, nothing moves, or too much has passed."""
        for each in (peer, upstream):
            each.settimeout(IDLE_SECONDS)
        ends = {peer: upstream, upstream: peer}
        while ends:
            ready, _, _ = select.select([*ends], [], [], IDLE_SECONDS)
            if not ready:
                return
            for source in ready:
                data = source.recv(65_536)
                with self._lock:
                    self._left -= len(data)
                    over = self._left < 0
                if over:
                    return
                if data:
                    ends[source].sendall(data)
                    continue
                with suppress(OSError):
                    ends[source].shutdown(socket.SHUT_WR)
                del ends[source]

    def _tell(self, host: str, *, allowed: bool) -> None:
        with self._lock:
            new = (host, allowed) not in self._told and len(self._told) < MAX_TOLD
            if new:
                self._told.add((host, allowed))
        if new and self._on_host is not None:
            self._on_host(host, allowed)


def _head(peer: socket.socket) -> bytes:
    head, until = b"", time.monotonic() + HEAD_SECONDS
    while b"\r\n\r\n" not in head and len(head) < MAX_HEAD and time.monotonic() < until:
        data = peer.recv(4_096)
        if not data:
            break
        head += data
    return head


def _connected(addresses: Sequence[str], port: int) -> socket.socket | None:
    """A connection to the first of the checked addresses that answers."""
    for address in addresses[:4]:
        with suppress(OSError):
            return socket.create_connection((address, port), CONNECT_SECONDS)
    return None


def _answer(peer: socket.socket, status: int, message: str) -> None:
    body = f"{message}\n".encode()
    head = f"HTTP/1.1 {status} Refused\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    peer.sendall(head.encode() + body)
