"""A bucket: just enough of S3 to keep and give objects by path, on loopback, so that the real client speaks to it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs, urlsplit


class Bucket(ThreadingHTTPServer):
    """`objects` by path, all kept at one moment; `broken` answers every request with 503; while `open` is not set, requests wait."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.objects: dict[str, bytes] = {}
        self.signed: list[str] = []
        self.broken = False
        self.open = Event()
        self.open.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Door(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._refused():
            self.server.objects[self.path] = content
            self._answer(200)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not self._refused() and "list-type=2" in address.query:
            self._list(address.path, parse_qs(address.query).get("prefix", [""])[0])
        elif not self.server.broken:
            found = self.server.objects.get(self.path)
            self._answer(404 if found is None else 200, found or b"")

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if not self._refused():
            keys = re.findall("<Key>(.*?)</Key>", asked)
            for key in keys:
                self.server.objects.pop(f"{urlsplit(self.path).path}/{key}", None)
            gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

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

    def _refused(self) -> bool:
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
        """Quiet."""


@contextmanager
def bucket() -> Iterator[Bucket]:
    server = Bucket()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
