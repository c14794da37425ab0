"""An HTTP proxy on loopback: CONNECT tunnels and absolute URLs of any host are forwarded to one local port."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FakeProxy:
    """`requests`: each request line with its Proxy-Authorization. `refuses`: respond with this status instead."""

    port: int = 0
    refuses: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://someone:p%40ss@127.0.0.1:{self.port}"


@contextmanager
def proxy_to(target: int) -> Iterator[FakeProxy]:
    """Run a proxy that forwards to a local port."""
    fake = FakeProxy()

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self._forward(None)

        def do_POST(self) -> None:
            head = f"{self.requestline}\r\n{self.headers}".replace("\n", "\r\n").replace("\r\r", "\r")
            self._forward(head.encode() + self.rfile.read(int(self.headers["Content-Length"])))

        def _forward(self, request: bytes | None) -> None:
            fake.requests.append((self.requestline, self.headers["Proxy-Authorization"]))
            self.close_connection = True
            if fake.refuses:
                self.send_error(fake.refuses)
                return
            with socket.create_connection(("127.0.0.1", target)) as upstream:
                if request is None:
                    self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    upstream.sendall(request)
                threading.Thread(target=_copy, args=(upstream, self.connection), daemon=True).start()
                _copy(self.connection, upstream)

        def log_message(self, format: str, *args: object) -> None:
            """Disable logging."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
