"""A minimal S3 server on loopback for the real client library."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit


class Bucket(ThreadingHTTPServer):
    """`objects` by path, all with the same time. `broken`: every request gets 503. Requests wait until `open` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.signed: list[str] = []
        self.broken = False
        self.open = Event()
        self.open.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._is_broken():
            self.server.objects[self.path] = content
            self._answer(200)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not self._is_broken() and "list-type=2" in address.query:
            self._list(address.path, parse_qs(address.query).get("prefix", [""])[0])
        elif not self.server.broken:
            found = self.server.objects.get(self.path)
            self._answer(404 if found is None else 200, found or b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if not self._is_broken():
            keys = re.findall("<Key>(.*?)</Key>", body)
            for key in keys:
                self.server.objects.pop(f"{urlsplit(self.path).path}/{key}", None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _list(self, bucket: str, prefix: str) -> None:
        keys = [path.removeprefix(f"{bucket}/") for path in self.server.objects]
        found = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-20T12:00:00.000Z</LastModified><Size>1</Size>"
            "<ETag>e</ETag></Contents>"
            for key in keys
            if key.startswith(prefix)
        )
        self._answer(
            200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        )

    def _is_broken(self) -> bool:
        self.server.open.wait(30)
        self.server.signed.append(self.headers.get("Authorization", ""))
        if self.server.broken:
            self._answer(503)
        return self.server.broken

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"etag"')
        self.send_header("Last-Modified", "Fri, 20 Nov 2026 12:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Disable logging."""


@contextmanager
def bucket() -> Iterator[Bucket]:
    server = Bucket()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
